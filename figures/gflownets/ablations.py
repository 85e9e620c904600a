"""The paper's six ablations: exact fixed points, and trained runs where these do not differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.evaluation.draw import BLUE, GREEN, VERMILION, legend_below, subplots
from toys.commands.gflownets import share
from toys.experiments.gflownets.ablations import LOSSES, PROBLEM, Plan

TITLE = "Distance to the target by beta, prior strength, steps, second order, gamma and subset"
PANELS = {
    "beta": "beta",
    "eta": "prior strength eta",
    "steps": "steps of the chain",
    "second order": "second-order terms",
    "gamma": "forward-looking gamma (trained)",
    "subset": "transitions of 16 (trained)",
}
COLORS = (VERMILION, BLUE)
Row = Mapping[str, Any]


def draw(numbers: Mapping[str, Any]) -> Figure:
    """A panel an ablation, a bar a loss."""
    found = numbers["ablations"]
    figure, panels = subplots(2, 3, figsize=(11.0, 5.6), sharey=True)
    for axes, (name, title) in zip(panels.ravel(), PANELS.items(), strict=True):
        axes.set_title(title)
        if name in found:
            _panel(axes, found[name])
        else:
            axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
            axes.set_xticks([])
    for axes in panels[:, 0]:
        axes.set_ylabel("to the target (% of base to target)")
    full = max(panels.ravel(), key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    legend_below(figure, full)
    return figure


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    values = list(dict.fromkeys(r["value"] for r in rows))
    losses = [name for name in LOSSES if any(r["loss"] == name for r in rows)]
    width = 0.75 / max(2, len(losses))
    for i, loss in enumerate(losses):
        own = {r["value"]: r for r in rows if r["loss"] == loss}
        place = np.arange(len(values)) + (i - (len(losses) - 1) / 2) * width
        exact = [100 * (own[v]["optimum_to_target_share"] or np.nan) for v in values]
        color = COLORS[list(LOSSES).index(loss)]
        axes.bar(place, exact, width, color=color, label=f"exact fixed point: {loss}")
        trained = [100 * own[v].get("to_target_share", np.nan) for v in values]
        axes.plot(place, trained, "D", color=GREEN, ms=6)
        for x, value in zip(place, exact, strict=True):
            if np.isnan(value):
                axes.text(x, 1, "none\nfound", ha="center", va="bottom", fontsize=7)
    if losses == list(LOSSES):  # the panel that the legend is made of
        axes.plot([], [], "D", color=GREEN, ms=6, label="trained")
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_xticks(range(len(values)), [v.replace("_", " ") for v in values], fontsize=8)


def text(numbers: Mapping[str, Any]) -> str:
    """What each changes."""
    found = numbers["ablations"]
    parts = "\n\n".join(
        (_trained if name in ("gamma", "subset") else _exact)(name, found[name])
        if name in found
        else f"{title.capitalize()}: not run."
        for name, title in PANELS.items()
    )
    return f"""
On {PROBLEM}, by exact fixed points over Gaussian kernels (`theory/gflownet/class_best.py`)
where the loss's own moves; the forward-looking gamma and the share of transitions leave it where it
is, so these are trained, {Plan().budget / 1e6:.0f} million evaluations each. All
numbers are distances (W1) to the target as a share of base to target. The paper's 20-step chain,
SDE-DPM-Solver++, has at first order the ancestral kernels themselves; at second order it is no
Markov chain in x, and is left out.

{parts}
"""


def _exact(name: str, rows: Sequence[Row]) -> str:
    values = list(dict.fromkeys(r["value"] for r in rows))
    losses = list(dict.fromkeys(r["loss"] for r in rows))
    cells = {(r["value"], r["loss"]): r for r in rows}

    def cell(value: str, loss: str) -> str:
        row = cells[value, loss]
        shown = share(row["optimum_to_target_share"]) or "none found"
        if name == "eta" and row["optimum_to_claimed_share"] is not None:
            shown += f" ({share(row['optimum_to_claimed_share'])})"
        return shown

    lines = "\n".join(
        f"| {value} | " + " | ".join(cell(value, loss) for loss in losses) + " |"
        for value in values
    )
    note = (
        " Target: R^(beta/eta) base; in brackets to R^beta base^eta, (10), as is claimed."
        if name == "eta"
        else ""
    )
    return f"""
{PANELS[name].capitalize()}. {_words(name, rows)}{note}

| {name} | {" | ".join(losses)} |
|---|{"---|" * len(losses)}
{lines}
""".strip()


def _words(name: str, rows: Sequence[Row]) -> str:
    """The range of what the printed loss leaves, in a sentence."""
    found = {}
    for loss in dict.fromkeys(r["loss"] for r in rows):
        own = [(r["value"], r["optimum_to_target_share"]) for r in rows if r["loss"] == loss]
        known = [(v, s) for v, s in own if s is not None]
        if known:
            (v0, s0), (v1, s1) = known[0], known[-1]
            found[loss] = f"{loss}: {share(s0)} at {v0}, {share(s1)} at {v1}"
    return "Left of the way: " + "; ".join(found.values()) + "."


def _trained(name: str, rows: Sequence[Row]) -> str:
    lines = "\n".join(
        f"| {r['value'].replace('_', ' ')} | {share(r['law_share'])} | "
        f"{share(r['to_target_share'])} | {share(r['optimum_to_target_share'])} | {r['steps']} | "
        f"{r['cpu_seconds']:.0f} |"
        for r in rows
    )
    best = min(rows, key=lambda r: r["law_share"])
    worst = max(rows, key=lambda r: r["law_share"])
    return f"""
{PANELS[name].capitalize()}. At one budget the law is {share(best["law_share"])} of its shift from
the loss's own fixed point with {best["value"].replace("_", " ")}, {share(worst["law_share"])} with
{worst["value"].replace("_", " ")}; one seed.

| {name} | law to the fixed point | to the target | fixed point to the target | steps | CPU-s |
|---|---|---|---|---|---|
{lines}
""".strip()
