r"""Second routes for the released advantage modes: branches in rationals, sums cut at every kink.

f(A) has kinks or jumps at -c, 0 and c. Between them it is smooth, so that Gauss and Legendre on
pieces that end there are accurate for every mode, however sharp. On the line, given X_t = x, the
loss itself is summed, r = 1/2 + f(A)/(2c) + an offset, and minimised from its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from theory.ledger.oracle.conditional import Instant
from theory.ledger.oracle.integrals import Array, PlaneNumbers
from theory.ledger.oracle.online import LineLaw
from theory.ledger.oracle.released.mapping import _PANELS, MixtureLine, advantages, pieces
from theory.ledger.oracle.released.training import Epochs

MODES = ("all", "positive_only", "negative_only", "one_only", "binary")
_FAR = 12.0  # standard deviations


def mapped(name: str, advantage: Fraction, clip: Fraction) -> Fraction:
    """r of one advantage, branch by branch as the training script has it."""
    a = min(max(advantage, -clip), clip)
    if name == "positive_only":
        a = min(max(a, Fraction(0)), clip)
    elif name == "negative_only":
        a = min(max(a, -clip), Fraction(0))
    elif name == "one_only":
        a = Fraction(1) if a > 0 else Fraction(0)
    elif name == "binary":
        a = Fraction((a > 0) - (a < 0))
    elif name != "all":
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {name!r}")
    return min(max((a / clip) / 2 + Fraction(1, 2), Fraction(0)), Fraction(1))


def _shaped(name: str, a: Array, clip: float) -> Array:
    """f(A) by the same branches."""
    if name == "one_only":
        return np.where(a > 0, 1.0, 0.0)
    if name == "binary":
        return np.sign(a)
    low = 0.0 if name == "positive_only" else -clip
    high = 0.0 if name == "negative_only" else clip
    return np.minimum(np.maximum(a, low), high)


def slopes(
    weights: Array, means: Array, stds: Array, size: float, group: int, clip: float
) -> Array:
    """Cov(f(A), R) / Var R by mode, (5,), for A = (R - mean of the group) / size; group = 0:
    infinite. weights, means, stds (K,) of the prompt's rewards."""
    law, total = MixtureLine(weights, means, stds), np.zeros(len(MODES))
    kinks = clip * np.array([-1.0, 0.0, 1.0])
    for chances, shares, offsets, A in advantages(law, size, group, kinks):
        loaded = shares * offsets
        total += [float(chances @ (loaded * _shaped(n, A, clip)).sum(axis=1)) for n in MODES]
    return np.asarray(total / law.moments()[1])


def minimisers(
    case: PlaneNumbers,
    x: Array,
    at: Instant,
    b: float,
    centre: float,
    size: float,
    clip: float,
    gap: float = 0.0,
    offset: float = 0.0,
) -> Array:
    """The velocities, by mode (5,), that minimise E[r |v+ - V|^2 + (1 - r) |v- - V|^2 | X_t = x] on
    the rectified-flow path, v+- = v +- b (mu - v), v = E[V | x] + gap, r = 1/2 + f(A)/(2 clip) +
    offset, A = (R - centre)/size, R a linear reward on the line.

    Raises ValueError for a case with d > 1 or a reward that is not linear."""
    if case.dim != 1 or case.kind != "linear":
        raise ValueError(f"the reward must be linear and d = 1, got {case.kind} in d = {case.dim}")
    sign, place = float(case.frame[0, 0]), float(x[0])
    centres, stds = sign * case.means[:, 0], np.sqrt(case.covs[:, 0, 0])
    spread = at.sigma / at.alpha  # of X_1 about x / alpha, without the base
    low = max((centres - _FAR * stds).min(), place / at.alpha - _FAR * spread)
    high = min((centres + _FAR * stds).max(), place / at.alpha + _FAR * spread)
    ends = case.reward(sign * np.array([[0.0], [1.0]]))
    raw = centre + size * clip * np.array([-1.0, 0.0, 1.0])
    kinks = np.sort(np.clip((raw - ends[0]) / (ends[1] - ends[0]), low, high))
    width = float((stds * spread / np.hypot(stds, spread)).min())
    panels = max(_PANELS, int((high - low) / (2 * width)))
    y, w = (q.ravel() for q in pieces(np.array([[low, *kinks, high]]), panels))
    logs = case.log_density(sign * y[:, None]) - 0.5 * ((place - at.alpha * y) / at.sigma) ** 2
    w = w * np.exp(logs - logs.max())
    w /= w.sum()
    advantage = (case.reward(sign * y[:, None]) - centre) / size
    target = at.velocity(x[0], y)
    v = float(w @ target) + gap
    step = float(np.sqrt(w @ (target - v) ** 2)) / b

    def found(r: Array) -> float:
        def loss(mu: float) -> float:
            plus, minus = v + b * (mu - v) - target, v - b * (mu - v) - target
            return float(w @ (r * plus**2 + (1 - r) * minus**2))

        middle, up, down = loss(v), loss(v + step), loss(v - step)
        return v - step * (up - down) / 2 / (up - 2 * middle + down)

    shaped = (_shaped(name, advantage, clip) for name in MODES)
    return np.array([found(0.5 + f / (2 * clip) + offset) for f in shaped])


@dataclass(frozen=True)
class OffsetEpochs(Epochs):
    """Epochs with mapped rewards whose mean is 1/2 + offset."""

    offset: float = 0.0

    def rewarded(self, law: LineLaw, x: Array, t: float) -> tuple[Array, Array, Array]:
        u, m, product = super().rewarded(law, x, t)
        return u, m + self.offset, product + self.offset * u
