"""Networks of diffusers' kind whose outputs are exact, and the theory that they must give back.

The second route: the law of the network's own state z = a x_1 + s eps is written with
torch.distributions and its score by automatic differentiation, in the network's own clock; none of
theory's formulas and none of the adapter's is used.
"""

from __future__ import annotations

from typing import Literal

import diffusers
import numpy as np
import torch
from torch import Tensor, distributions, nn

from scaleup.adapter import Prompts
from tests.helpers import Plain
from tests.scaleup.tiny import SD15_SCHEDULE

DOUBLE = torch.float64
NO_PROMPTS = Prompts(("",), lambda text: {"encoder_hidden_states": torch.zeros(1, 1, 1)})


def abar() -> Tensor:
    """Cumulative products of Stable Diffusion 1.5's schedule, as diffusers has them, in float64."""
    return diffusers.DDIMScheduler(**SD15_SCHEDULE).alphas_cumprod.to(DOUBLE)


def knots() -> np.ndarray:
    """Rectified-flow time of every integer step, step 0 (data) first."""
    a = abar().numpy()
    return np.sqrt(a) / (np.sqrt(a) + np.sqrt(1 - a))


def time_of(step: Tensor) -> Tensor:
    """Rectified-flow time of fractional steps: the piecewise linear schedule, by numpy."""
    table = knots()
    place = np.interp(step.detach().double().numpy(), np.arange(len(table)), table)
    return torch.as_tensor(place).to(step.dtype)


def exact_eps(law: Plain, z: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """E[eps | a x_1 + s eps = z] = -s grad log density(z); z (n, d), a and s (n,)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        wide = (len(z), len(law.weights))
        spread = (a**2)[:, None, None, None] * law.covs
        noise = (s**2)[:, None, None, None] * torch.eye(law.means.shape[1], dtype=DOUBLE)
        density = distributions.MixtureSameFamily(
            distributions.Categorical(law.weights.expand(wide)),
            distributions.MultivariateNormal(a[:, None, None] * law.means, spread + noise),
        )
        (score,) = torch.autograd.grad(density.log_prob(z).sum(), z)
    return -s[:, None] * score


class PlantedUNet(nn.Module):
    """A UNet whose output is the exact eps (or v) of a mixture under the VP schedule."""

    def __init__(self, law: Plain, kind: Literal["eps", "v"] = "eps") -> None:
        super().__init__()
        self.law, self.kind = law, kind

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        assert not return_dict
        assert len(encoder_hidden_states) == len(sample) == len(timestep)
        t = time_of(timestep)
        total = torch.hypot(t, 1 - t)
        a, s = t / total, (1 - t) / total
        z = sample.flatten(1)
        eps = exact_eps(self.law, z, a, s)
        if self.kind == "v":
            x1 = (z - s[:, None] * eps) / a[:, None]
            eps = a[:, None] * eps - s[:, None] * x1
        return (eps.reshape(sample.shape),)


class PlantedTransformer(nn.Module):
    """A transformer of SD3's kind: dx/dsigma = eps - x_1 at sigma = timestep/1000, exactly."""

    def __init__(self, law: Plain) -> None:
        super().__init__()
        self.law = law

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        assert not return_dict
        sigma = timestep / 1000
        z = hidden_states.flatten(1)
        eps = exact_eps(self.law, z, 1 - sigma, sigma)
        alpha = (1 - sigma)[:, None]
        mean = self.law.weights @ self.law.means  # E[x_1] where z holds nothing of x_1
        x1 = torch.where(alpha == 0, mean, (z - sigma[:, None] * eps) / alpha)
        return ((eps - x1).reshape(hidden_states.shape),)


class PlantedToy(nn.Module):
    """A small velocity network v(y, t) behind the face of an eps-model: eps = y - t v."""

    def __init__(self, toy: nn.Module) -> None:
        super().__init__()
        self.toy = toy

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        t = time_of(timestep.double())
        total = 1 / torch.hypot(t, 1 - t)
        y = sample.flatten(1) / total.to(sample.dtype)[:, None]
        t = t.to(sample.dtype)
        return ((y - t[:, None] * self.toy(y, t)).reshape(sample.shape),)
