"""Where an approximation is good enough: an error over two parameters, as numbers and as a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.laws.distances import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOOD = (0.01, 0.05)
LEAST = 1e-4  # the colour scale ends here


@dataclass(frozen=True)
class Region:
    """errors (len(x), len(y)) of what `title` names; 0.01 is an error of 1 %, nan: not computed."""

    title: str
    x_name: str
    x: Array
    y_name: str
    y: Array
    errors: Array
    error_name: str
    log_axes: str = ""

    def share(self, bound: float) -> float:
        """The share of the map, where it was computed, with an error below the bound."""
        return float((self.errors[~np.isnan(self.errors)] < bound).mean())

    def limits(self, bound: float) -> list[float]:
        """For every x, the largest y up to which the error stays below the bound; 0: none."""
        counts = (self.errors < bound).cumprod(axis=1).sum(axis=1)  # nan is above every bound
        return [float(self.y[n - 1]) if n else 0.0 for n in counts]

    def figure(self) -> str:
        """In one line."""
        parts = [f"below {100 * b:g} % on {100 * self.share(b):.0f} % of the map" for b in GOOD]
        ends = (
            f"{n} {v.min():.3g} to {v.max():.3g}"
            for n, v in ((self.x_name, self.x), (self.y_name, self.y))
        )
        return f"{self.error_name} {', '.join(parts)} ({', '.join(ends)})"

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "error": self.error_name,
            self.x_name: np.round(self.x, 12).tolist(),
            self.y_name: np.round(self.y, 12).tolist(),
            "errors": [[float(f"{v:.4g}") for v in row] for row in self.errors],
            "share": {f"{b:g}": self.share(b) for b in GOOD},
            "limits": {f"{b:g}": self.limits(b) for b in GOOD},
        }

    def draw(self) -> Figure:
        """Colour: the error; lines: where it is 1 % and 5 %."""
        # Half a second of imports, which quick profiles without maps do not pay.
        import matplotlib.pyplot as plt
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        from theory.evaluation.draw import use_style

        use_style()
        figure, axes = plt.subplots(figsize=(5.6, 4.0), layout="constrained")
        shown = np.clip(self.errors, LEAST, None)
        top = min(max(float(np.nanmax(shown)), 0.1), 1.0)
        mesh = axes.pcolormesh(
            self.x, self.y, shown.T, cmap="cividis_r", norm=LogNorm(LEAST, top), shading="nearest"
        )
        low, high = float(np.nanmin(self.errors)), float(np.nanmax(self.errors))
        levels = [b for b in GOOD if low < b < high]
        if levels and min(self.errors.shape) > 1:
            lines = axes.contour(
                self.x,
                self.y,
                self.errors.T,
                levels,
                colors="k",
                linestyles=[":", "-"][-len(levels) :],
            )
            axes.clabel(lines, fmt=lambda v: f"{100 * v:g} %", fontsize=8)
        axes.set(xlabel=self.x_name, ylabel=self.y_name, title=self.title)
        for name, side in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in self.log_axes:
                axes.set(**{f"{name}scale": "log"})
                side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                side.set_minor_formatter(NullFormatter())
        figure.colorbar(
            mesh, ax=axes, label=f"{self.error_name} (colours end at {LEAST:g} and {top:.2g})"
        )
        return figure
