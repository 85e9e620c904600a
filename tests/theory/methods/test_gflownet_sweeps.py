"""GFlowNet methods pass the contract's sweep, with each option that moves their fixed points."""

from __future__ import annotations

import pytest

from tests.theory.methods.test_sweeps import failed
from theory.methods.contract.probe import sweep
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem

# Each way to a fixed point, and each option that moves it.
QUICK = [
    ("residual_nabla_db:w_backward=0", "note_1d"),
    ("residual_db:held=true", "late_1d"),
    ("relative_trajectory_balance:temper=1.3,backward=0.5", "note_1d"),
    ("relative_trajectory_balance:form=plain", "note_1d"),
    ("trajectory_balance:form=log,scale=0.7", "quadratic_1d"),
    ("trajectory_balance", "bump_2d"),
]
SLOW = [
    ("residual_nabla_db:look_ahead=off", "note_1d"),
    ("residual_db", "linear_1d"),
    ("dag_db:held=true", "bump_2d"),
    ("residual_nabla_db", "late_1d"),
    ("residual_db", "late_1d"),
    ("residual_nabla_db:anchor_weight=5,anchor=base,w_terminal=2,w_forward=0.5", "note_1d"),
    ("residual_nabla_db:held=true,anchor_weight=5,anchor=base", "note_1d"),
    ("nabla_db:held=true", "bump_2d"),
    ("residual_nabla_db:prior=0.7,look_ahead=one", "note_1d"),
    ("residual_nabla_db:look_ahead=off,second_order=true,prior=1.4,w_backward=0.5", "note_1d"),
    ("residual_nabla_db:subset=3,look_ahead=signal,smoothing=0.5,smoothing_draws=2", "note_1d"),
    ("residual_nabla_db:anchor_weight=5,data=previous,form=plain", "note_1d"),
    ("residual_nabla_db:held=true,prior=0.5", "bump_2d"),
    ("residual_nabla_db:bidirectional=true,prior=0.8", "bump_2d"),
    ("residual_nabla_db:second_order=true", "note_1d"),
    ("nabla_db:form=log", "quadratic_1d"),
    ("residual_db:prior=1.5,subset=2,anchor_weight=3,anchor=base", "note_1d"),
    ("residual_db:held=true,look_ahead=one,prior=0.8", "bump_2d"),
    ("dag_db:anchor_weight=3", "note_1d"),
    ("relative_trajectory_balance:prior=0.8", "bump_2d"),
    ("residual_nabla_db", "bump_2d"),
    ("residual_nabla_db:prior=0.8,anchor_weight=5,anchor=base", "bump_2d"),
    ("residual_db", "bump_2d"),
    ("nabla_db", "bump_2d"),
    ("dag_db", "bump_2d"),
]
WITHOUT_OPTIMUM = ("w_backward=0,", "db:second_order=true", "temper")


@pytest.mark.parametrize(
    ("text", "problem"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_sweep(text, problem):
    text = f"{text}{',' if ':' in text else ':'}steps=4,sigma_end=0.1"
    checks = sweep(parse_method(text), load_problem(problem))
    assert not failed(checks)
    # A sweep that skips its gradients would pass anything.
    skipped = any(c.seen.startswith("not asked") for c in checks)
    assert skipped == any(word in text for word in WITHOUT_OPTIMUM)
