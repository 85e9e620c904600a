"""Mistakes in what balance losses teach Gaussian kernels, told by the losses' own gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.mutants.harness import mutant_module
from tests.theory.gflownet.test_class_best import (
    LINE,
    ONE,
    WEIGHTS,
    nabla_gradient,
    scalar_gradient,
    terminal,
)

MODULE = "theory.gflownet.class_best"


def walks(of):
    """Another law of the policy along its own trajectories: of(line, walk)."""
    return {"walked": lambda whole: lambda line, u, prior: of(line, whole(line, u, prior))}


def behind_as_ahead(line, walk):
    return replace(walk, back=walk.ahead)


def ahead_as_behind(line, walk):
    return replace(walk, ahead=walk.back)


def of_the_prior(line, walk):
    return replace(walk, slopes=line.kernels[1])


def no_ratios(line, walk):
    return replace(walk, ratios=0 * walk.ratios)


def flat(line, walk):
    return replace(walk, log_p=0 * walk.log_p)


NABLA = {
    "averages behind are those ahead": (walks(behind_as_ahead), {}),
    "averages ahead are those behind": (walks(ahead_as_behind), {}),
    "the prior's Jacobian for the policy's": (walks(of_the_prior), {"second_order": True}),
    "a flat law": (walks(flat), {"second_order": True}),
    "w_backward everywhere": ({"nabla_best": lambda whole: unweighted(whole)}, {}),
}
SCALAR = {
    "averages behind are those ahead": walks(behind_as_ahead),
    "averages ahead are those behind": walks(ahead_as_behind),
    "no ratio behind": walks(no_ratios),
}


def unweighted(whole):
    return lambda line, end, weights, **options: whole(
        line, end, replace(weights, forward=weights.backward), **options
    )


@pytest.mark.parametrize("name", NABLA)
def test_mutant_of_nabla_db_is_rejected(name):
    names, options = NABLA[name]
    try:
        found = mutant_module(MODULE, **names).nabla_best(LINE, terminal, WEIGHTS, **options)
    except ValueError as error:  # or its rounds lead nowhere
        if "must settle" not in str(error):
            raise
        return
    whole = mutant_module(MODULE).nabla_best(LINE, terminal, WEIGHTS, **options)
    there, here = (nabla_gradient(f, WEIGHTS, **options).abs().max() for f in (whole, found))
    assert here > 100 * there


@pytest.mark.parametrize("name", SCALAR)
def test_mutant_of_detailed_balance_is_rejected(name):
    try:
        found = mutant_module(MODULE, **SCALAR[name]).scalar_best(LINE, terminal, 0 * ONE)
    except ValueError as error:
        if "must settle" not in str(error):
            raise
        return
    whole = mutant_module(MODULE).scalar_best(LINE, terminal, 0 * ONE)
    there, here = (scalar_gradient(f).abs().max() for f in (whole, found))
    assert here > 100 * there
