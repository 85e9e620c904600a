"""A run of `python -m toys cases`: its methods, their price, what names it on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from theory.common.checks import check_choice, check_order, check_positive
from theory.common.identity import digest_of, plumbline_code
from theory.control.cases import CASES, Case, control_case
from toys.experiments.cases import BATCH, BUDGET, STARTS, STEPS
from toys.experiments.cases.task import ADJOINTS

TRAINER = "toys.experiments.cases.trainer"
MOST_SEED = 2**31 - 1
METHODS = tuple(ADJOINTS)
# Evaluations of the network a trajectory: rollout T, the loss and its gradient 2 T, and for the
# full adjoint the control and its vector-Jacobian product at every slope, T or 2 T - 1 of them.
EVALUATIONS: dict[str, Callable[[int], int]] = {
    "adjoint_matching": lambda T: 3 * T,
    "discrete_adjoint": lambda T: 5 * T,
    "continuous_adjoint": lambda T: 7 * T - 2,
}


@dataclass(frozen=True)
class CaseConfig:
    """A run: everything that changes its numbers.

    budget: evaluations of the network at most; steps: of the Euler chain; batch: trajectories an
    update; start: from u = 0 ("none") or from a network fitted to u*_k along optimal trajectories
    ("optimum", which the budget does not count).

    Raises:
        ValueError: an unknown case or method, numbers that are not positive, or a budget below one
            update.
    """

    case: str
    method: str
    budget: float = BUDGET
    batch: int = BATCH
    steps: int = STEPS
    seed: int = 0
    start: str = "none"

    def __post_init__(self) -> None:
        for name, allowed in (("case", CASES), ("method", METHODS), ("start", STARTS)):
            check_choice(name, getattr(self, name), allowed)
        check_positive("budget", self.budget)
        check_order("batch", self.batch, 1)
        check_order("steps", self.steps, 1)
        check_order("seed", self.seed, 0, MOST_SEED)
        object.__setattr__(self, "budget", float(self.budget))
        if self.updates < 1:
            raise ValueError(
                f"budget must be at least one update of {self.method}, {self.update_cost} "
                f"evaluations, got {self.budget:g}"
            )

    @property
    def problem(self) -> Case:
        return control_case(self.case)

    @property
    def update_cost(self) -> int:
        """Evaluations of the network, forward or vector-Jacobian."""
        return self.batch * EVALUATIONS[self.method](self.steps)

    @property
    def updates(self) -> int:
        return int(self.budget // self.update_cost)

    @cached_property
    def digest(self) -> str:
        """Names the run and the code that trains it."""
        return digest_of([asdict(self), plumbline_code(TRAINER)])[:12]

    @property
    def label(self) -> str:
        return f"{self.method} @ {self.case}" + ("" if self.start == "none" else ", from u*")

    def place(self, out: Path, ending: str) -> Path:
        """OUT/case-method-digest + ending."""
        return out / f"{self.case}-{self.method}-{self.digest}{ending}"
