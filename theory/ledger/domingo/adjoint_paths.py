"""One controlled trajectory by the first route: what D10 and D11 compare.

A random problem is steered by u = theta tanh(W x + w + nu t) along a few kernels (constant g, the
memoryless schedule with an offset, or ancestral), noise and start drawn from the setting: theory's
fields, chains and `theory.control.adjoints` (autograd). The second route is
`theory.ledger.oracle.control.steered`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from theory import Chain, Diffusion, Problem
from theory.control.adjoints import Process, chain_process, rollout
from theory.ledger.oracle.control.steered import KINDS, SIGMA_END, STEPS, drawn
from theory.ledger.settings.problems import Setting


@dataclass(frozen=True, eq=False)
class Steered:
    """The numbers that both routes start from: drawn from the setting's time, so that they come
    back with it."""

    setting: Setting

    @cached_property
    def rng_numbers(self) -> dict[str, Any]:
        return drawn(self.setting.dim, self.setting.t)

    @property
    def kind(self) -> str:
        return KINDS[int(self.rng_numbers["kind"][0])]

    @property
    def level(self) -> float:
        """g of the constant schedule; half of it is the offset."""
        return float(self.rng_numbers["level"][0])

    # --- first route

    @cached_property
    def chain(self) -> Chain:
        schedule = {
            "constant": Diffusion.of_constant(self.level),
            "offset": Diffusion.of_offset(self.level / 2),
            "ancestral": None,
        }[self.kind]
        return Chain(STEPS, sigma_end=SIGMA_END, schedule=schedule)

    @cached_property
    def theta(self) -> Tensor:
        return torch.as_tensor(self.rng_numbers["theta"]).requires_grad_(True)

    @cached_property
    def process(self) -> Process:
        n, problem = {k: torch.as_tensor(v) for k, v in self.rng_numbers.items()}, self.problem
        scale = self.setting.case.scale
        plain, _ = chain_process(
            self.chain, problem.base_field, problem.base_field, lambda x: -scale * problem.reward(x)
        )

        def control(x: Tensor, t: float) -> Tensor:
            return torch.tanh(x @ n["W"].T + n["w"] + n["nu"] * t) @ self.theta.T

        return replace(plain, control=control)

    @cached_property
    def problem(self) -> Problem:
        return self.setting.problem

    @cached_property
    def times(self) -> Tensor:
        return torch.arange(STEPS + 1, dtype=torch.float64) / STEPS

    @cached_property
    def states(self) -> Tensor:
        """(1, T + 1, d)."""
        n = {k: torch.as_tensor(v) for k, v in self.rng_numbers.items()}
        return rollout(self.process, self.times, n["start"][None], n["xi"][None])


@lru_cache(maxsize=4)
def steered(setting: Setting) -> Steered:
    """Made once for the claims and their wrong versions."""
    return Steered(setting)
