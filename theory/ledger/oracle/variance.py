r"""The noise of one sample's gradient, by brute force.

Both losses are taken as values only: gradients in mu are central differences over any step, which
are exact for a loss that is quadratic in mu, and the curvature is the second difference of the
mean loss. Where mu lies is found from values of the loss too (`theory.ledger.oracle.conditional`).
Along a direction outside the plane V is independent of r given x, and a loss is linear in r.

The result is the trace of the covariance of gradient over curvature, given X_t = x. QuadratureError
where an integral does not reach its tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory.ledger.oracle.conditional import (
    Instant,
    _Split,
    nft_minimiser,
    velocity,
    weighted_minimiser,
)
from theory.ledger.oracle.integrals import Array, PlaneNumbers

# One coordinate's loss: (mu, V, r) -> the same shape.
Loss = Callable[[Array, Array, Array], Array]


def nft(case: PlaneNumbers, x: Array, at: Instant, nft_beta: float, optimal: bool) -> float:
    """Of NFT's loss about v_0, at v_0 or at its minimiser. ValueError for nft_beta = 0."""
    v0 = velocity(case, x, at)
    mu = nft_minimiser(case, x, at, nft_beta) if optimal else v0

    def loss_at(old: Array) -> Loss:
        def loss(mu: Array, v: Array, r: Array) -> Array:
            push = nft_beta * (mu - old)
            return np.asarray(r * (old + push - v) ** 2 + (1 - r) * (old - push - v) ** 2)

        return loss

    return _trace(case, x, at, mu, v0, loss_at, 1 / nft_beta)


def weighted(case: PlaneNumbers, x: Array, at: Instant, scale: float, optimal: bool) -> float:
    """Of the loss weighted by 1 + scale r, at v_0 or at its minimiser."""
    v0 = velocity(case, x, at)
    mu = weighted_minimiser(case, x, at, lambda r: 1 + scale * r) if optimal else v0

    def loss_at(old: Array) -> Loss:
        return lambda mu, v, r: np.asarray((1 + scale * r) * (mu - v) ** 2)

    return _trace(case, x, at, mu, v0, loss_at)


def _trace(
    case: PlaneNumbers,
    x: Array,
    at: Instant,
    mu: Array,
    v0: Array,
    loss_at: Callable[[Array], Loss],
    reach: float = 1.0,
) -> float:
    """reach: steps of differences, in posterior widths; short ones lose the curvature's digits."""
    parts = _Split(case, x, at)
    e, place, old = parts.e, case.frame.T @ mu, case.frame.T @ v0
    chart = parts.law.charts[0]
    width = reach * float(
        np.abs(parts.v(chart.centre + chart.frame.T) - parts.v(chart.centre[None])).max()
    )
    plane = loss_at(old[:e])

    def columns(y: Array) -> Array:
        r, v = parts.reward(y), parts.v(y)
        up, middle, down = (plane(place[:e] + k * width, v, r) for k in (1, 0, -1))
        slope = (up - down) / (2 * width)
        return np.hstack([slope, slope**2, up, middle, down, r, r**2])

    found = parts.law.mean(columns).value
    slope, square, up, middle, down = found[: 5 * e].reshape(5, e)
    r, rr = found[5 * e :]
    bend = (up - 2 * middle + down) / width**2  # of the mean loss
    total = float(((square - slope**2) / bend**2).sum())
    if len(parts.rest) == 0:
        return total
    beside = loss_at(old[e:, None])
    bad, good = (_rest(parts, place[e:, None], width, beside, level) for level in (0.0, 1.0))
    move = {k: good[k] - bad[k] for k in ("slope", "bend")}
    # E g = E[g_0] + E[r] E[g_1 - g_0], E g^2 likewise: V is independent of r here.
    mean = bad["slope"] + r * move["slope"]
    cross = parts.rest_mean(
        lambda v: (
            _slope(beside, place[e:, None], width, v, 0.0)
            * _slope(beside, place[e:, None], width, v, 1.0)
        )
    )
    second = bad["square"] + 2 * r * (cross - bad["square"])
    second = second + rr * (good["square"] - 2 * cross + bad["square"])
    curvature = bad["bend"] + r * move["bend"]
    return total + float(((second - mean**2) / curvature**2).sum())


def _slope(loss: Loss, mu: Array, width: float, v: Array, level: float) -> Array:
    r = np.full(v.shape, level)
    return np.asarray((loss(mu + width, v, r) - loss(mu - width, v, r)) / (2 * width))


def _rest(parts: _Split, mu: Array, width: float, loss: Loss, level: float) -> dict[str, Array]:
    """Means along the other directions of gradient, its square and the curvature at reward
    `level`, (d - e,) each."""

    def bend(v: Array) -> Array:
        r = np.full(v.shape, level)
        up, middle, down = (loss(mu + k * width, v, r) for k in (1, 0, -1))
        return np.asarray((up - 2 * middle + down) / width**2)

    return {
        "slope": parts.rest_mean(lambda v: _slope(loss, mu, width, v, level)),
        "square": parts.rest_mean(lambda v: _slope(loss, mu, width, v, level) ** 2),
        "bend": parts.rest_mean(bend),
    }
