"""Every method of the family beside DDPO and Adjoint Matching, at one budget of evaluations each
problem.

All train ancestral kernels of 16 steps from the same base network; a run's steps follow from its
BUDGET (`toys.evaluation.cost`). Methods without a prior go to R^beta, so they run where the reward
is a sum of bumps and beta a whole number; r is R itself there (form "plain"), and log R elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theory.common.checks import check_choice, check_order
from theory.common.tolerances import TRAINED_SHARE
from theory.problems.problem import Problem
from theory.tilts.bump_rewards import BumpReward
from toys.evaluation import cost as evaluations
from toys.experiments.gflownets.runs import missed, rows_of
from toys.training.config import RunConfig

PROBLEMS = ("note_1d", "bump_2d", "bumps_1d")
# Few rows and many steps: the scores of early kernels are learnt from those of later ones.
BUDGET, BATCH = 1.5e7, 64
METHODS = {
    "nabla_held": "residual_nabla_db:held=true,scale={scale:.12g}",
    "nabla_bidirectional": "residual_nabla_db:bidirectional=true,scale={scale:.12g}",
    "db_held": "residual_db:held=true,scale={scale:.12g}",
    "rtb": "relative_trajectory_balance:scale={scale:.12g}",
    "nabla_printed": "residual_nabla_db:scale={scale:.12g}",
    "nabla_printed_longer": "residual_nabla_db:scale={scale:.12g}",
    "db_printed": "residual_db:scale={scale:.12g}",
    "nabla_corrected": "residual_nabla_db:correction=true,scale={scale:.12g}",
    "nabla_no_prior": "nabla_db:scale={scale:.12g}",
    "dag_db": "dag_db:scale={scale:.12g}",
    "tb": "trajectory_balance:scale={scale:.12g}",
    "adjoint_matching": "adjoint_matching:scale={scale:.12g}",
    "ddpo": "ddpo:kl_weight={kl_weight:.12g}",
}
WITHOUT_PRIOR = ("nabla_no_prior", "dag_db", "tb")
# Narrow bumps take longer to learn: budgets of one's own, in the unit of the plan's; and twice as
# long where no flow takes the modes' weights to the first kernels.
BUDGETS = {"bumps_1d": 3.5}
SLOWEST = {("bumps_1d", "nabla_bidirectional"): 7.0}
# One loss with more than the others: is what is left the training's, or the loss's?
LONGER = {"nabla_printed_longer": 3.5}
# Peak learning rates other than the method's own: a flow and a policy that learn from each other
# are slow to take the reward's gradient to the first kernels.
RATES = dict.fromkeys(
    ("nabla_held", "nabla_printed", "nabla_printed_longer", "nabla_corrected", "nabla_no_prior"),
    1e-2,
)


@dataclass(frozen=True)
class Plan:
    """Evaluations of a run (in the unit of `times`), rows a step, the networks' width."""

    budget: float = BUDGET
    batch: int = BATCH
    width: int = 64

    def __post_init__(self) -> None:
        check_order("batch", self.batch, 1)

    def config(self, name: str, problem: Problem) -> RunConfig:
        """The run of a method (a key of METHODS) on a named problem."""
        scale = problem.scale
        method = METHODS[name].format(scale=scale, kl_weight=1 / scale)
        bare = RunConfig.checked(method=method, problem=problem.name)
        budget = self.budget * times(name, problem.name)
        steps = round(budget / (self.batch * evaluations.per_row(bare).total))
        return RunConfig.checked(
            method=method,
            problem=problem.name,
            steps=max(1, steps),
            batch=self.batch,
            width=self.width,
            learning_rate=rate(name, problem.name),
        )

    def configs(self, problem: str, only: Sequence[str] | None = None) -> dict[str, RunConfig]:
        """The runs on a problem, those that can be on it, by name.

        Raises:
            ValueError: no such problem or method.
        """
        for name in only or ():
            check_choice("method", name, METHODS)
        case = RunConfig(method="flow_matching", problem=problem).parsed_problem
        return {
            name: self.config(name, case)
            for name in only or METHODS
            if (name not in WITHOUT_PRIOR or without_prior(case))
            and not (name in LONGER and problem in BUDGETS)
        }


def times(name: str, problem: str) -> float:
    """A run's budget in the unit of the plan's."""
    return SLOWEST.get((problem, name), BUDGETS.get(problem, LONGER.get(name, 1.0)))


def rate(name: str, problem: str) -> float:
    """A run's peak learning rate; 0: the method's own."""
    return 5e-3 if (problem, name) in SLOWEST else RATES.get(name, 0.0)


def without_prior(problem: Problem) -> bool:
    """Whether R^beta is a Gaussian sum that can be integrated, R being the reward itself."""
    return isinstance(problem.reward, BumpReward) and problem.scale == round(problem.scale)


def compare(
    out: Path,
    problems: Sequence[str] = PROBLEMS,
    only: Sequence[str] | None = None,
    *,
    processes: int = 2,
    plan: Plan | None = None,
) -> list[dict[str, Any]]:
    """A row a run, method by method within a problem.

    Raises:
        ValueError: a problem or method that is not allowed, and what training raises.
    """
    plan = plan or Plan()
    asked = {(p, n): c for p in problems for n, c in plan.configs(p, only).items()}
    rows = rows_of(out, {f"{p} {n}": c for (p, n), c in asked.items()}, processes)
    return [{**row, "name": name} for (_, name), row in zip(asked, rows, strict=True)]


def failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a method misses the floor of trained laws against its own optimum."""
    return missed(rows, TRAINED_SHARE)
