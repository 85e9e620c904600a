"""DiffusionNFT: contrast a reward-weighted and a (1 - reward)-weighted flow matching loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from theory.common.checks import check_choice, check_finite, check_order, check_positive
from theory.fields.mixture import VelocityModel
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
    interpolate,
    square,
)
from theory.problems.problem import Problem
from theory.tilts.moments import reward_moments
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential

Normaliser = Literal["off", "x1", "velocity"]
Mapping = Literal["identity", "released"]
Anchor = Literal["base", "guided"]
LEAST_WEIGHT = 1e-5
LEAST_BETA = 1e-100
CLIP, SPREAD, STD_FLOOR = 5.0, 10.0, 1e-4


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
    refresh_every: every so many steps (an epoch) the old copy follows the student,
        old <- old_decay old + (1 - old_decay) student, and data come from the old copy; 0: never,
        data come from the base. The learning rate starts again with every epoch.
    pool: samples a network drawn from the old copy once an epoch, and data drawn from them; 0:
        fresh ones at every step.
    kl_weight: of a penalty |v - v_ref|^2; the optimum is w mu* + (1 - w) v_ref with
        w = nft_beta^2 / (nft_beta^2 + kl_weight), mu* the one without (theory/recursion/spec.py).
    anchor: v_ref, the base, or the base under classifier-free guidance.

    Source: Zheng et al. 2025 (DiffusionNFT), as liu (1) states it; anchors: zhu, last section.
    """

    nft_beta: float = 1.0
    adaptive_normaliser: Normaliser = "off"
    reward_mapping: Mapping = "identity"
    refresh_every: int = 0
    old_decay: float = 0.0
    pool: int = 0
    kl_weight: float = 0.0
    anchor: Anchor = "base"

    name: ClassVar[str] = "nft"
    summary: ClassVar[str] = "DiffusionNFT: positive and negative branches about the old velocity"
    source: ClassVar[str] = "Zheng et al. 2025 (DiffusionNFT); liu (1), Theorem 1.1"

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        if not LEAST_BETA <= self.nft_beta <= 1 / LEAST_BETA:
            raise ValueError(
                f"nft_beta = {self.nft_beta!r}: allowed are numbers from {LEAST_BETA:g} to "
                f"{1 / LEAST_BETA:g}, whose squares a float can hold"
            )
        check_choice("adaptive_normaliser", self.adaptive_normaliser, get_args(Normaliser))
        check_choice("reward_mapping", self.reward_mapping, get_args(Mapping))
        check_order("refresh_every", self.refresh_every, 0)
        check_finite("old_decay", self.old_decay)
        if not 0 <= self.old_decay < 1:
            raise ValueError(f"old_decay = {self.old_decay!r}: allowed are numbers in [0, 1)")
        check_order("pool", self.pool, 0)
        check_finite("kl_weight", self.kl_weight)
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight = {self.kl_weight!r}: allowed are numbers >= 0")
        check_choice("anchor", self.anchor, get_args(Anchor))
        for name, value, needs, other in (
            ("pool", self.pool, "refresh_every", self.refresh_every),
            ("anchor", self.anchor != "base", "kl_weight", self.kl_weight),
        ):
            if value and not other:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} changes nothing here: allowed with "
                    f"{needs} > 0"
                )

    @property
    def rewards(self) -> RewardDomain:
        return RewardDomain() if self.reward_mapping == "released" else UNIT_INTERVAL

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        reference = frozen_copy(student)
        policy = Policy(
            student, reference, old=frozen_copy(student, "old") if self.refresh_every else None
        )
        if self.pool:
            # Drawn for its dtype and device: every process advances its generator by one pool.
            like = draws.normal(self._share(task), *task.event_shape)
            rows = len(like) * task.shards
            policy.state = {
                "pool": like.new_zeros(rows, *task.event_shape),
                "rewards": like.new_zeros(rows),
                "conditions": like.new_zeros(rows, task.condition_numbers, dtype=torch.long),
                "fresh": torch.zeros(()),
            }
        return policy

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        if self.pool:
            batch = self._from_pool(policy, task, n, draws)
        elif policy.old is None:
            batch = endpoint_batch(task, task.endpoints(n, draws))
            batch["r"] = self._mapped(task, batch["r"], batch["cond"])
        else:
            ends = task.endpoints_of(policy.old, n, draws, task.sampling_steps)
            batch = endpoint_batch(task, ends)
            batch["r"] = self._mapped(task, batch["r"], batch["cond"])
        old = policy.reference if policy.old is None else policy.old
        assert old is not None
        with torch.no_grad():
            batch["v_old"] = old(batch["x"], batch["t"], batch["cond"])
            if self.kl_weight:
                place = batch["x"], batch["t"], batch["cond"]
                assert policy.reference is not None
                guided = self.anchor == "guided"
                batch["v_ref"] = (task.guided_velocity if guided else policy.reference)(*place)
        return batch

    def _mapped(self, task: Task, raw: Tensor, cond: Any) -> Tensor:
        """Rewards as the loss takes them, from raw ones."""
        self.rewards.check_values(raw, self.label)
        return REWARD_MAPPINGS[self.reward_mapping](task, raw, cond)

    def _from_pool(self, policy: Policy, task: Task, n: int, draws: Draws) -> dict[str, Any]:
        """A batch with x_1 from this epoch's samples of the old copy, each with its reward."""
        if not bool(policy.state["fresh"]):
            self._fill_pool(policy, task, draws)
        which = (draws.uniform(n) * self.pool).long().clamp_max(self.pool - 1)
        start = torch.arange(task.blocks, device=which.device).repeat_interleave(n) * self.pool
        row, state = start + which, policy.state
        x0, t = draws.normal(n, *task.event_shape), task.draw_times(n, draws)
        x1 = state["pool"][row]
        x, y = interpolate(task.path, x0, x1, t)
        cond = state["conditions"][row] if task.condition_numbers else None
        return {"x": x, "t": t, "y": y, "r": state["rewards"][row], "cond": cond}

    def _fill_pool(self, policy: Policy, task: Task, draws: Draws) -> None:
        """Sample the old copy; every process its share, and all keep the whole pool."""
        assert policy.old is not None
        own = self._share(task)
        _, x1, _, cond = task.endpoints_of(policy.old, own, draws, task.sampling_steps)
        rewards = self._mapped(task, task.reward(x1, cond), cond)
        policy.state["pool"].copy_(task.all_rows(x1))
        policy.state["rewards"].copy_(task.all_rows(rewards))
        if cond is not None:
            policy.state["conditions"].copy_(task.all_rows(cond))
        policy.state["fresh"].fill_(1.0)

    def _share(self, task: Task) -> int:
        """The part of the pool that one process samples."""
        own, rest = divmod(self.pool, task.shards)
        if rest:
            raise ValueError(
                f"pool = {self.pool} on {task.shards} processes: allowed are multiples of them"
            )
        return own

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

    def after_step(self, policy: Policy, step: int) -> None:
        if self.refresh_every and step % self.refresh_every == 0:
            follow(policy.old, policy.student, self.old_decay)
            if self.pool:
                policy.state["fresh"].zero_()

    @property
    def cycle(self) -> int:
        return self.refresh_every

    # --- truth

    def scale(self, problem: Problem) -> float:
        """The inverse temperature of the claimed target: 2/nft_beta in units of the mapped r, and
        what the penalty leaves of it."""
        unit = 1.0
        if self.reward_mapping == "released":
            _, std = reward_moments(problem.base, problem.moments)
            unit = 1 / (SPREAD * (std + STD_FLOOR))
        return 2 * unit * self.nft_beta / (self.nft_beta**2 + self.kl_weight)

    def check_problem(self, problem: Problem) -> None:
        super().check_problem(problem)
        if self.anchor == "guided":
            problem.guided_field  # noqa: B018  (refuses problems without guidance)

    def optimum(self, problem: Problem) -> Optimum | None:
        if self.adaptive_normaliser != "off" or self.refresh_every or self.anchor == "guided":
            return None
        field = problem.cumulant_field(self.scale(problem), 1)
        if self.reward_mapping == "identity":
            return Optimum(field)
        return Optimum(
            field, exact=False, note="batch statistics by their expectation, nothing clipped"
        )

    def target(self, problem: Problem) -> Tilt | None:
        if self.anchor == "guided":
            return None  # the guided law has no closed form
        return problem.tilt(Exponential(self.scale(problem)))


def released_mapping(task: Task, raw: Tensor, cond: Any = None) -> Tensor:
    """clamp(1/2 + clip(A, -5, 5)/10, 0, 1), A = (R - prompt's mean) / (batch's std + 1e-4)."""
    mean, std = task.reward_statistics(raw, cond)
    advantage = (raw - mean) / (std + STD_FLOOR)
    return (0.5 + advantage.clamp(-CLIP, CLIP) / SPREAD).clamp(0.0, 1.0)


REWARD_MAPPINGS: dict[str, Callable[[Task, Tensor, Any], Tensor]] = {
    "identity": lambda task, raw, cond: raw,
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
