r"""Online NFT on the line, epoch after epoch, once more: sums over nodes, pulled back by scipy.

A law q on the line is log q on uniform nodes and as a function between them. Given X_t = x on the
rectified-flow path, X_1 is summed over the nodes, weights q(y) exp(-(x - t y)^2 / 2(1-t)^2), or,
where (1 - t) / t is below _LATE steps, over y = x / t + (1 - t) / t xi, xi a fixed grid, weights
q(y) exp(-xi^2 / 2). An epoch's optimum is what solves the normal equations of

    sum w (r |v + b (mu - v) - V|^2 + (1 - r) |v - b (mu - v) - V|^2),    b = nft_beta,

no closed form of it is used. Its field carries N(0, 1) to the law whose distribution function is
Phi of the pull-back x_0(y), so that log q'(y) = -x_0^2 / 2 + log dx_0/dy: no divergence is
integrated, the map is differentiated as a spline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline, make_interp_spline

from theory.ledger.oracle.flow import Field, solve
from theory.ledger.oracle.integrals import Array, PlaneNumbers

MODES = ("frozen", "refit", "student")
RTOL, ATOL = 1e-9, 1e-10
_FAR = 12.0  # standard deviations of the base that the nodes reach
_FAINT = 70.0  # what is e^-70 below the base's peak has no nodes
_DEEP = 9.5  # nor what is mapped further out than this, in later laws
_FINE = 6  # nodes to the width of the narrowest feature
_LATE = 1.5
_DEGREE = 9
_XI = np.arange(-8.5, 8.6, 0.5)

Phi = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class LineLaw:
    """log q and r at uniform nodes (n,), and as functions (m,) -> (m,)."""

    nodes: Array
    values: Array
    rewards: Array
    log_density: Phi
    reward: Phi

    def moments(self, x: Array, t: float) -> tuple[Array, Array, Array]:
        """E[V], E[r] and E[r V] given X_t = x (m,), each (m,), V = (y - x) / (1 - t), t < 1."""
        if 1 - t >= _LATE * (self.nodes[1] - self.nodes[0]) * t:
            y, r = self.nodes, self.rewards
            logs = self.values - 0.5 * ((x[:, None] - t * y) / (1 - t)) ** 2
            weight = np.exp(logs - logs.max(axis=1, keepdims=True))
            mean, m, product = (weight @ np.stack([y, r, r * y], 1) / weight.sum(1)[:, None]).T
            return (mean - x) / (1 - t), m, (product - m * x) / (1 - t)
        y = x[:, None] / t + (1 - t) / t * _XI
        logs = self.log_density(y.ravel()).reshape(y.shape) - 0.5 * _XI**2
        weight = np.exp(logs - logs.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        v, r = (x[:, None] + _XI) / t, self.reward(y.ravel()).reshape(y.shape)
        return (weight * v).sum(1), (weight * r).sum(1), (weight * r * v).sum(1)

    def velocity(self, x: Array, t: float) -> Array:
        """u = E[V | X_t = x], (m,)."""
        return x if t == 1 else self.moments(x, t)[0]

    def epoch(self, x: Array, t: float, b: float, old: Array | None = None) -> tuple[Array, Array]:
        """u, and the mu that minimises the epoch's loss with v_old (m,) (None: u), each (m,)."""
        if t == 1:
            return x, x  # given X_1 = x nothing is left to choose: V is x
        u, m, product = self.moments(x, t)
        v = u if old is None else old
        # Residuals s b mu - c, c = V - (1 - s b) v, with s = 1, weight r, and s = -1, weight 1 - r.
        top = bottom = np.zeros(len(x))
        for s, mass, target in ((1, m, product), (-1, 1 - m, u - product)):
            top = top + s * b * (target - mass * (1 - s * b) * v)
            bottom = bottom + mass * b**2
        return u, np.asarray(top / bottom)


def start(case: PlaneNumbers) -> LineLaw:
    """The base p of a case on the line. Raises ValueError for another dimension."""
    if case.dim != 1 or case.plane_dim != 1:
        raise ValueError(f"the online recursion needs d = 1, got d = {case.dim}")
    sign = float(case.frame[0, 0])

    def log_density(y: Array) -> Array:
        return case.log_density(sign * y[:, None])

    std = np.sqrt(case.covs[:, 0, 0])
    width = float(std.min())
    if case.kind == "bumps":
        width = min(width, 1 / math.sqrt(float(case.parameters["precisions"].max())))
    centre = sign * case.means[:, 0]
    y = np.arange((centre - _FAR * std).min(), (centre + _FAR * std).max(), width / _FINE)
    values = log_density(y)
    keep = values > values.max() - _FAINT

    def reward(y: Array) -> Array:
        return case.reward(sign * y[:, None])

    return LineLaw(y[keep], values[keep], reward(y[keep]), log_density, reward)


def sampled(law: LineLaw, field: Field) -> LineLaw:
    """The law that the field carries N(0, 1) to, on the nodes of another. Raises RuntimeError if
    the solver gives up or trajectories cross."""
    x_0 = solve(lambda t, x: field(x, t), law.nodes, rtol=RTOL, atol=ATOL)
    rise = make_interp_spline(law.nodes, x_0, _DEGREE).derivative()(law.nodes)
    keep = np.abs(x_0) < _DEEP
    if np.any(np.diff(np.flatnonzero(keep)) > 1) or np.any(rise[keep] <= 0):
        raise RuntimeError("the flow's map from data to noise is not increasing on the nodes")
    values = (-0.5 * x_0**2 - 0.5 * math.log(2 * math.pi) + np.log(np.maximum(rise, 0)))[keep]
    nodes, rewards = law.nodes[keep], law.rewards[keep]
    spline = make_interp_spline(nodes, values, _DEGREE)
    return LineLaw(nodes, values, rewards, _continued(spline, nodes), law.reward)


def _continued(spline: BSpline, nodes: Array) -> Phi:
    """The spline, and beyond its ends parabolas that open downwards."""
    ends = nodes[[0, -1]]
    value, slope = spline(ends), spline(ends, 1)
    bend = np.minimum(spline(ends, 2), 0.0)

    def function(y: Array) -> Array:
        inside = np.clip(y, *ends)
        beyond, side = y - inside, (y > ends[1]).astype(int)
        ahead = value[side] + slope[side] * beyond + 0.5 * bend[side] * beyond**2
        return np.where(beyond == 0, spline(inside), ahead)

    return function


def laws(
    case: PlaneNumbers, nft_beta: float, mode: str, epochs: int, ema: float = 0.0
) -> list[LineLaw]:
    """The laws after 0 to `epochs` epochs of online NFT.

    The field that draws an epoch's data follows as ema v + (1 - ema) mu. v_old, from which the
    optimum steps, is u of the data's own law ("refit"), or that field itself ("student"); "frozen"
    adds the first law's step mu - u every epoch.

    Raises ValueError for an unknown mode or d > 1, RuntimeError as `sampled` does.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    first = start(case)
    found = [first]
    field: Field = first.velocity
    for _ in range(epochs):
        field = _next(mode, first, found[-1], field, nft_beta, ema)
        found.append(sampled(found[-1], field))
    return found


def _next(
    mode: str, first: LineLaw, law: LineLaw, before: Field, nft_beta: float, ema: float
) -> Field:
    """The field after one more epoch, given the one before and the law that it samples."""

    def field(x: Array, t: float) -> Array:
        if mode == "frozen":
            u, new = first.epoch(x, t, nft_beta)
            return before(x, t) + (1 - ema) * (new - u)
        old = before(x, t) if mode == "student" else None
        u, new = law.epoch(x, t, nft_beta, old)
        return np.asarray(ema * (u if old is None else old) + (1 - ema) * new)

    return field
