"""Every method at one budget: control error, distance to the tilt, reward, diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from theory.evaluation.draw import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    legend_below,
    subplots,
)
from toys.experiments.control import CONTROL_FLOOR

TITLE = "Control error, distance to the tilt, reward and diversity of every method"
STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VERMILION, "v"), (PURPLE, "D"),
          (SKY, "P"), (BLACK, "X"))  # fmt: skip
NAMES = {
    "adjoint_matching": "Adjoint Matching (lean)",
    "basic_adjoint_matching": "basic Adjoint Matching",
    "discrete_adjoint": "discrete adjoint",
    "continuous_adjoint": "continuous adjoint, 16 steps",
    "continuous_adjoint_32": "continuous adjoint, 32 steps",
    "adjoint_matching_ancestral": "Adjoint Matching, ancestral",
    "ddpo": "DDPO, ancestral",
}
Value = Callable[[Mapping[str, Any]], float]


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Four panels over the problems, a marker a method."""
    rows = numbers["rows"]
    figure, panels = subplots(2, 2, figsize=(10.0, 6.8))
    (control, law), (reward, diversity) = panels
    _markers(control, rows, lambda r: 100 * r["control_error"])
    floor = 100 * CONTROL_FLOOR
    control.axhline(floor, color="0.4", lw=0.9, ls=":")
    control.text(
        0.005, floor, f"floor {floor:g} %", fontsize=7, color="0.4", va="bottom", ha="left",
        transform=control.get_yaxis_transform(),
    )  # fmt: skip
    control.set(yscale="log", ylabel="control error (% of E|u*|²)", title="control")
    control.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    control.yaxis.set_major_formatter("{x:g}")
    control.yaxis.set_minor_formatter(NullFormatter())
    _markers(law, rows, lambda r: 100 * r["trained_to_target_share"])
    _ticks(law, rows, lambda r: 100 * r["optimum_to_target_share"])
    law.set(
        ylabel="to the tilt (% of base to tilt)",
        ylim=(0, None),
        title="law (bars: exact optimum of the method's chain)",
    )
    _markers(reward, rows, lambda r: 100 * r["reward_share"])
    reward.axhline(100, color="0.4", lw=0.9, ls=":")
    reward.set(ylabel="gain (% of the optimum's)", title="mean reward")
    _markers(diversity, rows, lambda r: r["diversity"]["trained"])
    _ticks(diversity, rows, lambda r: r["diversity"]["optimum"])
    diversity.axhline(1, color="0.4", lw=0.9, ls=":")
    diversity.set(ylabel="variance (tilt = 1)",
                  title="diversity (bars: exact optimum of the chain)")  # fmt: skip
    for axes in panels.ravel():
        axes.set_xticks(range(len(_problems(rows))), _problems(rows), rotation=20, fontsize=8)
        axes.set_xlim(-0.5, len(_problems(rows)) - 0.5)
        for i in range(0, len(_problems(rows)), 2):  # bands tell the problems apart
            axes.axvspan(i - 0.5, i + 0.5, color="0.95", lw=0, zorder=0)
    legend_below(figure, control, 4)
    return figure


def _problems(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["problem"] for r in rows))


def _places(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Where a run stands: its problem's number, and beside it its method's."""
    shifts = np.linspace(-0.33, 0.33, len(NAMES))
    problems = _problems(rows)
    return {
        (r["problem"], r["name"]): problems.index(r["problem"])
        + shifts[list(NAMES).index(r["name"])]
        for r in rows
    }


def _markers(axes: Axes, rows: list[dict[str, Any]], value: Value) -> None:
    places = _places(rows)
    for (name, label), (color, marker) in zip(NAMES.items(), STYLES, strict=True):
        own = [r for r in rows if r["name"] == name]
        if own:
            axes.plot(
                [places[r["problem"], name] for r in own], [value(r) for r in own],
                ls="none", marker=marker, ms=5, color=color, label=label,
            )  # fmt: skip


def _ticks(axes: Axes, rows: list[dict[str, Any]], value: Value) -> None:
    places = _places(rows)
    for r in rows:
        x = places[r["problem"], r["name"]]
        axes.plot([x - 0.05, x + 0.05], [value(r)] * 2, color="0.25", lw=1.6, zorder=3)


def text(numbers: Mapping[str, Any]) -> str:
    """What the runs say."""
    rows, budget = numbers["rows"], numbers["budget"]
    names = [n for n in NAMES if any(r["name"] == n for r in rows)]
    kernels = {r["name"]: r["kernels"] for r in rows}
    listed = "; ".join(f"{NAMES[n]}: {kernels[n]}" for n in names)
    control, law, tilt = (
        _table(rows, names, key, digits)
        for key, digits in (("control_error", 2), ("law_share", 1), ("trained_to_target_share", 1))
    )
    totals = "\n".join(_totals(NAMES[n], [r for r in rows if r["name"] == n]) for n in names)
    total = max(r["total_control_error"] - r["control_error"] for r in rows)
    return f"""
Every run has {budget / 1e6:g} million evaluations of a network (forward passes and vector-Jacobian
products at one state, of student, reference and DDPO's value network together) on
{rows[0]["batch"]} rows a step; what a step costs is counted on the method's own code
(`toys/evaluation/cost.py`). Kernels: {listed}.

Control error, sum_k E|u_k - u*_k|^2 as a share of sum_k E|u*_k|^2, per cent, along trajectories of
the exact optimal chain; u is the student's kernels against its own frozen base network. Against
exact base kernels the error is larger by at most {100 * total:.2f} points.

{control}

Law of the samples: distance to the optimum of the method's own chain, per cent of the distance from
base to tilt (W1 on the line, total variation in the plane):

{law}

Distance to the tilt itself, which adds what the chain's finite steps leave (ancestral kernels of 16
steps leave most):

{tilt}

| method | steps | M forward | M vjp | CPU-s a run | gain in reward, % | variance / tilt's |
|---|---|---|---|---|---|---|
{totals}

Ranges are over the problems.
"""


def _table(rows: list[dict[str, Any]], names: list[str], key: str, digits: int) -> str:
    problems = _problems(rows)
    cells = {(r["problem"], r["name"]): f"{100 * r[key]:.{digits}f}" for r in rows}
    lines = [f"| method | {' | '.join(problems)} |", "|---|" + "---|" * len(problems)]
    lines += [
        f"| {NAMES[n]} | " + " | ".join(cells.get((p, n), "") for p in problems) + " |"
        for n in names
    ]
    return "\n".join(lines)


def _totals(label: str, own: list[dict[str, Any]]) -> str:
    spent = own[0]["evaluations"]

    def span(value: Value, form: str) -> str:
        values = [value(r) for r in own]
        return f"{min(values):{form}} to {max(values):{form}}"

    return (
        f"| {label} | {own[0]['steps']} | "
        f"{spent['forward'] / 1e6:.2f} | {spent['vjp'] / 1e6:.2f} | "
        f"{span(lambda r: r['cpu_seconds'], '.0f')} | "
        f"{span(lambda r: 100 * r['reward_share'], '.1f')} | "
        f"{span(lambda r: r['diversity']['trained'], '.2f')} |"
    )
