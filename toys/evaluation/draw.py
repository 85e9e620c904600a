"""Pictures of trained networks against exact laws: histogram panels, and the error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.common.tolerances import TRAINED_SHARE
from theory.evaluation.draw import (
    BLACK,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    legend_below,
    subplots,
)
from theory.laws.distances import Array

Curves = Mapping[str, Any]
COLUMNS = 3
BINS = 60


def panels(problem: str, results: Sequence[Mapping[str, Any]], curves: Sequence[Curves]) -> Figure:
    """One panel a run: what it samples, over its optimum's exact law and its claimed target."""
    columns = min(COLUMNS, len(results))
    rows = -(-len(results) // columns)
    figure, grid = subplots(
        rows, columns, figsize=(4.0 * columns, 3.0 * rows + 0.6),
        squeeze=False, sharey=results[0]["dim"] == 2,
    )  # fmt: skip
    for axes, result, curve in zip(grid.flat, results, curves, strict=False):
        draw_panel(axes, result, curve)
    for axes in grid.flat[len(results) :]:
        axes.set_axis_off()
    if results[0]["dim"] == 1:
        legend_below(figure, grid.flat[0])
    else:
        figure.supxlabel("x₁: filled, density of the trained network's law; lines, law of the "
                         "optimum (white) and claimed target (dashed)", fontsize=9)  # fmt: skip
    figure.suptitle(f"{problem}: what trained networks sample", fontsize=11)
    return figure


def draw_panel(axes: Axes, result: Mapping[str, Any], curve: Curves) -> None:
    """A histogram of draws over exact laws (d = 1), or contours (d = 2)."""
    axes.set_title(
        f"{wrapped(result['method'])}\nlearning error {100 * result['learning_share']:.1f} % of "
        "the way",
        fontsize=9,
    )
    if result["dim"] == 1:
        histogram(axes, curve)
    else:
        _contours(axes, curve)


def wrapped(text: str, width: int = 34) -> str:
    """A method's label on lines of readable length, cut at its options."""
    name, colon, options = text.partition(":")
    return text if len(text) <= width or not colon else f"{name}:\n{options}"


def histogram(axes: Axes, curve: Curves) -> None:
    """Draws as bars, the exact laws as lines."""
    y, draws = _numpy(curve["axis.0"]), _numpy(curve["samples"])[:, 0]
    most = np.max([_numpy(curve[k]) for k in ("trained", "optimum", "target")], axis=0)
    low, high = _ends(y, most > 1e-3 * most.max())
    axes.hist(draws, np.linspace(low, high, BINS + 1).tolist(), density=True, color=SKY,
              alpha=0.55, label="draws of the trained network")  # fmt: skip
    axes.plot(y, _numpy(curve["start"]), color="0.6", lw=1.0, label="before training")
    axes.plot(y, _numpy(curve["optimum"]), color=BLACK, lw=1.3, label="exact law of the optimum")
    axes.plot(y, _numpy(curve["target"]), color=VERMILION, ls="--", lw=1.3, label="claimed target")
    axes.set(xlim=(low, high), ylim=(0, None), xlabel="x", ylabel="density")


def _contours(axes: Axes, curve: Curves) -> None:
    x, y = _numpy(curve["axis.0"]), _numpy(curve["axis.1"])
    trained, best, goal = (_numpy(curve[k]) for k in ("trained", "optimum", "target"))
    top = max(trained.max(), best.max())
    levels = np.linspace(0.04, 0.96, 7) * top
    axes.contourf(x, y, trained.T, levels=np.linspace(0, top, 15), cmap="cividis")
    axes.contour(x, y, best.T, levels=levels, colors="white", linewidths=0.9)
    axes.contour(x, y, goal.T, levels=levels, colors=VERMILION, linewidths=0.9, linestyles="--")
    keep = np.maximum(trained, goal) > 2e-3 * top
    axes.set(xlim=_ends(x, keep.any(1)), ylim=_ends(y, keep.any(0)), ylabel="x₂")


def _ends(axis: Array, keep: Array) -> tuple[float, float]:
    return float(axis[keep][0]), float(axis[keep][-1])


def _numpy(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)


PARTS = (
    ("method_bias", "method bias: optimum's law vs claimed target", ORANGE),
    ("learning_error", "learning error: trained velocity's law vs optimum's", GREEN),
    ("sampling_error", "sampling error: finite steps and draws", PURPLE),
)


def budget(results: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """The three parts of every run's error as bars, in shares of the distance to go."""
    figure, axes = subplots(figsize=(8.4, 1.3 + 0.42 * len(results)))
    rows = np.arange(len(results))[::-1]
    for i, (key, label, color) in enumerate(PARTS):
        values = [100 * r[key] / r["to_go"] for r in results]
        axes.barh(rows + 0.27 * (1 - i), values, 0.25, color=color, label=label)
    floors = [100 * r["sampling_floor"] / r["to_go"] for r in results]
    axes.plot(floors, rows - 0.27, "|", color=BLACK, ms=7, mew=1.4,
              label="floor: as many exact draws (95th percentile)")  # fmt: skip
    axes.axvline(100 * TRAINED_SHARE, color="0.4", ls=":", lw=1.2,
                 label=f"{100 * TRAINED_SHARE:.0f} %: what learning may cost")  # fmt: skip
    names = [f"{r['problem']}  {r['method']}" for r in results]
    if len({r["problem"] for r in results}) == 1:
        names = [r["method"] for r in results]
    if len({r.get("target") for r in results}) > 1:
        names = [f"{name} to {r['target']}" for name, r in zip(names, results, strict=True)]
    axes.set_yticks(rows, names, fontsize=8)
    axes.set(
        xlabel="share of the distance from start to claimed target, % (linear below 1, log above)",
        title=title,
    )
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(0, None)
    ticks = [0, 1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
