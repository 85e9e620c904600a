"""Mistakes in what balance losses teach Gaussian kernels, told by the losses' own gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.mutants.harness import overriding
from tests.theory.gflownet.test_class_best import (
    LINE,
    ONE,
    WEIGHTS,
    nabla_gradient,
    scalar_gradient,
    terminal,
)
from theory.gflownet.blocks import NotSettledError
from theory.gflownet.class_best import nabla_best, scalar_best
from theory.gflownet.line import Line


def walks(of):
    """The line with another law of the policy along its own trajectories, of(walk)."""
    return overriding(Line, walked=lambda whole, self, u, prior: of(whole(u, prior)))


def behind_as_ahead(walk):
    return replace(walk, back=walk.ahead)


def ahead_as_behind(walk):
    return replace(walk, ahead=walk.back)


def no_ratios(walk):
    return replace(walk, ratio=lambda k: 0.0)


def flat(walk):
    return replace(walk, log_p=0 * walk.log_p)


def unweighted(grid, end, weights, **options):
    return nabla_best(grid, end, replace(weights, forward=weights.backward), **options)


BEHIND, AHEAD = walks(behind_as_ahead), walks(ahead_as_behind)
OF_THE_PRIOR = overriding(Line, slopes_of=lambda whole, self, k, u: self.slopes[k])
NABLA = {
    "averages behind are those ahead": (BEHIND, nabla_best, {}),
    "averages ahead are those behind": (AHEAD, nabla_best, {}),
    "the prior's Jacobian for the policy's": (OF_THE_PRIOR, nabla_best, {"second_order": True}),
    "a flat law": (walks(flat), nabla_best, {"second_order": True}),
    "w_backward everywhere": (Line, unweighted, {}),
}
SCALAR = {
    "averages behind are those ahead": BEHIND,
    "averages ahead are those behind": AHEAD,
    "no ratio behind": walks(no_ratios),
}


def on(kind):
    """The line as a wrong one."""
    return kind(LINE.chain, LINE.base, LINE.axes)


@pytest.mark.parametrize("name", NABLA)
def test_mutant_of_nabla_db_is_rejected(name):
    kind, solve, options = NABLA[name]
    try:
        found = solve(on(kind), terminal, WEIGHTS, **options)
    except NotSettledError:  # its rounds lead nowhere
        return
    whole = nabla_best(LINE, terminal, WEIGHTS, **options)
    there, here = (nabla_gradient(f, WEIGHTS, **options).abs().max() for f in (whole, found))
    assert here > 100 * there


@pytest.mark.parametrize("name", SCALAR)
def test_mutant_of_detailed_balance_is_rejected(name):
    try:
        found = scalar_best(on(SCALAR[name]), terminal, 0 * ONE)
    except NotSettledError:
        return
    whole = scalar_best(LINE, terminal, 0 * ONE)
    there, here = (scalar_gradient(f).abs().max() for f in (whole, found))
    assert here > 100 * there
