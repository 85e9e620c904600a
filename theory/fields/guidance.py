"""Classifier-free guidance on mixtures: the guided velocity and the law that it really samples.

    v_w = (1 + w) v(x, t | c) - w v(x, t)

has the score of p_t(x|c)^(1+w) p_t(x)^-w at each t (handbook (23)), but those densities are not
the marginals of one process. With h_t = log p_t(x|c) / p_t(x) the ODE samples

    p(x|c) exp(w h_1(x)) exp(-w (1 + w) int_0^1 eta_t |grad h_t(X_t)|^2 dt),

the integral along the path that ends at x: the product p(x|c)^(1+w) p(x)^-w where |grad h_t|
does not depend on x (Gaussians of one covariance, for example).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from theory.common.checks import check_scale
from theory.fields.mixture import MixtureField, MovedField


@dataclass(frozen=True, eq=False)
class GuidedField(MovedField):
    """(1 + weight) conditional - weight unconditional.

    weight: a number >= 0, or one for every law of a batch (*b,).

    Raises:
        ValueError: fields of different dimension or path, a negative weight.
    """

    conditional: MixtureField
    unconditional: MixtureField
    weight: float | Tensor

    def __post_init__(self) -> None:
        check_scale("weight", self.weight)
        if bool((torch.as_tensor(self.weight) < 0).any()):
            raise ValueError(f"weight must hold numbers >= 0, got {self.weight!r}")
        one, other = self.conditional, self.unconditional
        if one.dim != other.dim or one.path != other.path:
            raise ValueError(
                "conditional and unconditional must have one dimension and one path, got d = "
                f"{one.dim} on {one.path} and d = {other.dim} on {other.path}"
            )

    @property
    def base(self) -> MixtureField:  # type: ignore[override]
        return self.conditional

    def _mix(self, one: Tensor, other: Tensor, inner: int) -> Tensor:
        w = torch.as_tensor(self.weight, dtype=one.dtype, device=one.device)
        w = w.reshape(*w.shape, *([1] * inner)) if w.ndim else w
        return one + w * (one - other)

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        return self._mix(self.conditional(x, t), self.unconditional(x, t), 2)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self._mix(self.conditional.score(x, t), self.unconditional.score(x, t), 2)

    def posterior_mean(self, x: Tensor, t: Tensor | float) -> Tensor:
        one, other = self.conditional, self.unconditional
        return self._mix(one.posterior_mean(x, t), other.posterior_mean(x, t), 2)

    def with_divergence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        one, own = self.conditional.with_divergence(x, t)
        other, others = self.unconditional.with_divergence(x, t)
        return self._mix(one, other, 2), self._mix(own, others, 1)
