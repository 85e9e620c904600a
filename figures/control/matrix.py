"""The matrix train schedule x sampling schedule: distances to the tilt, exact and trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import subplots

TITLE = "Total variation to the tilt by the schedules of training and of sampling"
PANELS = {"exact": "exact optimum", "trained": "trained network"}


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Two tables as pictures, exact and trained."""
    found = numbers["schedules"]
    rows, columns, tables = grid(found["matrix"])
    top = found["tv_base_to_tilt"]
    figure, panels = subplots(1, 2, figsize=(9.6, 3.1), sharey=True)
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        shown = axes.imshow(tables[key], cmap="cividis", vmin=0, vmax=top, aspect="auto")
        for (i, j), value in np.ndenumerate(tables[key]):
            axes.text(
                j, i, f"{value:.3f}", ha="center", va="center", fontsize=9,
                color="black" if value > 0.6 * top else "white",
            )  # fmt: skip
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="sampled with", title=title)
    panels[0].set_ylabel("trained with")
    figure.colorbar(shown, ax=panels, shrink=0.9).set_label(f"TV to the tilt (base: {top:.3f})")
    return figure


def grid(matrix: list[dict[str, Any]]) -> tuple[list[str], list[str], dict[str, Any]]:
    """(rows, columns, a table of numbers for each of PANELS)."""
    rows = list(dict.fromkeys(m["trained with"] for m in matrix))
    columns = list(dict.fromkeys(m["sampled with"] for m in matrix))
    tables = {key: np.zeros((len(rows), len(columns))) for key in PANELS}
    for m in matrix:
        for key, table in tables.items():
            table[rows.index(m["trained with"]), columns.index(m["sampled with"])] = m[key]
    return rows, columns, tables


def text(numbers: Mapping[str, Any]) -> str:
    """What the matrix says."""
    found = numbers["schedules"]
    rows, columns, tables = grid(found["matrix"])
    last = rows.index("memoryless")
    others = np.delete(tables["exact"], last, 0)
    own = tables["trained"][last]
    lines = "\n".join(
        f"| {row} | "
        + " | ".join(
            f"{tables['exact'][i, j]:.3f} / {tables['trained'][i, j]:.3f}"
            for j in range(len(columns))
        )
        + " |"
        for i, row in enumerate(rows)
    )
    return f"""
What was fine-tuned with the memoryless schedule may be sampled with any: the exact velocity gives
the tilt in every column, and the trained one stays within {own.max():.3f}. What was fine-tuned with
another schedule gives the tilt with none; the exact optima are {others.min():.3f} to
{others.max():.3f} away.

Total variation to the tilt, exact / trained:

| trained with | {" | ".join(columns)} |
|---|{"---|" * len(columns)}
{lines}

Columns are how the velocity that training left is sampled: the ODE, or the SDE with that schedule
(trained networks: by {found["sampling_steps"]} Euler kernels).
"""
