r"""The released KL term: kl_weight |v - v_ref|^2, of velocities, beside a loss on x_1-predictions.

With x1(v) = x + (1-t) v on the rectified-flow path, and w a normaliser that both branches share,

    (5/b) [r |x1+ - x1|^2 + (1-r) |x1- - x1|^2] / w + kl |v - v_ref|^2,    b = nft_beta,

is, given X_t, c |v - mu*|^2 + kl |v - v_ref|^2 + const with c(t) = 5 b (1-t)^2 / w and mu* the
optimum without the penalty. Hence

    v = omega mu* + (1 - omega) v_ref,    omega(t) = c / (c + kl),

and over epochs, v_ref = v_0, the tilt at time t (v^k = v_0 + B_k(t) Cov) follows the anchored
recursion B_{k+1} = omega (B_k + 2/b): that of two KL penalties (zhu, last section) at

    eta_1 = 2/b,    eta_0(t) = 10 (1-t)^2 / (w kl),    B_k = eta_0 (1 - omega^k),

in units of the mapped reward. One kl_weight is one eta_0 at one time only: eta_0(t) falls to 0 at
the data end. kl(t) = 10 (1-t)^2 / (w eta_0), a penalty on the x_1-prediction, would match one
eta_0. A mapped reward has standard deviation 1/10: eta_0(t)/10 = (1-t)^2 / (w kl) per standard
deviation.

What a field v_0 + B(t) Cov samples: for a Gaussian base of standard deviation s and a reward
along a line (the fields are affine then),

    base exp(B r)/Z,    B = int_0^1 B(t) d sin(phi(t)),    tan(phi) = s t/(1-t),

since v_0 + 1{t < T} Cov takes the path's law to that of exp(m_T), and m_T along the base's flow has
the slope sin(phi(T)) in r; for other problems it is the first order, r of Gaussian data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.common.checks import check_choice, check_nonnegative, check_order, check_positive
from theory.methods.matching.reward_mapping import SPREAD

Array = NDArray[np.float64]
LOSS_FACTOR = 5.0  # the clip of the advantages, by which the released loss is multiplied
NORMALISERS = ("off", "x1")
ORDER = 400


@dataclass(frozen=True)
class Penalty:
    """kl_weight |v - v_ref|^2 beside the released loss.

    normaliser: "off" (w = 1), or "x1", both branches divided by the mean absolute error of the
        x_1-prediction; in high dimension, where it is the same for every sample and branch, and
        for Gaussian data of standard deviation `data_std`: w = sqrt(2/pi) s (1-t)/sqrt(V).
    size: a factor on w.

    Raises:
        ValueError: nft_beta, data_std or size not positive, kl_weight negative, another normaliser.
    """

    nft_beta: float
    kl_weight: float = 1e-4
    normaliser: str = "off"
    data_std: float = 1.0
    size: float = 1.0

    def __post_init__(self) -> None:
        for name in ("nft_beta", "data_std", "size"):
            check_positive(name, getattr(self, name))
        check_choice("normaliser", self.normaliser, NORMALISERS)
        check_nonnegative("kl_weight", self.kl_weight)

    def width(self, t: ArrayLike) -> Array:
        """w(t)."""
        s = np.asarray(t, dtype=float)
        if self.normaliser == "off":
            return np.full(s.shape, self.size)
        total = np.sqrt((s * self.data_std) ** 2 + (1 - s) ** 2)
        return np.asarray(self.size * math.sqrt(2 / math.pi) * self.data_std * (1 - s) / total)

    def pull(self, t: ArrayLike) -> Array:
        """kl / c(t) = (1 - omega)/omega: the penalty's curvature over the loss's; inf at t = 1."""
        s = np.asarray(t, dtype=float)
        if not self.kl_weight:
            return np.zeros(s.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.kl_weight * self.width(s) / (LOSS_FACTOR * self.nft_beta * (1 - s) ** 2)
        return np.asarray(np.where(s == 1, np.inf, ratio))

    def share(self, t: ArrayLike) -> Array:
        """omega(t): what one epoch's optimum keeps of the step from the reference."""
        return np.asarray(1 / (1 + self.pull(t)))

    @property
    def eta_1(self) -> float:
        """2/nft_beta, the step of the tilt without a penalty."""
        return 2 / self.nft_beta

    def eta_0(self, t: ArrayLike) -> Array:
        """10 (1-t)^2 / (w kl), the limit of the tilt, in units of the mapped reward."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.eta_1 / self.pull(t))

    def tilt(self, t: ArrayLike, epochs: int) -> Array:
        """B_k(t) of the online iteration with an exact optimum every epoch, mapped reward."""
        check_order("epochs", epochs, 0)
        pull = self.pull(t)
        if not self.kl_weight:
            return np.full(pull.shape, self.eta_1 * epochs)
        gone = -np.expm1(-epochs * np.log1p(pull))  # 1 - omega^k
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(np.isinf(pull), 0.0, self.eta_1 / pull * gone))

    def kept(self, t: ArrayLike, epochs: int) -> Array:
        """B_k(t) over its value without a penalty, k 2/nft_beta."""
        check_order("epochs", epochs, 1)
        return np.asarray(self.tilt(t, epochs) / (self.eta_1 * epochs))

    def limit_per_std(self, t: ArrayLike, spread: float = 1 / SPREAD) -> Array:
        """eta_0(t) times the standard deviation of what the loss takes as r: 1/10 for mapped
        rewards, that of the reward itself where it is not mapped."""
        check_positive("spread", spread)
        return np.asarray(self.eta_0(t) * spread)


def matching_weight(
    eta_0: float, t: ArrayLike, normaliser: str = "off", data_std: float = 1.0
) -> Array:
    """kl(t) = 10 (1-t)^2 / (w eta_0): with it time t has the anchor eta_0."""
    check_positive("eta_0", eta_0)
    unit = Penalty(1.0, 1.0, normaliser, data_std)
    gap = 1 - np.asarray(t, dtype=float)
    width = np.where(
        gap > 0, unit.width(t), 1.0
    )  # at t = 1 the normaliser is 0 too, to first order
    return np.asarray(2 * LOSS_FACTOR * gap**2 / (width * eta_0))


def law_tilt(of_time: Callable[[Array], Array], data_std: float = 1.0) -> float:
    """int_0^1 B(t) d sin(phi): the tilt of what v_0 + B(t) Cov samples (module docstring)."""
    check_positive("data_std", data_std)
    t, weight = law_weights(data_std)
    return float(weight @ of_time(t))


def law_weights(data_std: float = 1.0, order: int = ORDER) -> tuple[Array, Array]:
    """Nodes t (order,) and weights of int . d sin(phi), Gauss-Legendre in phi; they add up to 1."""
    x, w = np.polynomial.legendre.leggauss(order)
    phi = 0.25 * np.pi * (1 + x)
    # tan(phi) = s t/(1-t)
    t = np.sin(phi) / (np.sin(phi) + data_std * np.cos(phi))
    return t, np.asarray(0.25 * np.pi * w * np.cos(phi))
