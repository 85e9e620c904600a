r"""How the old copy follows the student in the released code: schedules of its EMA's decay.

Once per epoch, at optimiser step k, old <- d old + (1 - d) student with

    d(k) = 0                      before step `flat`,
    d(k) = min(rate (k - flat), most)   from it on.

Where the student reaches its optimum every epoch, old + lam of the tilt, the old copy's tilt gains
(1 - d) lam: after K epochs it has made sum_e (1 - d_e) full updates. With an anchor that leaves
omega of the student's step from the reference,

    B_{e+1} = d_e B_e + (1 - d_e) omega (B_e + lam),
    B_K = L (1 - prod_e (1 - (1 - d_e)(1 - omega))),    L = omega lam / (1 - omega).

Averaging LoRA factors is not averaging their product: with c = d,

    (c B_1 + (1-c) B_2)(c A_1 + (1-c) A_2) = c B_1 A_1 + (1-c) B_2 A_2 - c (1-c) (B_2-B_1)(A_2-A_1),

so that old's product lags behind the averaged one by the sum over epochs of c_e (1-c_e) dB_e dA_e,
damped by the later decays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.common.checks import (
    check_choice,
    check_nonnegative,
    check_order,
    check_positive,
    check_share,
    is_finite_number,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """d(k) = 0 for k < flat, then min(rate (k - flat), most).

    Raises:
        ValueError: flat below 0, rate negative, most outside [0, 1).
    """

    flat: int = 0
    rate: float = 0.0
    most: float = 0.0

    def __post_init__(self) -> None:
        check_order("flat", self.flat, 0)
        check_nonnegative("rate", self.rate)
        check_share("most", self.most)

    def decay(self, step: int) -> float:
        """d at optimiser step k."""
        return 0.0 if step < self.flat else min(self.rate * (step - self.flat), self.most)

    def decays(self, epochs: int, steps: int = 1) -> Array:
        """(epochs,): d at the end of every epoch, of `steps` optimiser steps each."""
        check_order("epochs", epochs, 0)
        check_order("steps", steps, 1)
        k = steps * np.arange(1, epochs + 1)
        return np.asarray(
            np.where(k < self.flat, 0.0, np.minimum(self.rate * (k - self.flat), self.most))
        )

    def full_updates(self, epochs: int, steps: int = 1) -> float:
        """sum over epochs of 1 - d, in closed form."""
        check_order("epochs", epochs, 0)
        check_order("steps", steps, 1)
        if not (self.rate and self.most):
            return float(epochs)
        # Epochs on the ramp: flat <= steps e <= flat + most/rate.
        first = min(math.ceil(self.flat / steps), epochs + 1)
        last = math.floor(min((self.flat + self.most / self.rate) / steps, epochs))
        first = max(first, 1)
        ramp = 0.0
        if last >= first:
            count = last - first + 1
            ramp = self.rate * (steps * count * (first + last) / 2 - self.flat * count)
        return epochs - ramp - self.most * (epochs - max(last, first - 1))

    def tilt(self, epochs: int, step: float = 1.0, share: float = 1.0, steps: int = 1) -> float:
        """B_K for a step lam of the tilt and a share omega of it that an anchor leaves."""
        if not (is_finite_number(share) and 0 <= share <= 1):
            raise ValueError(f"share must be a number in [0, 1], got {share!r}")
        if share == 1:
            return step * self.full_updates(epochs, steps)
        moves = 1 - self.decays(epochs, steps)
        logs = np.log1p(-moves * (1 - share)) if share > 0 else np.log(np.maximum(1 - moves, 0))
        return float(share * step / (1 - share) * -np.expm1(logs.sum()))


SCHEDULES = {
    "none": Schedule(),
    "half": Schedule(0, 0.001, 0.5),
    "late": Schedule(75, 0.0075, 0.999),
}
NAMES = (*SCHEDULES, "constant")


def schedule(name: str, decay: float | None = None) -> Schedule:
    """A released schedule by name ("none", "half": min(0.001 k, 0.5), "late": after step 75
    min(0.0075 (k - 75), 0.999)), or "constant" with its decay.

    Raises:
        ValueError: another name, a decay with a schedule that has its own, or "constant" without.
    """
    check_choice("ema", name, NAMES)
    if name != "constant":
        if decay is not None:
            raise ValueError(
                f"decay must come with ema 'constant', else it changes nothing, got {decay!r}"
            )
        return SCHEDULES[name]
    if decay is None or not (is_finite_number(decay) and 0 <= decay < 1):
        raise ValueError(f"decay must be a number in [0, 1) with ema 'constant', got {decay!r}")
    return Schedule(0, 1e9, decay) if decay else Schedule()


def partial_gain(decay: float, reach: float) -> float:
    """Tilt per epoch over lam, in the long run, where the student goes `reach` of the way to its
    optimum every epoch and is carried on: reach (1-d) / (1 - (1-reach) d)."""
    check_positive("reach", reach)
    if reach > 1 or not 0 <= decay < 1:
        raise ValueError(
            f"reach and decay must lie in (0, 1] and [0, 1), got {reach!r} and {decay!r}"
        )
    return reach * (1 - decay) / (1 - (1 - reach) * decay)


# --- factors


def factor_gap(A_1: Array, B_1: Array, A_2: Array, B_2: Array, decay: float) -> Array:
    """Product of averaged factors less average of products, (m, n): -c(1-c)(B_2-B_1)(A_2-A_1);
    A (r, n), B (m, r)."""
    return np.asarray(-decay * (1 - decay) * (B_2 - B_1) @ (A_2 - A_1))


def followed_gap(A: Sequence[Array], B: Sequence[Array], decays: Sequence[float]) -> Array:
    """The same after following A[1:], B[1:] from A[0], B[0], epoch by epoch:
    -sum_e prod_{later} c c_e (1-c_e) (B_e - old B)(A_e - old A)."""
    a, b = A[0], B[0]
    gap = np.zeros((b.shape[0], a.shape[1]))
    for new_a, new_b, c in zip(A[1:], B[1:], decays, strict=True):
        gap = c * gap + factor_gap(a, b, new_a, new_b, c)
        a, b = a + (1 - c) * (new_a - a), b + (1 - c) * (new_b - b)
    return gap
