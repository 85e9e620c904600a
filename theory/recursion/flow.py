"""The law that a velocity v samples, from the law q that it is a correction of: v = u_q + D.

u_q carries N(0, I) along q's own marginals q_t. Along trajectories of v the ratio phi_t =
log p_t(X_t) - log q_t(X_t) of the two densities at t obeys (continuity equations of both)

    phi_0 = 0,    d phi/dt = -div D - D . s_t,    s_t = grad log q_t,

and log p_1 = log q + phi_1. Only the correction is integrated: zero stays zero, and every error of
positions and fields enters times D. Trajectories run backwards from the data nodes at t = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.recursion.grid import (
    STAGES,
    TABLEAU_A,
    TABLEAU_B,
    Array,
    interpolate,
    outside,
)
from theory.recursion.moments import Fields, Tables


@dataclass(frozen=True)
class Velocity:
    """A velocity on the x grids with its divergence: (T, *m, d) and (T, *m)."""

    v: Array
    div: Array

    def mixed(self, weight: float, other: Velocity) -> Velocity:
        """weight self + (1 - weight) other."""
        rest = 1 - weight
        return Velocity(weight * self.v + rest * other.v, weight * self.div + rest * other.div)


def optimum(
    old: Velocity, fields: Fields, lam: float, centre: float = 0.5, offset: float = 0.0
) -> Velocity:
    """mu* = v + lam Cov + (lam (m - centre) + offset)(u - v), with its exact divergence."""
    gap, gap_div = fields.u - old.v, fields.div_u - old.div
    lead = lam * (fields.mean - centre) + offset
    v = old.v + lam * fields.cov + lead[..., None] * gap
    div = old.div + lam * fields.div_cov + lead * gap_div + lam * (fields.grad_mean * gap).sum(-1)
    # At t = 1 every field is x.
    v[0], div[0] = old.v[0], old.div[0]
    return Velocity(v, div)


def transport(
    tables: Tables, velocity: Velocity, reference: Fields, points: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """(phi (N,), x_0 (N, d), lost (N,)) of data points (N, d): log p = log q + phi.

    reference: the fields of q. lost: trajectories that left the x grid (their numbers mean
    nothing).
    """
    D = velocity.v - reference.u
    rate = -(velocity.div - reference.div_u) - (D * reference.score).sum(-1)
    table = np.concatenate([velocity.v, rate[..., None]], -1)
    state = np.concatenate([points, np.zeros((len(points), 1))], -1)
    lost = np.zeros(len(points), dtype=bool)
    d, clock = tables.dim, tables.clock
    slopes = np.empty((STAGES, *state.shape))
    flat = slopes.reshape(STAGES, -1)
    for indices, width in zip(clock.stage, clock.widths, strict=True):
        for i, k in enumerate(indices):
            now = state - width * (TABLEAU_A[i, :i] @ flat[:i]).reshape(state.shape)
            place = (now[:, :d] - tables.origin[k]) / tables.spacing[k]
            gone = outside(tables.shape, place)
            if gone is not None:
                lost |= gone
                place = np.where(gone[:, None], 0.0, place)
            slopes[i] = interpolate(table[k], place)
        state = state - width * (TABLEAU_B @ flat).reshape(state.shape)
    return -state[:, d], state[:, :d], lost
