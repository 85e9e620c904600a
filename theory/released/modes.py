r"""The released advantage modes: what stands in the advantage's place before it becomes a reward.

With A the advantage, c the clip (5), r = clamp(1/2 + f(A)/(2c), 0, 1):

    all             f = A clipped to [-c, c]         r in [0, 1]
    positive_only   f = A clipped to [0, c]          r in [1/2, 1]
    negative_only   f = A clipped to [-c, 0]         r in [0, 1/2]
    one_only        f = 1 where A > 0, else 0        r = 1/2 + 1/(2c) or 1/2: 0.6 or 0.5
    binary          f = sign of A                    r = 1/2 +- 1/(2c), 1/2 at A = 0: 0.4, 0.5, 0.6

The last two divide a number of size one by 2c too: neither makes r 0 or 1 (at c = 1 they would).
For A ~ N(m, s^2) the slope E f'(A), jumps counted as their height times the density there, is
Cov(f(A), A)/s^2 (Stein): at m = 0, s = 1 it is 1, 1/2, 1/2 (less what the clip takes), phi(0) and
2 phi(0), phi(0) = 0.399.

Source: the training scripts of DiffusionNFT's release (`adv_mode`). FastVideo takes the same names,
verl-omni calls the first one "continuous". Another trainer's "all" or "binary" may be another map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from theory.common.checks import check_choice, check_positive

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mode:
    """f(A) = A clipped to [low c, high c], or, if it jumps, low where A < 0, high where A > 0 and
    0 at A = 0 (no released mode that jumps has another value there)."""

    low: float
    high: float
    jumps: bool = False

    def value(self, advantage: ArrayLike, clip: float) -> Array:
        """f(A), of A's shape."""
        a = np.asarray(advantage, dtype=float)
        if self.jumps:
            return np.where(a > 0, self.high, np.where(a < 0, self.low, 0.0))
        return np.clip(a, self.low * clip, self.high * clip)

    def mapped(self, advantage: ArrayLike, clip: float) -> Array:
        """r, of A's shape."""
        check_positive("clip", clip)
        return np.clip(0.5 + self.value(advantage, clip) / (2 * clip), 0.0, 1.0)

    def mean(self, mean: ArrayLike, std: ArrayLike, clip: float) -> Array:
        """E f(A) for A ~ N(mean, std^2), std >= 0."""
        a, q = np.asarray(mean, dtype=float), np.asarray(std, dtype=float)
        if self.jumps:
            with np.errstate(divide="ignore", invalid="ignore"):
                above = np.where(q > 0, ndtr(a / q), 0.5 + 0.5 * np.sign(a))
            return self.low + (self.high - self.low) * above
        low, high = self.low * clip, self.high * clip
        return np.asarray(a + _shortfall(low - a, q) - _shortfall(a - high, q))

    def slope(self, mean: ArrayLike, std: ArrayLike, clip: float) -> Array:
        """E f'(A) for A ~ N(mean, std^2), std > 0: Cov(f(A), A)/std^2."""
        a, q = np.asarray(mean, dtype=float), np.asarray(std, dtype=float)
        if self.jumps:
            density = np.exp(-0.5 * (a / q) ** 2) / (math.sqrt(2 * math.pi) * q)
            return np.asarray((self.high - self.low) * density)
        return np.asarray(ndtr((self.high * clip - a) / q) - ndtr((self.low * clip - a) / q))


def _shortfall(gap: Array, std: Array) -> Array:
    """E[(gap - std Z)+], Z ~ N(0, 1)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(
            std > 0, gap / np.where(std > 0, std, 1.0), np.where(gap >= 0, np.inf, -np.inf)
        )
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(np.where(std > 0, gap * ndtr(z) + std * density, np.maximum(gap, 0.0)))


MODES = {
    "all": Mode(-1.0, 1.0),
    "positive_only": Mode(0.0, 1.0),
    "negative_only": Mode(-1.0, 0.0),
    "one_only": Mode(0.0, 1.0, jumps=True),
    "binary": Mode(-1.0, 1.0, jumps=True),
}


def mode(name: str) -> Mode:
    """A released mode by its name there.

    Raises:
        ValueError: another name.
    """
    check_choice("adv_mode", name, MODES)
    return MODES[name]
