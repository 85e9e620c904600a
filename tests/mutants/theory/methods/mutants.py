"""Methods with a mistake, said to be at the optimum of the method as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tests.mutants.harness import mutant_module
from theory.methods.contract.method import Method, Optimum
from theory.methods.registry import parse_method
from theory.problems.problem import Problem, load_problem


@cache
def true_optimum(text: str, problem: str) -> Optimum | None:
    """The optimum that the method as it stands gives; costly ones are found once."""
    return parse_method(text).optimum(load_problem(problem))


def at_optimum_of(method: Method, optimum: Optimum | None) -> Method:
    """The same method, but said to be at this optimum."""

    def stated(self: Method, problem: Problem) -> Optimum | None:
        return optimum

    kind = type(f"{type(method).__name__}AtOptimum", (type(method),), {"optimum": stated})
    return kind(**method.options)


@dataclass(frozen=True)
class Mutant:
    """A method by name and options, on a named problem, with edits to its file; rows a block."""

    text: str
    problem: str
    edits: tuple[tuple[str, str], ...] = ()
    rows: int = 256

    @property
    def original(self) -> Method:
        """The method as it stands, its optimum looked up."""
        return at_optimum_of(parse_method(self.text), true_optimum(self.text, self.problem))

    def method(self) -> Method:
        """The mutant, said to be at the optimum of the method as it stands."""
        whole = parse_method(self.text)
        module = mutant_module(type(whole).__module__, *self.edits)
        kind = getattr(module, type(whole).__name__)
        return at_optimum_of(kind(**whole.options), true_optimum(self.text, self.problem))
