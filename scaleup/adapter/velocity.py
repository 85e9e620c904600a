"""A network of diffusers as a VelocityModel, and guidance as a model that wraps a model.

Conditions are prompt indices (`Prompts`): a long tensor (rows,), or (rows, m) whose column 0 is the
index (the rest is the caller's own), or None for the empty prompt.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from scaleup.adapter.clocks import Clock
from scaleup.adapter.prompts import Prompts
from theory.common.checks import check_finite
from theory.fields.mixture import VelocityModel


class NetworkVelocity(nn.Module):
    """v(x, t, cond) = E[X_1 - X_0 | X_t = x, prompt] by a frozen or adapted network.

    network: called as network(<sample>=, timestep=, **prompt embeddings, return_dict=False); can be
    exchanged for a wrapped one (accelerate, DDP). It is held without being registered:
    `parameters()` and `state_dict()` of this module are empty, so that no optimiser or checkpoint
    takes the whole pretrained model for the student.
    clock: the network's time and scaling.  prompts: what `cond` indexes; may lie on another device.
    dtype: of the network's inputs.  autocast: run the network under torch.autocast in this dtype.

    The conversion runs in x's dtype, in float32 at least; the result has x's dtype.
    """

    network: Any

    def __init__(
        self,
        network: Any,
        clock: Clock,
        prompts: Prompts,
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network, self.clock, self.prompts = network, clock, prompts
        self.dtype, self.autocast = dtype, autocast

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register a network under this name, and with it all its parameters.
        if name == "network":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """x (rows, *event), t (rows,) or a scalar, cond as above -> (rows, *event).

        Raises:
            ValueError: t outside the clock's span or of another shape; an unknown prompt index.
            TypeError: t in half precision, cond not of whole numbers.
        """
        work = torch.promote_types(x.dtype, torch.float32)
        point, time = x.to(work), self._times(t, x, work)
        sample, step = self.clock.inputs(point, time)
        place = {self.clock.sample_name: sample.to(self.dtype), "timestep": step}
        rows = self.prompts.rows(prompt_index(cond, x))
        texts = {name: value.to(x.device, self.dtype) for name, value in rows.items()}
        with self._precision(x.device):
            output = self.network(**place, **texts, return_dict=False)[0]
        return self.clock.velocity(output.to(work), point, time).to(x.dtype)

    def _times(self, t: Tensor | float, x: Tensor, work: torch.dtype) -> Tensor:
        """t as (rows,) in the working dtype, inside the clock's span."""
        if not isinstance(t, Tensor):
            t = torch.tensor(t, dtype=work, device=x.device)
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, len(x))):
            raise ValueError(
                f"t must be a scalar or have shape ({len(x)},), x's rows, got {tuple(t.shape)}"
            )
        return self.clock.check(t).to(x.device, work).expand(len(x))

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.autocast)


class Guided(nn.Module):
    """Classifier-free guidance: v_u + w (v_c - v_u), v_u at the empty prompt (index 0).

    One call of the model with 2 n rows: points, times and conditions are doubled together. w = 1,
    and no condition at all, is the model itself. (Ho and Salimans 2022 write 1 + w for this w.)

    model: any VelocityModel whose conditions are prompt indices.  weight: w, finite.
    """

    def __init__(self, model: VelocityModel, weight: float) -> None:
        super().__init__()
        check_finite("weight", weight)
        self.model, self.weight = model, weight

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """x (n, *event), t (n,) or a scalar, cond (n,) or (n, m) -> (n, *event)."""
        if self.weight == 1 or cond is None:
            return self.model(x, t, cond)
        if isinstance(t, Tensor) and t.ndim:
            t = torch.cat([t, t]) if len(t) > 1 else t
        empty = cond.clone()
        empty[(..., 0) if cond.ndim > 1 else ...] = 0
        both = self.model(torch.cat([x, x]), t, torch.cat([empty, cond]))
        unconditional, conditional = both.chunk(2)
        return unconditional + self.weight * (conditional - unconditional)


def prompt_index(cond: Tensor | None, x: Tensor) -> Tensor:
    """Prompt indices (rows,) from a condition in any of its forms.

    Raises:
        ValueError: not one index (or row) for each row of x.
    """
    if cond is None:
        return torch.zeros(len(x), dtype=torch.long, device=x.device)
    if not isinstance(cond, Tensor) or cond.ndim not in (1, 2) or len(cond) != len(x):
        shape = tuple(cond.shape) if isinstance(cond, Tensor) else type(cond).__name__
        raise ValueError(
            f"cond must have shape ({len(x)},) or ({len(x)}, m), prompt indices (in column 0), or "
            f"be None, got {shape}"
        )
    return cond if cond.ndim == 1 else cond[:, 0]
