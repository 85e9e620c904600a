"""DiffusionNFT: contrast a reward-weighted and a (1 - reward)-weighted flow matching loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_positive
from theory.methods import Anchored, Batch, Draws, Info, Online, Optimum, Policy, Task
from theory.methods.contract.task import column, square
from theory.methods.matching.reward_mapping import Mapped
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential

Normaliser = Literal["off", "x1", "velocity"]
LEAST_WEIGHT = 1e-5
LEAST_BETA = 1e-100


@dataclass(frozen=True)
class NFT(Anchored, Online, Mapped):
    """min E[r |v+ - Y|^2 + (1 - r) |v- - Y|^2], v+- = v_old +- nft_beta (v - v_old), r in [0, 1].

    Optimum, old copy fixed at the base: v* = v0 + (2/nft_beta) Cov(Y, r | X_t) (liu, Theorem 1.1);
    the perturbations are v*+- = v0 +- 2 Cov(Y, r | X_t), whatever nft_beta. Claimed target:
    base exp((2/nft_beta) r) / Z, of which v* is the first-order Taylor approximation.

    adaptive_normaliser: divide each branch's squared error by its own mean absolute size, held
        fixed; of the x_1-prediction as in the released code, or of the velocity. Off in the note.
    reward_mapping: `Mapped`.  refresh_every, old_decay, pool: `Online`.
    kl_weight, anchor: `Anchored`; the optimum is w mu* + (1 - w) v_ref with
        w = nft_beta^2 / (nft_beta^2 + kl_weight), mu* the one without (theory/recursion/spec.py).

    Source: Zheng et al. 2025 (DiffusionNFT), as liu (1) states it; anchors: zhu, last section.
    """

    nft_beta: float = 1.0
    adaptive_normaliser: Normaliser = "off"

    name: ClassVar[str] = "nft"
    summary: ClassVar[str] = "DiffusionNFT: positive and negative branches about the old velocity"
    source: ClassVar[str] = "Zheng et al. 2025 (DiffusionNFT); liu (1), Theorem 1.1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("nft_beta", self.nft_beta)
        if not LEAST_BETA <= self.nft_beta <= 1 / LEAST_BETA:
            raise ValueError(
                f"nft_beta must be a number from {LEAST_BETA:g} to {1 / LEAST_BETA:g}, whose "
                f"squares a float can hold, got {self.nft_beta!r}"
            )
        check_choice("adaptive_normaliser", self.adaptive_normaliser, get_args(Normaliser))

    # --- training

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        batch, old = self.batch(policy, task, n, draws), policy.lagging
        with torch.no_grad():
            batch["v_old"] = old(batch["x"], batch["t"], batch["cond"])
        return batch | self.anchored(policy, task, batch)

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        old, y, r = batch["v_old"], batch["y"], batch["r"]
        step = self.nft_beta * (policy.student(batch["x"], batch["t"], batch["cond"]) - old)
        positive = self._branch(task, batch, old + step - y)
        negative = self._branch(task, batch, old - step - y)
        loss = r * positive + (1 - r) * negative
        if self.kl_weight:
            loss = loss + self.kl_weight * square(old + step / self.nft_beta - batch["v_ref"])
        return loss, {"reward" if self.reward_mapping == "identity" else "mapped_reward": r}

    def _branch(self, task: Task, batch: Batch, error: Tensor) -> Tensor:
        """One branch's squared error, normalised where that is switched on."""
        if self.adaptive_normaliser == "off":
            return square(error)
        if self.adaptive_normaliser == "x1":
            t = batch["t"]
            alpha, sigma = task.path.alpha(t), task.path.sigma(t)
            slope = sigma / (sigma * task.path.dalpha(t) - alpha * task.path.dsigma(t))
            error = column(slope, error) * error
        weight = error.detach().abs().flatten(1).mean(1).clamp_min(LEAST_WEIGHT)
        return square(error) / weight

    # --- truth

    def scale(self, problem: Problem) -> float:
        """The inverse temperature of the claimed target: 2/nft_beta in units of the mapped r, and
        what the penalty leaves of it."""
        return 2 * self.slope(problem) * self.nft_beta / (self.nft_beta**2 + self.kl_weight)

    def optimum(self, problem: Problem) -> Optimum | None:
        if self.adaptive_normaliser != "off" or self.refresh_every or self.anchor == "guided":
            return None
        field = problem.cumulant_field(self.scale(problem), 1)
        exact = self.reward_mapping == "identity"
        note = "" if exact else "batch statistics by their expectation, nothing clipped"
        return Optimum(field, exact=exact, note=note)

    def target(self, problem: Problem) -> Tilt | None:
        if self.anchor == "guided":
            return None  # the guided law has no closed form
        return problem.tilt(Exponential(self.scale(problem)))
