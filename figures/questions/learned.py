"""Does the audit find the tilt that a model was trained towards?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.common.files import read_json
from theory.evaluation.draw import BLUE, VERMILION, subplots

QUESTION = "Does a trained model sample the tilt it was trained towards?"
GIVEN = frozenset({"predicted"})
DOCUMENT = Path("docs/data/audit_loop.json")
ADVICE = "write it with `python -m scaleup loop --write`"


def measure() -> dict[str, Any]:
    """The audits of docs/data/audit_loop.json, in short."""
    return {
        "rows": [
            {
                "title": row["title"],
                "predicted": row["predicted"],
                "trained": f"{row['budget']['steps']} steps of {row['budget']['batch']}, "
                + ("CPU" if row["device"] == "CPU" else "GPU"),
                "base": _short(row["audit"]),
                "control": row["against_control"] and _short(row["against_control"]),
            }
            for row in read_json(DOCUMENT, ADVICE)["rows"]
        ]
    }


def _short(audit: Mapping[str, Any]) -> dict[str, Any]:
    exponential = next(w for w in audit["wrappers"] if w["name"] == "exponential")
    return {
        "tilt": [audit["tilt"][k] for k in ("value", "low", "high")],
        "explained": min(exponential["explained"], 1.0),
        "as_before": audit["conditional"]["p_value"],
        "lost": [audit["excess"]["lost"][k] for k in ("value", "low", "high")],
    }


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = numbers["rows"]
    zero = next(row for row in rows if row["predicted"] == 0)
    pairs = [row for row in rows if row["control"] is not None]
    shares = [row["control"]["tilt"][0] / row["predicted"] for row in pairs]
    reached = " and ".join(
        f"{row['control']['tilt'][0]:.2f} for {row['predicted']:g}" for row in pairs
    )
    lines = "\n".join(
        f"| {row['title']} | {row['trained']} | {row['predicted']:.1f} | {_cells(row['base'])} |"
        for row in rows
    )
    others = "\n".join(
        f"| {row['title']} | {row['predicted']:.1f} | {_cells(row['control'])} |" for row in pairs
    )
    return f"""
The tilt, yes, to {100 * (1 - min(shares)):.0f} % where the method's optimum is exact; but plain
training moves the model too. Weighted flow matching with a = 0, which has no reward in it, is
audited at {zero["base"]["tilt"][0]:.1f}: the built-in base is not the rectified-flow field of its
own samples. Against that run as the base the tilts are {reached}, and given prompt and reward the
rest is as it was.

Brightness of the built-in model's pictures, per unit of reward (one standard deviation within
prompts is 0.07); tilts with 95 % intervals, prompts as clusters; `as before`: p-value of the
conditional test; `lost`: variance beyond what the tilt implies.

| run | trained | predicted | audited tilt | exp(a r) explains | as before | lost, % |
|---|---|---|---|---|---|---|
{lines}

Audited against the a = 0 run, which was trained in the same way and differs in the weights alone:

| run | predicted | audited tilt | exp(a r) explains | as before | lost, % |
|---|---|---|---|---|---|
{others}

So the audit of a tuned model against its base counts two things together: the reward's tilt, and
what training on the model's own samples does by itself. A control run at reward zero tells them
apart, at the cost of one more run. Losses that hold the base's velocity v0 have no such control:
DiffusionNFT's optimum is v0 where the reward is constant, and so is implicit Tilt Matching's; but
what v0 lacks of being the field of its samples stays in their optimum where it is not
(scaleup/audit/loop.py). Theirs were short runs; how much of the rest to the prediction is that and
how much is training that has not arrived was not measured. `python -m scaleup loop` trains and
audits all of it.
"""


def _cells(part: Mapping[str, Any]) -> str:
    value, low, high = part["tilt"]
    lost = [100 * v for v in part["lost"]]
    return (
        f"{value:.2f} [{low:.2f}, {high:.2f}] | {100 * part['explained']:.0f} % | "
        f"p = {part['as_before']:.2g} | {lost[0]:.1f} [{lost[1]:.1f}, {lost[2]:.1f}]"
    )


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Audited against predicted tilt."""
    rows = numbers["rows"]
    figure, axes = subplots(figsize=(8.0, 0.9 + 0.45 * len(rows)))
    y = np.arange(len(rows))[::-1].astype(float)
    for place, row in zip(y, rows, strict=True):
        axes.plot([row["predicted"]] * 2, [place - 0.3, place + 0.3], color="black", lw=2.2)
        for key, shift, color, marker in (("base", 0.1, BLUE, "o"),
                                          ("control", -0.1, VERMILION, "s")):  # fmt: skip
            if row[key] is not None:
                value, low, high = row[key]["tilt"]
                axes.errorbar(
                    value, place + shift, xerr=[[value - low], [high - value]], color=color,
                    marker=marker, ms=5, lw=1.4, capsize=2,
                )  # fmt: skip
    axes.plot([], [], color="black", lw=2.2, label="predicted")
    axes.plot([], [], color=BLUE, marker="o", label="audited against the base, 95 %")
    axes.plot([], [], color=VERMILION, marker="s", label="audited against the run at a = 0")
    axes.set_yticks(y, [row["title"] for row in rows], fontsize=8)
    axes.set(xlabel="effective tilt, per unit of brightness", ylim=(-0.6, len(rows) - 0.4))
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
