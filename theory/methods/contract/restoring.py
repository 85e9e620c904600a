"""Whether a method leads back to its stated optimum, from every smooth displacement nearby.

At a maximum, or a saddle, the expected gradient vanishes just as it does at a minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor, nn

from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.methods.contract import returned
from theory.methods.contract.method import Method, Optimum
from theory.methods.contract.perturbed import Displaced, directions
from theory.methods.contract.places import (
    STUDENT,
    Made,
    Setting,
    catch_up,
    gradient_samples,
    move,
    policy_on,
)
from theory.problems.problem import Problem

# Displacements in their directions' own size, the blocks of rows that see each, and the numbers of
# rounds after which it is asked whether these tell.
DISPLACEMENT, REPEATS, LOOKS = 0.1, 48, (1, 4, 16)


def restoring_gradients(
    method: Method, problem: Problem, best: Optimum, *, n: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """The gradient along displacements from the optimum, by player and direction: (REPEATS,)
    independent samples, whose mean is positive where the method leads back.

    A player (student, value network) is displaced alone, by DISPLACEMENT times a direction; the
    batch is what that policy collects, n rows a sample. What the same draws give at the optimum
    itself, zero in expectation, is taken off: where the optimum is not `exact` but the limit of
    small steps, that is zero, and what is left the gradient, to first order in the step.
    """

    def policy_of(blocks: int) -> Made:
        return policy_on(
            method, problem, blocks, seed, lambda f, outputs, _: Displaced(f, blocks, outputs)
        )

    def home(x: Tensor, t: Tensor) -> Tensor:
        return problem.base_field(x, t) - best.velocity(x, t)

    players = policy_of(1)[3]
    move(method, players, best)
    pairs = [
        (player, name, direction)
        for player, model in players.items()
        for name, direction in directions(problem, model.outputs).items()
    ]
    if method.starts_from == "base":
        pairs.append((STUDENT, "towards the reference", home))
    found = []
    for amount in (DISPLACEMENT, 0.0):
        task, policy, draws, players = policy_of(REPEATS * len(pairs))
        move(method, players, best)
        for name, model in players.items():
            model.directions = [d if name == player else None for player, _, d in pairs]
            nn.init.constant_(model.amount, amount)
        catch_up(policy)
        setting = Setting(task, policy, returned.collect(method, policy, task, n, draws))
        found.append(gradient_samples(method, setting).sum(1).reshape(len(pairs), REPEATS))
    names = [f"{player}, {name}" for player, name, _ in pairs]
    return dict(zip(names, found[0] - found[1], strict=True))


@dataclass(frozen=True)
class ReturnTest:
    """The least t of the gradients along displacements, where it was met, and the bound."""

    statistic: float
    where: str
    bound: float

    @property
    def leads_back(self) -> bool:
        """Whether every displacement's gradient is told from zero, and positive."""
        return self.statistic > self.bound

    def __str__(self) -> str:
        away = "leads away" if self.statistic < -self.bound else "not told from zero"
        what = "" if self.leads_back else f", {away}"
        return f"least t {self.statistic:.1f} ({self.where}{what}), bound {self.bound:.1f}"


def return_test(
    method: Method, problem: Problem, best: Optimum, *, n: int = 64, seed: int = 0
) -> ReturnTest:
    """Whether the expected gradient leads back from every displacement; draws more where the first
    do not tell. Student's t, Bonferroni over displacements and looks."""
    rounds: list[dict[str, Tensor]] = []
    while True:
        rounds.append(restoring_gradients(method, problem, best, n=n, seed=seed + len(rounds)))
        if len(rounds) not in LOOKS:
            continue
        samples = {name: torch.cat([r[name] for r in rounds]) for name in rounds[0]}
        rate = FALSE_FAILURE_RATE / (len(samples) * len(LOOKS))
        bound = float(stats.t.isf(rate, len(rounds) * REPEATS - 1))
        t = {name: _student(values) for name, values in samples.items()}
        where = min(t, key=lambda name: t[name])
        test = ReturnTest(t[where], where, bound)
        if abs(test.statistic) > bound or len(rounds) == LOOKS[-1]:
            return test


def _student(samples: Tensor) -> float:
    """Student's t of the mean; 0 where nothing ever moves, -inf where a sample is not finite."""
    if not bool(torch.isfinite(samples).all()):
        return -math.inf
    mean, error = float(samples.mean()), float(samples.std()) / math.sqrt(len(samples))
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
