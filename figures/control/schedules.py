"""Laws of what is fine-tuned under g = 0.2, g = 1 and the memoryless schedule, on the line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, ORANGE, SKY, VERMILION, legend_below, subplots

TITLE = "Laws of fine-tuning under three schedules, exact and trained"
DOTS = slice(None, None, 7)
MARGIN = 1e-3  # of the highest density: what is shown of the axis


def draw(numbers: Mapping[str, Any]) -> Figure:
    """One panel a schedule: base, tilt, continuous optimum, chain's optimum, trained network."""
    found = numbers["schedules"]
    axis, base, tilt = (np.array(found[k]) for k in ("axis", "base", "tilt"))
    figure, panels = subplots(1, len(found["laws"]), figsize=(10.0, 3.5), sharey=True)
    shown = np.flatnonzero(np.maximum(base, tilt) > MARGIN * tilt.max())
    for axes, law in zip(panels, found["laws"], strict=True):
        axes.fill_between(axis, tilt, color=SKY, alpha=0.4, lw=0, label="tilt: what is asked for")
        axes.plot(axis, base, color="0.55", lw=1.0, label="base")
        axes.plot(
            axis, law["continuous"], color=BLUE, lw=1.8, label="exact optimum, continuous time"
        )
        axes.plot(
            axis, law["chain"], color=ORANGE, lw=1.4, ls="--", label="exact optimum of the chain"
        )
        axes.plot(
            axis[DOTS], np.array(law["trained"])[DOTS], "o", ms=3.4, mfc="none", mew=1.0,
            color=VERMILION, label="trained network",
        )  # fmt: skip
        axes.set_title(
            f"{_name(law['schedule'])}\nTV to the tilt: exact {law['tv_continuous_to_tilt']:.3f}, "
            f"trained {law['tv_trained_to_tilt']:.3f}",
            fontsize=9,
        )
        axes.set(xlabel="x", xlim=(axis[shown[0]], axis[shown[-1]]), ylim=(0, None))
    panels[0].set_ylabel("density of the samples")
    legend_below(figure, panels[0], 5)
    figure.suptitle(
        f"{found['problem']}, exp({found['scale']:g} r): Adjoint Matching sampled with the "
        "schedule that it was trained with",
        fontsize=10, color=BLACK,
    )  # fmt: skip
    return figure


def _name(schedule: str) -> str:
    return "memoryless, g² = 2η" if schedule == "memoryless" else f"constant {schedule}"


def text(numbers: Mapping[str, Any]) -> str:
    """What the laws say."""
    found = numbers["schedules"]
    rows = "\n".join(
        f"| {_name(law['schedule'])} | {law['tv_continuous_to_tilt']:.3f} | "
        f"{law['tv_chain_to_tilt']:.3f} | {law['tv_trained_to_tilt']:.3f} | "
        f"{law['tv_trained_to_chain']:.3f} | {100 * law['control_error']:.2f} % | "
        f"{law['cpu_seconds']:.0f} |"
        for law in found["laws"]
    )
    worst = max(100 * law["control_error"] for law in found["laws"])
    return f"""
Only under the memoryless schedule is the optimum of the control problem the tilt. Under a constant
g the value at X_0 tilts the law too, and a network that is trained well goes there: control errors
are at most {worst:.2f} %, so the distances to the tilt below are the objective's, not training's.
The base is {found["tv_base_to_tilt"]:.3f} from the tilt (total variation).

| trained with | exact | exact chain | trained | trained to exact chain | control error | CPU-s |
|---|---|---|---|---|---|---|
{rows}

The first three numbers are total variation to the tilt, of the optimum in continuous time, of the
optimum of the chain, and of the network's chain. Kernels are Euler's,
{found["laws"][0]["kernels"].rsplit(", ", 1)[1]}; the memoryless one
({found["laws"][-1]["kernels"].split(", ", 1)[1]}) is moved off its singular end by an offset, which
is why its chain is not quite at the tilt.
"""
