"""What an online recursion does each epoch: its parameters, checked, and its closed forms.

nft_beta = b, lam = 2/b, Y = X_1 - X_0. One exact DiffusionNFT epoch with old field v and data from
the law q that v samples minimises over mu, pointwise in (x, t),

    E_q[r |v + b (mu - v) - Y|^2 + (1 - r) |v - b (mu - v) - Y|^2 | X_t = x].

Setting the gradient 2 b E[(2 r - 1)(v - Y)] + 2 b^2 (mu - v) to zero,

    mu* = v + E_q[(2 r - 1)(Y - v) | x] / b
        = v + lam Cov_q(Y, r | x) + (lam/2) (2 m_q - 1) (u_q - v),

u_q = E_q[Y | x], m_q = E_q[r | x]. The loss is b^2 |mu - mu*|^2 + const, so a penalty
kl_weight |mu - v_ref|^2 moves the optimum to w mu* + (1 - w) v_ref, w = b^2 / (b^2 + kl_weight).
The old field follows as ema v + (1 - ema) mu.

Closed forms, of the recursion on the tilt B_k alone (the idealised one: v^k = v^0 + B_k Cov_{q_0}):
B_{k+1} = ema B_k + (1 - ema) w (B_k + lam) = rate B_k + (1 - ema) w lam, hence

    rate = ema + (1 - ema) w,    limit = w lam / (1 - w) = 2 b / kl_weight,
    B_k = limit (1 - rate^k),    and B_k = (1 - ema) lam k where kl_weight = 0.

Densities under two KL penalties, max E_p r - KL(p | p^k)/eta_1 - KL(p | p^0)/eta_0:
p^{k+1} ~ (p^k)^w (p^0)^(1-w) exp(lam r), w = eta_0/(eta_0 + eta_1), lam = w eta_1;
B_{k+1} = w B_k + lam: rate w, limit eta_0, B_k = eta_0 (1 - w^k).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from theory.common.checks import (
    check_choice,
    check_instance,
    check_nonnegative,
    check_order,
    check_positive,
    check_share,
)
from theory.fields.mixture import ExactField
from theory.laws.gaussians import GaussianSum

Mode = Literal["frozen", "refit", "student"]


def _check_float64(reference: GaussianSum | ExactField) -> None:
    if reference.dtype != torch.float64:
        raise TypeError(f"reference must have dtype torch.float64, got {reference.dtype}")


@dataclass(frozen=True, eq=False)
class Recursion:
    """Online NFT: the field of every epoch's data is the (averaged) optimum of the epoch before.

    mode: "frozen"   v^k = v^0 + B_k Cov_{q_0}(Y, r | x): the first law's term, added every epoch.
          "refit"    the old field is u_q of its own samples' law: mu* = u_q + lam Cov_q.
          "student"  the old field is the last optimum itself, which is no u_q of any law.
    ema: weight of the old field in the average; kl_weight: of the penalty |mu - v_ref|^2.
    reference: v_ref, any exact float64 field on the problem's path (None: the base's field).

    Raises:
        ValueError: nft_beta not positive, ema outside [0, 1), kl_weight negative, unknown mode.
        TypeError: a reference that is no ExactField in float64.
    """

    nft_beta: float
    mode: Mode = "refit"
    ema: float = 0.0
    kl_weight: float = 0.0
    reference: ExactField | None = None

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        check_choice("mode", self.mode, get_args(Mode))
        check_share("ema", self.ema)
        check_nonnegative("kl_weight", self.kl_weight)
        if self.reference is not None:
            check_instance("reference", self.reference, ExactField)
            _check_float64(self.reference)
            if self.kl_weight == 0:
                raise ValueError(
                    "kl_weight must be > 0 with a reference (without a penalty it would do "
                    "nothing), got 0"
                )

    @property
    def lam(self) -> float:
        """Step of the tilt per epoch, without ema and anchor."""
        return 2.0 / self.nft_beta

    @property
    def anchor(self) -> float:
        """w: what the penalty leaves of the optimum's step from the reference."""
        return self.nft_beta**2 / (self.nft_beta**2 + self.kl_weight)

    @property
    def rate(self) -> float:
        """Factor by which the distance of B_k from its limit shrinks every epoch."""
        return self.ema + (1 - self.ema) * self.anchor

    @property
    def limit(self) -> float:
        """B_k for k to infinity: 2 nft_beta / kl_weight, infinite without a penalty."""
        return 2 * self.nft_beta / self.kl_weight if self.kl_weight else float("inf")

    def effective_tilt(self, k: int) -> float:
        """B_k of the idealised recursion after k epochs."""
        check_order("k", k, 0)
        if not self.kl_weight:
            return (1 - self.ema) * self.lam * k
        return self.limit * (1 - self.rate**k)

    def pull(self, k: int) -> float:
        """C_k: the share of v_ref - v^0 in v^k = v^0 + B_k Cov + C_k (v_ref - v^0)."""
        check_order("k", k, 0)
        return 1 - self.rate**k if self.kl_weight else 0.0


@dataclass(frozen=True, eq=False)
class TwoKL:
    """p^{k+1} ~ (p^k)^w (p^0)^(1-w) exp(lam r) on densities, with the closed form of B_k.

    reference: the law p^0 that is pulled to, or a field that samples it by its ODE (a guided
    one, say); None: the base. The recursion starts from the base in any case.

    Raises:
        ValueError: eta_0 or eta_1 not positive; a reference with negative weights.
        TypeError: a reference that is neither law nor exact field, or not in float64.
    """

    eta_0: float
    eta_1: float
    reference: GaussianSum | ExactField | None = None

    def __post_init__(self) -> None:
        check_positive("eta_0", self.eta_0)
        check_positive("eta_1", self.eta_1)
        reference = self.reference
        if reference is None:
            return
        check_instance("reference", reference, GaussianSum, ExactField)
        _check_float64(reference)
        if isinstance(reference, GaussianSum) and not reference.is_positive:
            raise ValueError("reference has negative weights: must be a law")

    @property
    def lam(self) -> float:
        return self.eta_0 * self.eta_1 / (self.eta_0 + self.eta_1)

    @property
    def rate(self) -> float:
        return self.eta_0 / (self.eta_0 + self.eta_1)

    @property
    def limit(self) -> float:
        return self.eta_0

    def effective_tilt(self, k: int) -> float:
        """B_k = eta_0 (1 - w^k)."""
        check_order("k", k, 0)
        return self.eta_0 * (1 - self.rate**k)

    def pull(self, k: int) -> float:
        """Share of the reference's log-density in p^k's: 1 - w^k."""
        check_order("k", k, 0)
        return 1 - self.rate**k
