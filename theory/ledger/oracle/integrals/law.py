"""The integrand w p exp(-|x - alpha y|^2 / (2 sigma^2)): its modes, frames and integrals."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from theory.ledger.oracle.integrals.integrate import (
    EDGE,
    HUGE,
    RTOL,
    Array,
    Estimate,
    Function,
    QuadratureError,
    Region,
    adapt,
    cells_between,
    mesh,
)


@dataclass(frozen=True)
class Density:
    """log p, (n, d) -> (n,), up to a constant, and the region that holds its mass."""

    log_density: Function
    region: Region


@dataclass(frozen=True)
class _Chart:
    """y = centre + frame u, u in the box [lower, upper]; log_peak = log|h| at the centre."""

    centre: Array
    frame: Array
    log_peak: float
    lower: Array
    upper: Array

    def local(self, y: Array) -> Array:
        return np.asarray(np.linalg.solve(self.frame, (y - self.centre).T).T, dtype=np.float64)


def _climb(log_h: Function, y: Array, width: Array) -> Iterator[_Chart]:
    """Local maxima above the starts y (n, d), with frames of unit curvature. Newton's step with
    a line search; derivatives are difference quotients over steps along the last frame's axes
    that change log_h by up to 1."""
    (n, d), rows = y.shape, np.arange(len(y))
    steps, factors = 4.0 ** np.arange(2, -26, -1), np.append(2.0 ** np.arange(6, -34, -1), 0.0)
    frame, value = np.tile(np.diag(width), (n, 1, 1)), log_h(y)
    for sweep in range(60):
        move = steps[:, None, None, None] * np.swapaxes(frame, 1, 2)
        rise = log_h(y[:, None] + np.stack([move, -move])) - value[:, None]
        # Off the support, mirror the other side; take the longest step below all the wild ones.
        rise = np.where(np.isfinite(rise), rise, rise[::-1])
        wild = np.logical_or.accumulate(np.any(np.abs(rise) > 1, axis=0)[::-1], axis=0)
        pick = np.minimum(wild.sum(axis=0), len(steps) - 1)
        up, down = np.nan_to_num(rise[:, pick, rows[:, None], np.arange(d)], neginf=-1.0)
        basis = frame * steps[pick][:, None, :]
        slope, bend = (up - down) / 2, (up + down)[:, :, None] * np.eye(d)
        if d == 2:
            pair = log_h(y + np.stack([basis.sum(axis=2), -basis.sum(axis=2)])) - value
            cross = (pair.sum(axis=0) - (up + down).sum(axis=1)) / 2
            bend[:, 0, 1] = bend[:, 1, 0] = np.where(np.isfinite(cross), cross, 0.0)
        eigenvalue, turn = np.linalg.eigh(bend)
        scaled = basis @ turn / np.sqrt(np.maximum(np.abs(eigenvalue), 1e-8))[:, None, :]
        newton = np.einsum("nij,nkj,nlk,nl->ni", scaled, scaled, np.linalg.inv(basis), slope)
        trial = y + factors[:, None, None] * newton
        heights = log_h(trial)
        best = heights.argmax(axis=0)
        gain, y, value = heights[best, rows] - value, trial[best, rows], heights[best, rows]
        length = np.linalg.norm(scaled, axis=1)
        frame = scaled * np.minimum(1.0, 4 * width.max() / length)[:, None, :]
        if sweep >= 2 and np.all(gain < 1e-6):
            break
    box = np.full(d, math.sqrt(2 * EDGE) + 0.5)
    return (_Chart(y[i], frame[i], float(value[i]), -box, box) for i in np.argsort(-value))


def _locate(log_h: Function, region: Region, extra: Array) -> list[_Chart]:
    """Charts, highest peak first, whose boxes hold all that lies within e^-EDGE of that peak.
    Starts: the region's points, extra (1, d), the best place on each line between them, and the
    highest local maxima on a grid."""
    d, side = len(region.lower), 257 if len(region.lower) == 1 else 33
    grid = mesh([np.linspace(a, b, side) for a, b in zip(region.lower, region.upper, strict=True)])
    rank = np.pad(log_h(grid).reshape([side] * d), 1, constant_values=-np.inf)
    windows = [rank[tuple(slice(s, s + side) for s in shift)] for shift in np.ndindex(*[3] * d)]
    heights = windows[3**d // 2].ravel()
    top = np.flatnonzero(heights >= np.max(windows, axis=0).ravel())
    line = np.linspace(0, 1, 65)[:, None, None]
    lines = line * extra + (1 - line) * np.concatenate([region.points, extra])
    best = lines[log_h(lines).argmax(axis=0), np.arange(lines.shape[1])]
    starts = np.concatenate([grid[top[np.argsort(-heights[top])[:8]]], region.points, best, extra])
    starts = starts[np.isfinite(log_h(starts))]
    if not len(starts):
        raise ValueError("the integrand vanishes wherever it was looked at: give the region points")
    modes: list[_Chart] = []
    for new in _climb(log_h, starts, region.upper - region.lower):
        if modes and new.log_peak < modes[0].log_peak - EDGE:
            break
        at = new.centre[None]
        gaps = [np.stack([m.local(at), new.local(m.centre[None])]) for m in modes]
        if all(np.abs(gap).max() >= 1 for gap in gaps):  # else a mode that is known
            modes.append(new)
    cloud = np.concatenate([grid, starts])
    return [_fit(log_h, modes, k, cloud) for k in range(len(modes))]


def _share(charts: list[_Chart], k: int, y: Array) -> Array:
    """log w_k(y), (n,): the partition of unity."""
    if len(charts) == 1:
        return np.zeros(len(y))
    logs = np.stack([c.log_peak - (c.local(y) ** 2).sum(axis=1) / 2 for c in charts])
    logs -= logs.max(axis=0)
    return np.asarray(logs[k] - np.log(np.exp(logs).sum(axis=0)))


def _fit(log_h: Function, charts: list[_Chart], k: int, cloud: Array) -> _Chart:
    """Chart k, its box grown until w_k h is negligible on the faces and wherever the cloud is
    outside."""
    chart, floor = charts[k], charts[0].log_peak - EDGE
    far = chart.local(cloud[log_h(cloud) + _share(charts, k, cloud) > floor])
    box = np.stack([chart.lower, chart.upper, *far])
    box = np.stack([box.min(axis=0), box.max(axis=0)])
    for _ in range(80):
        count = min(8 * (box[1] - box[0]).max(), 4000.0) if len(box[0]) == 2 else 1
        line = np.linspace(0, 1, 1 + int(count))[:, None]  # thin arms must not pass between
        grow = np.zeros(box.shape, dtype=bool)
        for end, axis in np.ndindex(*box.shape):
            face = box[0] + line * (box[1] - box[0])
            face[:, axis] = box[end, axis]
            y = chart.centre + face @ chart.frame.T
            grow[end, axis] = np.max(log_h(y) + _share(charts, k, y)) > floor
        if not grow.any():
            return replace(chart, lower=box[0], upper=box[1])
        box = np.where(grow, 1.5 * box, box)
    raise QuadratureError("the integrand does not decay: no box holds it")


class Law:
    """h = w p exp(-|x - alpha y|^2 / (2 sigma^2)) and its charts; without x, h = w p."""

    def __init__(
        self,
        density: Density,
        weight: Function | None,
        x: Array | None = None,
        alpha: float = 0.0,
        sigma: float = 1.0,
    ) -> None:
        region = density.region
        self.x = np.zeros(len(region.lower)) if x is None else np.asarray(x, dtype=np.float64)
        if self.x.shape != region.lower.shape or not np.all(np.isfinite(self.x)):
            raise ValueError(f"x must be one finite point of shape {region.lower.shape}")
        if not (math.isfinite(alpha) and 0 < sigma < math.inf):
            raise ValueError(f"alpha must be finite and sigma positive, got {alpha} and {sigma}")
        self.density, self.weight, self.alpha, self.sigma = density, weight, alpha, sigma
        with np.errstate(over="ignore"):
            origin = self.x / alpha if alpha else np.full_like(self.x, np.inf)
        self.origin = origin if np.all(np.isfinite(origin)) else (region.lower + region.upper) / 2
        charts = _locate(self.log_h, region, self.origin[None])
        self.origin = charts[0].centre
        self.charts = [replace(c, log_peak=float(self.log_h(c.centre[None])[0])) for c in charts]

    def log_h(self, y: Array) -> Array:
        """log|h| at y (..., d) relative to the kernel's value at the origin: the kernel sees
        differences of y only, so that a large exponent costs no digits."""
        flat = y.reshape(-1, y.shape[-1])
        gap = flat - self.origin
        rest = self.x - self.alpha * self.origin
        pull = self.alpha * (gap @ rest - self.alpha * (gap**2).sum(axis=1) / 2)
        with np.errstate(divide="ignore", over="ignore"):  # far out, exp(r) may overflow
            out = self.density.log_density(flat) + pull / self.sigma**2
            if self.weight is not None:
                out = out + np.log(np.minimum(np.abs(self.weight(flat)), HUGE))
        if out.shape != pull.shape or np.any(np.isnan(out)):
            raise ValueError("log density and weight must map (n, d) to (n,) and never give NaN")
        return np.asarray(out).reshape(y.shape[:-1])

    def log_scale(self) -> float:
        """What `integral` leaves out: log|h| at the highest peak."""
        rest = self.x - self.alpha * self.origin
        return self.charts[0].log_peak - float(rest @ rest) / (2 * self.sigma**2)

    def integral(self, f: Function | None = None) -> tuple[Array, Array]:
        """int h (1, f) e^-log_scale and its error, each (1 + m,)."""
        total, points = np.zeros((3, 1)), self.density.region.points
        ticks = np.concatenate(
            [np.arange(0, 12, 3), np.arange(12, 192, 12), 192 * 2.0 ** np.arange(99)]
        )
        peak = self.charts[0].log_peak
        for k, chart in enumerate(self.charts):

            def integrand(u: Array, k: int = k, chart: _Chart = chart) -> Array:
                y = chart.centre + u @ chart.frame.T
                h = np.exp(self.log_h(y) + _share(self.charts, k, y) - peak)[:, None]
                h *= abs(np.linalg.det(chart.frame))
                if self.weight is not None:
                    weight = self.weight(y)
                    if np.any(np.isinf(weight) & (h[:, 0] > 0)):
                        raise QuadratureError("the weight overflows where it matters: rescale it")
                    h *= np.sign(weight)[:, None]
                return h if f is None else np.hstack([h, h * f(y)])

            local = chart.local(points)
            local = local[np.all((local > chart.lower) & (local < chart.upper), axis=1)]
            line = len(chart.centre) == 1
            cuts = np.concatenate([ticks, -ticks, local.ravel() if line else []])
            ends = zip(chart.lower, chart.upper, strict=True)
            edges = [np.unique([a, b, *cuts[(cuts > a) & (cuts < b)]]) for a, b in ends]
            cells = cells_between(edges, local, 8 if line else 3)
            total = total + adapt(integrand, *cells, RTOL, RTOL * total[2])
        return total[0], total[1]

    def mean(self, f: Function) -> Estimate:
        """int h f / int h."""
        value, error = self.integral(f)
        if abs(value[0]) <= 1e3 * error[0]:
            raise QuadratureError(
                f"the weight cancels: its integral {value[0]:.2e} has error {error[0]:.2e}"
            )
        ratio = value[1:] / value[0]
        return Estimate(ratio, (error[1:] + np.abs(ratio) * error[0]) / abs(value[0]))
