"""The penalised loss minimised from its values."""

from __future__ import annotations

import numpy as np

from theory.ledger.oracle.conditional import Instant, _minimiser, _Split
from theory.ledger.oracle.integrals import Array, PlaneNumbers


def penalised_minimiser(
    case: PlaneNumbers,
    x: Array,
    at: Instant,
    nft_beta: float,
    kl_weight: float,
    v_old: Array,
    v_ref: Array,
    size: float = 1.0,
) -> Array:
    """The velocity mu (d,) that minimises, given X_t = x on the rectified-flow path,

        E[(5/b) (r |x1+ - X_1|^2 + (1 - r) |x1- - X_1|^2) / size | x] + kl_weight |mu - v_ref|^2,

    x1+- = x1(v_old) +- b (x1(mu) - x1(v_old)), x1(v) = x + sigma v, b = nft_beta, from values of
    values of this loss alone."""
    parts = _Split(case, x, at)
    e, frame = parts.e, case.frame
    here, old, ref = frame.T @ x, frame.T @ v_old, frame.T @ v_ref
    share = float(parts.law.mean(lambda y: parts.reward(y)).value[0])

    def losses(mu: Array, v: Array, r: Array | float, where: tuple[Array, Array, Array]) -> Array:
        """The loss by coordinates; all broadcast. where: x, v_old and v_ref."""
        x, v_old, v_ref = where
        data, x1_old, x1_new = x + at.sigma * v, x + at.sigma * v_old, x + at.sigma * mu
        plus, minus = (x1_old + s * nft_beta * (x1_new - x1_old) for s in (1, -1))
        fit = r * (plus - data) ** 2 + (1 - r) * (minus - data) ** 2
        return np.asarray(5 / nft_beta * fit / size + kl_weight * (mu - v_ref) ** 2)

    def plane(mu: Array, y: Array) -> Array:
        r = parts.reward(y)[:, :, None]
        return losses(mu, parts.v(y)[:, None, :], r, (here[:e], old[:e], ref[:e])).sum(axis=-1)

    def rest(mu: Array, w: Array) -> Array:
        return losses(mu[..., None], w, share, (here[e:, None], old[e:, None], ref[e:, None]))

    return _minimiser(parts, plane, rest, old, 1.0 + float(np.abs(old).max()))
