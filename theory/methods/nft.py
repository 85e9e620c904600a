"""DiffusionNFT: contrast a reward-weighted and a (1 - reward)-weighted flow matching loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from theory.checks import check_choice, check_finite, check_order, check_positive
from theory.conditional import reward_moments
from theory.fields import VelocityModel
from theory.methods.contract import (
    UNIT_INTERVAL,
    Batch,
    Draws,
    Info,
    Method,
    Optimum,
    Policy,
    RewardDomain,
    Task,
    column,
    endpoint_batch,
    frozen_copy,
    square,
)
from theory.problem import Problem
from theory.tilt import Tilt
from theory.wrappers import Exponential

Normaliser = Literal["off", "x1", "velocity"]
Mapping = Literal["identity", "released"]
LEAST_WEIGHT = 1e-5
CLIP, SPREAD, STD_FLOOR = 5.0, 10.0, 1e-4
SAMPLING_STEPS = 20


@dataclass(frozen=True)
class NFT(Method):
    """min E[r |v+ - Y|^2 + (1 - r) |v- - Y|^2], v+- = v_old +- nft_beta (v - v_old), r in [0, 1].

    Optimum, old copy fixed at the base: v* = v0 + (2/nft_beta) Cov(Y, r | X_t) (liu, Theorem 1.1);
    the perturbations are v*+- = v0 +- 2 Cov(Y, r | X_t), whatever nft_beta. Claimed target:
    base exp((2/nft_beta) r) / Z, of which v* is the first-order Taylor approximation.

    adaptive_normaliser: divide each branch's squared error by its own mean absolute size, held
        fixed; of the x_1-prediction as in the released code, or of the velocity. Off in the note.
    reward_mapping: "released" maps raw rewards R to clip(A, -5, 5)/10 + 1/2,
        A = (R - mean over the prompt's rows) / (std over the batch + 1e-4), as the released code.
    refresh_every: every so many steps the old copy follows the student,
        old <- old_decay old + (1 - old_decay) student, and data come from the old copy; 0: never,
        data come from the base.

    Source: Zheng et al. 2025 (DiffusionNFT), as liu (1) states it.
    """

    nft_beta: float = 1.0
    adaptive_normaliser: Normaliser = "off"
    reward_mapping: Mapping = "identity"
    refresh_every: int = 0
    old_decay: float = 0.0

    name: ClassVar[str] = "nft"
    summary: ClassVar[str] = "DiffusionNFT: positive and negative branches about the old velocity"
    source: ClassVar[str] = "Zheng et al. 2025 (DiffusionNFT); liu (1), Theorem 1.1"

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        check_choice("adaptive_normaliser", self.adaptive_normaliser, get_args(Normaliser))
        check_choice("reward_mapping", self.reward_mapping, get_args(Mapping))
        check_order("refresh_every", self.refresh_every, 0)
        check_finite("old_decay", self.old_decay)
        if not 0 <= self.old_decay < 1:
            raise ValueError(f"old_decay = {self.old_decay!r}: allowed are numbers in [0, 1)")

    @property
    def rewards(self) -> RewardDomain:
        return RewardDomain() if self.reward_mapping == "released" else UNIT_INTERVAL

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        reference = frozen_copy(student)
        return Policy(student, reference, old=frozen_copy(student) if self.refresh_every else None)

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        if policy.old is None:
            ends = task.endpoints(n, draws)
        else:
            ends = task.endpoints_of(policy.old, n, draws, SAMPLING_STEPS)
        batch = endpoint_batch(task, ends)
        self.rewards.check_values(batch["r"], self.label)
        batch["r"] = REWARD_MAPPINGS[self.reward_mapping](task, batch["r"])
        old = policy.reference if policy.old is None else policy.old
        assert old is not None
        with torch.no_grad():
            batch["v_old"] = old(batch["x"], batch["t"], batch["cond"])
        return batch

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        old, y, r = batch["v_old"], batch["y"], batch["r"]
        step = self.nft_beta * (policy.student(batch["x"], batch["t"], batch["cond"]) - old)
        positive = self._branch(task, batch, old + step - y)
        negative = self._branch(task, batch, old - step - y)
        return r * positive + (1 - r) * negative, {"reward": r}

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

    def after_step(self, policy: Policy, step: int) -> None:
        if self.refresh_every and step % self.refresh_every == 0:
            follow(policy.old, policy.student, self.old_decay)

    # --- truth

    def scale(self, problem: Problem) -> float:
        """The inverse temperature of the claimed target: 2/nft_beta in units of the mapped r."""
        unit = 1.0
        if self.reward_mapping == "released":
            _, std = reward_moments(problem.base, problem.moments)
            unit = 1 / (SPREAD * (std + STD_FLOOR))
        return 2 * unit / self.nft_beta

    def optimum(self, problem: Problem) -> Optimum | None:
        if self.adaptive_normaliser != "off" or self.refresh_every:
            return None
        field = problem.cumulant_field(self.scale(problem), 1)
        if self.reward_mapping == "identity":
            return Optimum(field)
        return Optimum(
            field, exact=False, note="batch statistics by their expectation, nothing clipped"
        )

    def target(self, problem: Problem) -> Tilt:
        return problem.tilt(Exponential(self.scale(problem)))


def released_mapping(task: Task, raw: Tensor) -> Tensor:
    """clamp(1/2 + clip(A, -5, 5)/10, 0, 1), A = (R - prompt's mean) / (batch's std + 1e-4)."""
    groups = task.per_prompt(raw)
    centred = (groups - groups.mean(1, keepdim=True)).reshape(raw.shape)
    std = task.per_network(raw).std(1, keepdim=True, correction=0)
    advantage = task.per_network(centred) / (std + STD_FLOOR)
    return (0.5 + advantage.clamp(-CLIP, CLIP) / SPREAD).clamp(0.0, 1.0).reshape(raw.shape)


REWARD_MAPPINGS: dict[str, Callable[[Task, Tensor], Tensor]] = {
    "identity": lambda task, raw: raw,
    "released": released_mapping,
}


def follow(old: object, student: object, decay: float) -> None:
    """old <- decay old + (1 - decay) student, parameter by parameter.

    Raises:
        TypeError: either is no torch module, so has no parameters to average.
    """
    if not isinstance(old, nn.Module) or not isinstance(student, nn.Module):
        raise TypeError(f"old = {old!r}, student = {student!r}: allowed are torch modules")
    with torch.no_grad():
        for lag, lead in zip(old.parameters(), student.parameters(), strict=True):
            lag.lerp_(lead, 1 - decay)
