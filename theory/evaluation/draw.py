"""One style for every picture, and the picture of a law report.

Colours are Okabe and Ito's (2008), told apart by colour-blind readers; lines differ in dash too.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.common.files import write_atomically

if TYPE_CHECKING:  # it brings torch along, which audits of files do without
    from theory.evaluation.report import LawReport

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
LINES = [(PURPLE, "-"), (ORANGE, "--"), (GREEN, ":"), (VERMILION, "-."), (BLUE, (0, (6, 1, 1, 1)))]


def use_style() -> None:
    """Set seaborn's theme and Plumbline's defaults for every later figure."""
    sns.set_theme(context="paper", style="ticks", palette=[BLUE, ORANGE, GREEN, VERMILION, PURPLE])
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.hashsalt": "plumbline",
            "pdf.fonttype": 42,
        }
    )


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """matplotlib's, in this style, axes and legends beside each other."""
    use_style()
    return plt.subplots(rows, columns, layout="constrained", **options)


def legend_below(figure: Figure, axes: Axes, columns: int = 0, title: str | None = None) -> None:
    """What the axes show, in one legend for all of the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns or len(labels), fontsize=8,
        title=title,
    )  # fmt: skip


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure, closed; no dates or versions inside: the same numbers give the same bytes."""
    data = io.BytesIO()
    metadata = {"Software": "plumbline"}
    figure.savefig(data, format="png", dpi=dpi, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    return data.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf, each whole or not at all; returns the paths."""
    paths = [folder / f"{name}.{ending}" for ending in ("png", "pdf")]
    for path in paths:
        # No dates or versions inside: the same numbers give the same bytes.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": "plumbline"}
        data = io.BytesIO()
        figure.savefig(data, format=path.suffix[1:], bbox_inches="tight", metadata=metadata)
        write_atomically(path, data.getvalue())
    plt.close(figure)
    return paths


def draw_report(report: LawReport) -> Figure:
    """The law over its candidate targets: lines (d = 1), contours (d = 2), a projection (d > 2)."""
    if report.dim == 2:
        figure, pair = subplots(1, 3, figsize=(9.6, 3.3), sharey=True)
        _contours(list(pair), report)
    else:
        figure, axes = subplots(figsize=(6.4, 3.6))
        (_lines if report.dim == 1 else _projection)(axes, report)
    figure.suptitle(f"{report.problem}: {report.field} ({report.sampler})", fontsize=10)
    return figure


def _lines(axes: Axes, report: LawReport) -> None:
    law = report.curves["law"]
    y = law.axes[0]
    axes.fill_between(
        y, law.density, color=SKY, alpha=0.45, lw=0, label=f"{report.field}, exact law"
    )
    axes.plot(y, report.curves["base"].density, color="0.55", lw=1.0, label="base")
    shown = [name for name in report.curves if name not in ("law", "base")]
    for name, (color, dash) in zip(shown, LINES, strict=False):
        axes.plot(
            y,
            report.curves[name].density,
            color=color,
            ls=dash,
            lw=1.4,
            label=f"{name}  TV {report.distances[name]['TV'].value:.3f}",
        )
    keep = np.max([c.density for c in report.curves.values()], axis=0) > 1e-4
    axes.set(xlim=(y[keep][0], y[keep][-1]), ylim=(0, None), xlabel="x", ylabel="density")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _contours(panels: list[Axes], report: LawReport) -> None:
    best = min(
        (n for n in report.distances if n != "base"),
        key=lambda n: report.distances[n]["TV"].value,
    )
    titles = {
        "base": "base",
        "law": "exact law of the field",
        best: f"nearest target: {best}\nTV to the law {report.distances[best]['TV'].value:.3f}",
    }
    top = max(report.curves[name].density.max() for name in titles)
    levels = np.linspace(0, top, 13)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        curve = report.curves[name]
        filled = axes.contourf(*curve.axes, curve.density.T, levels=levels, cmap="cividis")
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="x₁", aspect="equal")
        keep = np.max([report.curves[n].density for n in titles], axis=0) > 1e-3 * top
        axes.set_xlim(*curve.axes[0][keep.any(1)][[0, -1]])
        axes.set_ylim(*curve.axes[1][keep.any(0)][[0, -1]])
    panels[0].set_ylabel("x₂")
    panels[0].figure.colorbar(filled, ax=panels, label="density", shrink=0.9)


def _projection(axes: Axes, report: LawReport) -> None:
    direction = report.samples["law"].mean(0) - report.samples["base"].mean(0)
    direction = direction / np.linalg.norm(direction)
    edges = np.histogram_bin_edges(
        np.concatenate([v @ direction for v in report.samples.values()]), bins=45
    )
    axes.hist(
        report.samples["law"] @ direction,
        edges.tolist(),
        density=True,
        color=SKY,
        alpha=0.45,
        label=f"{report.field}, draws",
    )
    styles = [("0.55", "-"), *LINES]
    for name, (color, dash) in zip([n for n in report.samples if n != "law"], styles, strict=False):
        tv = report.distances[name]["TV"].value
        heights, _ = np.histogram(report.samples[name] @ direction, edges, density=True)
        axes.stairs(heights, edges, color=color, ls=dash, lw=1.3, label=f"{name}  TV {tv:.3f}")
    axes.set(xlabel="projection on the direction from base to law", ylabel="density")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
