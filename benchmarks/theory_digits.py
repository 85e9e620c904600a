"""Digits of every closed form on random problems, `python -m benchmarks theory --only digits`.

10,000 problems of benchmarks.digits: d = 1, 2 and 5, scales of bump, component and distance up to
1e6 apart. Where a value's condition number in its inputs is below CONDITION it must be right to the
quadrature_tight tier and may be refused in at most REFUSED of the cases; beyond, what is returned
must be right to that tier all the same, or refused. About thirty CPU-minutes, on two processes.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context

from benchmarks.digits import Case, computed, draw, gap, reference
from theory.common.progress import Progress
from theory.tilts.moments import reward_moments

PROBLEMS, PART = 10_000, 50
CONDITION = 1e6
REFUSED = 0.02
# Beyond CONDITION errors are in units of the noise, or of r's deviation under the base, where the
# value is smaller than that.
FIELDS, MEAN = ("velocity", "divergence"), "E(r|x)"


@dataclass
class Tally:
    """One quantity in one dimension."""

    errors: list[float] = field(default_factory=list)
    refused: int = 0
    hard_errors: list[float] = field(default_factory=list)
    hard_refused: int = 0

    @property
    def worst(self) -> float:
        return max(self.errors, default=0.0)

    @property
    def worst_hard(self) -> float:
        return max(self.hard_errors, default=0.0)

    @property
    def share_refused(self) -> float:
        asked = len(self.errors) + self.refused
        return self.refused / asked if asked else 0.0

    def add(self, error: float | None, condition: float) -> None:
        """error: None where the value was refused."""
        if condition < CONDITION:
            if error is None:
                self.refused += 1
            else:
                self.errors.append(error)
        elif error is None:
            self.hard_refused += 1
        else:
            self.hard_errors.append(error)

    def join(self, other: Tally) -> None:
        """The same quantity on other problems."""
        self.errors += other.errors
        self.refused += other.refused
        self.hard_errors += other.hard_errors
        self.hard_refused += other.hard_refused

    def __str__(self) -> str:
        beyond = len(self.hard_errors) + self.hard_refused
        return (
            f"{len(self.errors)} values, {self.refused} refused; beyond condition {CONDITION:g}: "
            f"{beyond}, {self.hard_refused} refused, worst of the rest {self.worst_hard:.1e}"
        )


def _floor(case: Case, name: str) -> float:
    if name == MEAN:
        problem = case.problem()
        return reward_moments(problem.base, problem.moments)[1]
    return float(name.startswith(FIELDS))


Tallies = dict[tuple[int, str], Tally]


def measure() -> Tallies:
    """{(d, quantity): what became of it} over all problems, on two processes."""
    found: Tallies = {}
    # Spawned: a fork of a process whose torch has threads may hang.
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        parts = [pool.submit(count, PART, first) for first in range(0, PROBLEMS, PART)]
        with Progress(len(parts), "digits") as progress:
            for done, part in enumerate(as_completed(parts), 1):
                for key, own in part.result().items():
                    found.setdefault(key, Tally()).join(own)
                progress.update("digits", done, f"{done * PART} problems")
    return dict(sorted(found.items()))


def count(problems: int, first: int = 0) -> Tallies:
    """{(d, quantity): what became of it} over the problems of these seeds."""
    found: Tallies = {}
    for seed in range(first, first + problems):
        case = draw(seed)
        truth, condition = reference(case)
        answers = computed(case)
        for name, true in truth.items():
            answer = answers[name]
            floor = _floor(case, name) if condition[name] >= CONDITION else 0.0
            error = None if isinstance(answer, str) else gap(answer, true, name, floor)
            found.setdefault((case.dim, name), Tally()).add(error, condition[name])
    return found
