"""Laws as densities on a grid, d = 1 and 2: of a mixture, a tilt, and what a field samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from theory.fields.mixture import ExactField
from theory.laws.distances import Array, GridLaw
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem
from theory.samplers.chain import grid_points, reach, span
from theory.samplers.flow import FlowLaw
from theory.tilts.tilt import Tilt

LINE_POINTS = 501
PUSHED_POINTS = 201
SDE_POINTS = 1201
SPACING = np.linspace(-6, 6, 17)  # standard deviations at which components are looked at
PEAK_SPACING = 0.1  # standard deviations between points, where an even spacing is wider
PLANE_POINTS = 141
TAIL_STDS = 8.5
LIGHT = 36.0  # of a component's weight, -log over the heaviest: it weighs nothing
RINGS = (0.5, 1.2, 1.9, 2.7, TAIL_STDS)  # of starting points in the plane
RING_POINTS = 32
# Errors of 1e-10 on the line and 1e-8 in the plane: below the floors of the distances.
TOLERANCES = {1: (1e-8, 1e-10), 2: (1e-7, 1e-9)}
# Evaluations that a look at a few trajectories may take, d > 1: laws there take about 1,000.
LOOK_EVALUATIONS = 2000
MASSLESS = -70.0  # log of a contraction that leaves no mass, whatever 64-bit peak contracts so


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Starting points x_0 (n, d), each for a share of the start law, and where a field takes them.

    Pulled back they should be what they were and, where log_density is known from the way there,
    have that.
    """

    start: Tensor
    shares: Tensor
    std: Tensor
    end: Tensor
    log_density: Tensor | None

    def error(self, x0: Tensor, log_density: Tensor) -> float:
        """What comes back is off by: x_0 in sigma_0, and log q; the mean, at most 1 a point."""
        off = (x0 - self.start).abs().amax(-1) / self.std
        if self.log_density is not None:
            off = torch.maximum(off, (log_density - self.log_density).abs())
        # A point that lands in the gap between far modes stands for no mass there.
        lands = log_density > -torch.inf
        return float((self.shares * off.clamp_max(1.0))[lands].sum())


def push_starts(field: ExactField, watch: Callable[[float], None]) -> RoundTrip:
    """`starting_points` on their way there (on the line without their density: see `_mismatch`)."""
    start, std = starting_points(field), _start_std(field)
    law = FlowLaw(field, *TOLERANCES[field.dim], most_evaluations=LOOK_EVALUATIONS, watch=watch)
    z = start / std
    if field.dim == 1:
        edges = torch.special.ndtr(0.5 * (z[1:, 0] + z[:-1, 0]))
        shares = torch.cat([z.new_zeros(1), edges, z.new_ones(1)]).diff()
        return RoundTrip(start, shares, std, law.push(start), None)
    radii = torch.tensor(RINGS, dtype=z.dtype)
    inside = 1 - torch.exp(-0.5 * (0.5 * (radii[1:] + radii[:-1])) ** 2)
    shares = torch.cat([z.new_zeros(1), inside, z.new_ones(1)]).diff() / RING_POINTS
    shares = shares.repeat_interleave(RING_POINTS)
    return RoundTrip(start, shares, std, *law.push_with_log_density(start))


def make_grid(
    problem: Problem,
    field: ExactField,
    targets: dict[str, Tilt],
    pushed: Tensor | None = None,
) -> tuple[Array, ...]:
    """Axes that hold base, targets and what the field samples.

    pushed: where the field takes `starting_points`, if known already.
    """
    if pushed is None:
        pushed = FlowLaw(field, rtol=1e-5, atol=1e-5).push(starting_points(field))
    laws = [problem.base, *(t.law for t in targets.values() if t.law is not None)]
    low, high = span(laws, TAIL_STDS, LIGHT)
    low, high = torch.minimum(low, pushed.amin(0)), torch.maximum(high, pushed.amax(0))
    if problem.dim == 2:
        corners = zip(low.tolist(), high.tolist(), strict=True)
        return tuple(np.linspace(a, b, PLANE_POINTS) for a, b in corners)
    # Evenly spaced, and dense where the law and the components are: thin peaks are not missed.
    even = np.linspace(float(low), float(high), LINE_POINTS)
    parts = [even, pushed[:, 0].numpy(), _across_components(laws, even[1] - even[0])]
    least = math.inf
    for law in laws[:2]:  # the base, and the exponential tilt's heaviest components
        top = law.log_abs.topk(min(8, law.n_components)).indices
        std = law.cov[top, 0, 0].sqrt().numpy()
        least = min(least, std.min())
        parts.append((law.mean[top, 0].numpy() + SPACING[:, None] * std).ravel())
    axis = np.sort(np.concatenate(parts))
    axis = axis[(axis >= float(low)) & (axis <= float(high))]
    gaps = np.diff(axis, prepend=-np.inf) > 1e-6 * min(axis[-1] - axis[0], 1000 * least)
    return (axis[gaps],)


def _across_components(laws: list[GaussianSum], step: float) -> Array:
    """Points over every component for which an even spacing of `step` is too wide."""
    low, high = (
        torch.cat([reach(law, stds, LIGHT) for law in laws])[:, 0].numpy()
        for stds in (-TAIL_STDS, TAIL_STDS)
    )
    width = 0.5 * (high - low) / TAIL_STDS * PEAK_SPACING
    low, high, width = (v[width < step] for v in (low, high, width))
    edges, parts = np.unique(np.concatenate([low, high])), [np.empty(0)]
    for a, b in pairwise(edges):
        over = (low <= a) & (b <= high)
        if over.any():
            n = math.ceil((b - a) / width[over].min())
            parts.append(np.linspace(a, b, n, endpoint=False))
    return np.concatenate(parts)


def uniform_line(problem: Problem, field: ExactField, axis: Array) -> Array:
    """Even points over `axis` and over the start law, for the Fokker-Planck equation."""
    start = TAIL_STDS * float(_start_std(field))
    low, high = min(float(axis[0]), -start), max(float(axis[-1]), start)
    return np.linspace(low, high, SDE_POINTS)


def _start_std(field: ExactField) -> Tensor:
    return field.path.sigma(torch.zeros((), dtype=field.dtype))


def starting_points(field: ExactField) -> Tensor:
    """Points (n, d) over the start law and out to TAIL_STDS of it: a line, or rings."""
    if field.dim == 1:
        reach = torch.linspace(-TAIL_STDS, TAIL_STDS, PUSHED_POINTS, dtype=field.dtype)[:, None]
    else:
        angle = torch.linspace(0, 2 * torch.pi, RING_POINTS + 1, dtype=field.dtype)[:-1]
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        reach = (torch.tensor(RINGS, dtype=field.dtype)[:, None, None] * ring).flatten(0, 1)
    return reach * _start_std(field)


def flow_on_grid(
    field: ExactField,
    axes: tuple[Array, ...],
    watch: Callable[[float], None] = lambda share: None,
) -> GridLaw:
    """The ODE's density (and cdf, d = 1) on a grid."""
    return flow_and_back(field, axes, None, watch)[0]


def flow_and_back(
    field: ExactField,
    axes: tuple[Array, ...],
    trip: RoundTrip | None,
    watch: Callable[[float], None] = lambda share: None,
) -> tuple[GridLaw, float]:
    """(the ODE's law on a grid, what the round trip is off by), in one solve."""
    points = grid_points(axes)
    law = FlowLaw(field, *TOLERANCES[field.dim], massless=MASSLESS, watch=watch)
    n, error = len(points), 0.0
    if trip is None:
        x0, log_density = law.pull_back(points)
    else:  # most of where starting points end is on the line's grid
        once, place = torch.cat([points, trip.end]).unique(dim=0, return_inverse=True)
        x0, log_density = (found[place] for found in law.pull_back(once))
        error = trip.error(x0[n:], log_density[n:])
        x0, log_density = x0[:n], log_density[:n]
    cdf = None
    if len(axes) == 1:
        cdf = torch.special.ndtr(x0[:, 0] / _start_std(field)).numpy()
        # Between far modes, where no mass is, the cdf stays what it was.
        lost = np.isnan(cdf)
        cdf[lost] = np.maximum.accumulate(np.nan_to_num(cdf))[lost]
    found = GridLaw(axes, log_density.reshape([len(a) for a in axes]).numpy(), cdf)
    return found, max(error, _mismatch(found) if trip is not None else 0.0)


def _mismatch(law: GridLaw) -> float:
    """sup |int q - F|, d = 1: log q and x_0, from which F comes, must tell of one law."""
    if law.cdf is None:
        return 0.0
    mass = CubicSpline(law.axes[0], law.density).antiderivative()(law.axes[0])
    return float(np.abs(mass + law.cdf[0] - law.cdf).max())


def tilt_on_grid(target: Tilt, axes: tuple[Array, ...]) -> GridLaw:
    """A target's density (and cdf, d = 1) on a grid."""
    law = target.law
    # The sum's own log-density does not underflow where Phi(r) does.
    exact = law.log_density if law is not None and law.is_positive else target.log_density
    return _on_grid(exact, law, axes)


def mixture_on_grid(law: GaussianSum, axes: tuple[Array, ...]) -> GridLaw:
    """A mixture's density (and cdf, d = 1) on a grid."""
    return _on_grid(law.log_density, law, axes)


def _on_grid(
    log_density: Callable[[Tensor], Tensor], law: GaussianSum | None, axes: tuple[Array, ...]
) -> GridLaw:
    values = log_density(grid_points(axes)).reshape([len(a) for a in axes]).numpy()
    cdf = None
    if len(axes) == 1:
        if law is not None:
            cdf = law.cdf(torch.as_tensor(axes[0])).numpy()
        else:
            cdf = CubicSpline(axes[0], np.exp(values)).antiderivative()(axes[0])
    return GridLaw(axes, values, cdf)
