"""Methods with a mistake, said to be at the optimum of the method as it stands.

A change makes of a method's class a wrong subclass; edits are for mistakes within one function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from tests.mutants.harness import mutant_module, overriding, with_name
from theory.methods.contract.method import Method, Optimum
from theory.methods.registry import parse_method
from theory.problems.problem import Problem, load_problem

LINE, PLANE, LINEAR = "note_1d", "bump_2d", "linear_1d"
MANY = 1024  # rows a block where the mistake is a small one
Change = Callable[[type], type]


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
    """A method by name and options, on a named problem, with a change of its class, or with edits
    to its file; rows a block."""

    text: str
    problem: str
    change: Change | None = None
    rows: int = 256
    edits: tuple[tuple[str, str], ...] = ()

    @property
    def original(self) -> Method:
        """The method as it stands, its optimum looked up."""
        return at_optimum_of(parse_method(self.text), true_optimum(self.text, self.problem))

    def wrong(self) -> Method:
        """The mutant with the optimum that it states itself."""
        whole = parse_method(self.text)
        kind = type(whole)
        if self.edits:
            kind = getattr(mutant_module(kind.__module__, *self.edits), kind.__name__)
        return (self.change(kind) if self.change else kind)(**whole.options)

    def method(self) -> Method:
        """The mutant, said to be at the optimum of the method as it stands."""
        return at_optimum_of(self.wrong(), true_optimum(self.text, self.problem))


def edited(text, problem, old, new, rows=256):
    return Mutant(text, problem, rows=rows, edits=((old, new),))


# --- changes


def part(**parts):
    """Methods and properties replaced, as `overriding` says."""
    return lambda kind: overriding(kind, **parts)


def name(where, wrong, *parts):
    """A function replaced where these parts look it up, as `with_name` says."""
    return lambda kind: with_name(kind, where, wrong, *parts)


def batch(**values):
    """A loss that sees another batch: each value of the method and the batch as it is."""

    def loss(whole, self, policy, task, given):
        return whole(policy, task, given | {k: of(self, given) for k, of in values.items()})

    return part(loss=loss)


def collected(change):
    """A batch with other entries: change(policy, task, batch)."""

    def collect(whole, self, policy, task, n, draws):
        found = whole(policy, task, n, draws)
        with torch.no_grad():
            return found | change(policy, task, found)

    return part(collect=collect)


def options(of, **values):
    """The part `of` with other options of the method than the rest has."""

    def other(whole, self, *arguments):
        changed = {k: value(self) for k, value in values.items()}
        return whole.func(replace(self, **changed), *arguments)

    return part(**{of: other})


def student(change):
    """A loss that sees another student: change(student, batch, x, t)."""

    def loss(whole, self, policy, task, given):
        def moved(x, t, cond=None):
            return change(policy.student, given, x, t)

        return whole(replace(policy, student=moved), task, given)

    return part(loss=loss)


def reference(of, change):
    """The part `of` with another reference: change(policy)."""

    def other(whole, self, policy, *arguments):
        return whole(replace(policy, reference=change(policy)), *arguments)

    return part(**{of: other})


def value(change):
    """Losses made of the right ones: change(losses, method, policy, task, batch), where losses of
    (batch) are the method's at another batch or its own."""

    def loss(whole, self, policy, task, given):
        def losses(method=self, **entries):
            return whole.func(method, policy, task, given | entries)[0]

        return change(losses, self, policy, given), whole(policy, task, given)[1]

    return part(loss=loss)
