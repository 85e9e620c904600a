r"""Diffusions on the line by composed kernels: expectations given X_t = x, and laws.

dX = b(x, t) dt + g(t) dB. A step from t to t' = t + h is the stochastic trapezoidal rule

    X' - h/2 b(X', t') = X + h/2 b(X, t) + N(0, int_t^t' g^2),

whose kernel is a Gaussian in psi(z) = z - h/2 b(z, t') around a(x) = x + h/2 b(x, t), times psi'.
Run backwards in time it is the same rule, and so is a potential's exp(-h/2 (f(x, t) + f(z, t'))):
errors have even powers of h only, and Richardson's extrapolation over n, 2n, 4n, ... steps
removes h^2, h^4, ... . Sums over z are trapezoidal on a uniform grid, spectrally accurate where the
kernel is no narrower than _NARROW grid steps (held, else ValueError) and b, phi and f have no
features below 0.2. The grid must reach as far as matters: what leaves it is lost.

Measured on the note_1d mixture with phi = exp(2 r) at four x, grid [-8, 9] of step dx: largest
relative error, CPU seconds (most of them in b, v and s of `flow.LineField`). Constant g from t = 0,
against finer runs; the law at t = 1, known to be p, has up to 10 times these errors at its peak:

    g = 0.2  steps 8,  levels 3, dx 0.02   3e-8   0.6
    g = 1    steps 8,  levels 3, dx 0.02   4e-8   0.6
    g = 2    steps 8,  levels 3, dx 0.02   4e-5   0.8
    g = 2    steps 16, levels 3, dx 0.02   2e-6   1.3
    g = 2    steps 16, levels 4, dx 0.03   3e-8   2.1

Memoryless, g^2 = 2 (1 - t) / t, the logarithmic clock, levels 3, against quadrature:

    t = 0.02  steps 16, dx 0.02   7e-7   1.5
    t = 0.02  steps 24, dx 0.02   3e-8   2.2
    t = 0.02  steps 32, dx 0.01   7e-9   6.2
    t = 0.1   steps 8,  dx 0.02   3e-6   0.5
    t = 0.1   steps 16, dx 0.02   2e-8   1.0
    t = 0.5   steps 6,  dx 0.02   2e-7   0.9

The estimate was 0.8 (g = 2, levels 4) to 100 times the error.

Nothing here differences in x or t as a PDE solver would: b is all that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from scipy.interpolate import make_interp_spline

from theory.ledger.oracle.integrals.integrate import Array, Estimate

Field = Callable[[Array, float], Array]  # x (n,), t -> (n,)
Noise = Callable[[float], float]
Clock = Callable[[Array], Array]  # [0, 1] onto the times, increasing and smooth

_NARROW = 1.2  # a kernel's least standard deviation in grid steps: 2 exp(-2 pi^2 1.44) = 1e-12
_FINE, _SMOOTH = 2.5, 0.1  # sums skip nodes up to a std / _FINE, and no further than _SMOOTH
_FAR = 8.0  # standard deviations of a kernel that are summed: e^-32
_DEGREE = 7  # of the spline that gives b'
_CHUNK = 2_000_000  # numbers in one table of kernels
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)


def uniform_clock(start: float) -> Clock:
    """t = start + (1 - start) w."""
    return lambda w: start + (1 - start) * w


def line_expectation(
    b: Field,
    g: Noise,
    phi: Callable[[Array], Array],
    x: Array,
    axis: Array,
    clock: Clock,
    *,
    potential: Field | None = None,
    steps: int = 32,
    levels: int = 3,
) -> Estimate:
    """E[exp(-int_t^1 f ds) phi(X_1) | X_t = x] for x (m,), t = clock(0), 1 = clock(1), (m,): value
    and its change by the last level of extrapolation. f: the potential, None for 0; axis (N,)
    uniform.

    Raises ValueError for a kernel too narrow for the axis, a step too long for b (1 -+ h/2 b' must
    stay positive on the axis), an x off the axis, or an axis that is not uniform.
    """
    x, dx = np.asarray(x, dtype=np.float64), _spacing(axis)
    if x.ndim != 1 or np.any((x < axis[0]) | (x > axis[-1])):
        raise ValueError(f"x must be (m,) inside [{axis[0]}, {axis[-1]}], got {x}")

    @cache  # the levels' times are nested
    def on_axis(t: float) -> Array:
        return b(axis, t)

    def once(n: int) -> Array:
        times, values = _times(clock, n), np.asarray(phi(axis), dtype=np.float64)
        field = [on_axis(t) for t in times]
        for k in range(n - 1, -1, -1):
            step = _Step(g, potential, axis, times[k], times[k + 1], field[k : k + 2])
            places = axis if k else x
            start = step.start if k else x + step.h / 2 * b(x, times[0])
            values = step.weigh(places, times[k]) * _kernel_sums(
                start, step.end, values * step.rise * step.weigh(axis, times[k + 1]), step.std, dx
            )
        return values

    return extrapolated(once, steps, levels)


def line_law(
    b: Field,
    g: Noise,
    density: Array,
    axis: Array,
    clock: Clock,
    *,
    potential: Field | None = None,
    steps: int = 32,
    levels: int = 3,
) -> Estimate:
    """The density on the axis (N,) at t = 1 of the process that starts from `density` (N,) there
    at t = clock(0): the same kernels forwards; with a potential, that of paths weighted by
    exp(-int f). Raises ValueError as `line_expectation` does and for a density of the wrong
    shape."""
    dx = _spacing(axis)
    if np.shape(density) != np.shape(axis):
        raise ValueError(f"density must have shape {np.shape(axis)}, got {np.shape(density)}")

    @cache
    def on_axis(t: float) -> Array:
        return b(axis, t)

    def once(n: int) -> Array:
        times, values = _times(clock, n), np.asarray(density, dtype=np.float64)
        field = [on_axis(t) for t in times]
        for k in range(n):
            step = _Step(g, potential, axis, times[k], times[k + 1], field[k : k + 2])
            values = values * step.weigh(axis, times[k])
            values = (
                step.rise
                * step.weigh(axis, times[k + 1])
                * _kernel_sums(step.end, step.start, values, step.std, dx)
            )
        return values

    return extrapolated(once, steps, levels)


def extrapolated(
    once: Callable[[int], Array], steps: int, levels: int, powers: Sequence[int] | None = None
) -> Estimate:
    """Richardson's extrapolation of once(steps), once(2 steps), ... with `levels` of them, whose
    errors have the given powers of 1 / n, (2, 4, ...) unless told; the error is the last change.
    Raises ValueError for steps < 1, levels < 2 or too few powers."""
    if steps < 1 or levels < 2:
        raise ValueError(f"steps must be at least 1 and levels at least 2, got {steps}, {levels}")
    powers = range(2, 2 * levels, 2) if powers is None else powers
    if len(powers) < levels - 1:
        raise ValueError(f"{levels} levels need {levels - 1} powers, got {len(powers)}")
    table = [np.asarray(once(steps * 2**k), dtype=np.float64) for k in range(levels)]
    before = table[-1]
    for power in powers[: levels - 1]:
        before = table[-1]
        table = [fine + (fine - coarse) / (2.0**power - 1) for coarse, fine in pairwise(table)]
    return Estimate(table[0], np.abs(table[0] - before))


class _Step:
    """One step's kernel on the axis: a, psi, psi' and the noise's standard deviation."""

    def __init__(
        self,
        g: Noise,
        potential: Field | None,
        axis: Array,
        t: float,
        later: float,
        field: list[Array],
    ) -> None:
        self.h, self.potential, half = later - t, potential, (later - t) / 2
        middle = [t + half * (1 + node) for node in _NODES]
        self.std = math.sqrt(
            half * sum(w * g(s) ** 2 for w, s in zip(_WEIGHTS, middle, strict=True))
        )
        self.start, self.end = axis + half * field[0], axis - half * field[1]
        slope = make_interp_spline(axis, field[1], _DEGREE).derivative()(axis)
        self.rise = np.asarray(1 - half * slope)
        gaps = np.diff(self.start), np.diff(self.end)
        if min(gap.min() for gap in gaps) <= 0 or self.rise.min() <= 0:
            raise ValueError(f"the step from {t:.4g} to {later:.4g} is too long for b: more steps")
        widest = _NARROW * max(gap.max() for gap in gaps)
        if not self.std >= widest:
            raise ValueError(
                f"the kernel from {t:.4g} to {later:.4g} has standard deviation {self.std:.3g}, "
                f"too narrow for the axis, which allows {widest:.3g}: fewer steps or a finer axis"
            )

    def weigh(self, x: Array, t: float) -> Array:
        """exp(-h/2 f(x, t))."""
        if self.potential is None:
            return np.ones(len(x))
        return np.exp(-self.h / 2 * self.potential(x, t))


def _kernel_sums(points: Array, nodes: Array, values: Array, std: float, dx: float) -> Array:
    """int N(point; node(z), std^2) values(z) dz, (m,), for increasing nodes on a grid of step
    dx."""
    stride = max(1, int(min(std / _FINE, _SMOOTH) / max(dx, np.diff(nodes).max())))
    nodes, values = nodes[::stride], values[::stride] * (stride * dx)
    width = min(math.ceil(_FAR * std / np.diff(nodes).min()), len(nodes))
    band = np.arange(-width, width + 1)
    pad = np.full(width + 1, np.inf)
    padded = np.concatenate([-pad, nodes, pad])
    weights = np.concatenate([np.zeros(width + 1), values, np.zeros(width + 1)])
    middle = np.searchsorted(nodes, points) + width + 1
    rows = max(1, _CHUNK // len(band))
    sums = np.empty(len(points))
    for first in range(0, len(points), rows):
        part = slice(first, first + rows)
        index = np.clip(middle[part, None] + band, 0, len(padded) - 1)
        gap = (padded[index] - points[part, None]) / std
        sums[part] = (np.exp(-0.5 * gap * gap) * weights[index]).sum(axis=1)
    return sums / (math.sqrt(2 * math.pi) * std)


def _spacing(axis: Array) -> float:
    gaps = np.diff(axis)
    if np.ndim(axis) != 1 or len(axis) < 2 * _DEGREE or np.ptp(gaps) > 1e-9 * abs(gaps[0]):
        raise ValueError("axis must be a uniform grid (N,)")
    return float(gaps.mean())


def _times(clock: Clock, n: int) -> list[float]:
    times = np.asarray(clock(np.linspace(0, 1, n + 1)), dtype=np.float64)
    if times.shape != (n + 1,) or np.any(np.diff(times) <= 0):
        raise ValueError("the clock must map [0, 1] to increasing times")
    return [float(t) for t in times]
