"""Second routes for the released training code: its averages, step by step in exact rationals, and
epochs of its penalised optima on the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from theory.ledger.oracle.flow import Field, solve
from theory.ledger.oracle.integrals import Array, PlaneNumbers
from theory.ledger.oracle.online import LineLaw, sampled, start

# --- averages


def averaged_factors(
    A: Sequence[Array], B: Sequence[Array], decays: Sequence[float]
) -> tuple[Array, Array]:
    """(product of averaged factors, average of products) after following A[1:], B[1:] from A[0],
    B[0]; A (r, n), B (m, r)."""
    a, b, whole = A[0], B[0], B[0] @ A[0]
    for new_a, new_b, d in zip(A[1:], B[1:], decays, strict=True):
        a, b = d * a + (1 - d) * new_a, d * b + (1 - d) * new_b
        whole = d * whole + (1 - d) * new_b @ new_a
    return b @ a, whole


# --- epochs on the line


@dataclass(frozen=True)
class Epochs:
    """nft_beta, kl_weight and the normaliser's constant size; mode as `online.laws` has it ("refit"
    or "student"); mapped: rewards less their mean under the data's law, over 10 times their
    standard deviation (+ 1e-4), plus 1/2."""

    nft_beta: float
    kl_weight: float
    size: float = 1.0
    mode: str = "student"
    mapped: bool = False

    def rewarded(self, law: LineLaw, x: Array, t: float) -> tuple[Array, Array, Array]:
        """E[V], E[r] and E[r V] given X_t = x, r as the loss takes it, each (m,)."""
        u, m, product = law.moments(x, t)
        if not self.mapped:
            return u, m, product
        p = np.exp(law.values - law.values.max())
        mean = float(p @ law.rewards / p.sum())
        std = float(np.sqrt(p @ (law.rewards - mean) ** 2 / p.sum()))
        gain = 0.1 / (std + 1e-4)
        return u, 0.5 + gain * (m - mean), 0.5 * u + gain * (product - mean * u)

    def optimum(
        self, law: LineLaw, x: Array, t: float, old: Array | None, reference: Array
    ) -> tuple[Array, Array]:
        """u, and where the penalised loss on x_1-predictions is stationary, each (m,)."""
        if t == 1:
            return x, x
        u, m, product = self.rewarded(law, x, t)
        v = u if old is None else old
        b, sigma = self.nft_beta, 1 - t
        # x1+- - x1 = sigma (v +- b (mu - v) - V), with weights r and 1 - r.
        top, bottom = self.kl_weight * reference, np.full(len(x), self.kl_weight)
        for s, mass, target in ((1, m, product), (-1, 1 - m, u - product)):
            lead = 5 / b / self.size * sigma**2 * s * b
            top = top + lead * (target - mass * (1 - s * b) * v)
            bottom = bottom + lead * s * b * mass
        return u, np.asarray(top / bottom)


def released_laws(
    case: PlaneNumbers, rules: Sequence[Epochs], decays: Sequence[float]
) -> list[LineLaw]:
    """The laws after 0, 1, ... epochs: penalised optima from v_old, anchored to the first field,
    the old field following as d v + (1 - d) mu. Raises as `online.sampled` does."""
    first = start(case)
    found = [first]
    field: Field = first.velocity
    for rule, d in zip(rules, decays, strict=True):
        field = _followed(rule, first, found[-1], field, d)
        found.append(sampled(found[-1], field))
    return found


def _followed(rule: Epochs, first: LineLaw, law: LineLaw, before: Field, d: float) -> Field:
    def field(x: Array, t: float) -> Array:
        old = before(x, t) if rule.mode == "student" else None
        u, new = rule.optimum(law, x, t, old, first.velocity(x, t))
        return np.asarray(d * (u if old is None else old) + (1 - d) * new)

    return field


def mean_after_epoch(case: PlaneNumbers, rule: Epochs) -> float:
    """Mean of what one epoch's optimum samples, where its field is affine."""
    law = start(case)

    def rate(t: float, x: Array) -> Array:
        return x if 1 - t < 1e-9 else rule.optimum(law, x, t, None, law.velocity(x, t))[1]

    # Of affine fields the mean moves as X_0 = 0 does.
    return float(solve(rate, np.zeros(1), (0.0, 1.0), 1e-10, 1e-12)[0])


def schedule_sums(
    flat: int, rate: float, most: float, epochs: int, steps: int, kept: float, step: float
) -> Array:
    """(full updates, tilt of the old copy), carried epoch by epoch in exact rationals. Every epoch
    the student goes to `kept` of (old + step), and old <- d old + (1 - d) student; d = 0 before
    optimiser step `flat`, then rate (k - flat), at most `most`."""
    old = updates = Fraction(0)
    for k in range(steps, steps * epochs + 1, steps):
        d = Fraction(0) if k < flat else min(Fraction(rate) * (k - flat), Fraction(most))
        old = d * old + (1 - d) * Fraction(kept) * (old + Fraction(step))
        updates += 1 - d
    return np.array([float(updates), float(old)])
