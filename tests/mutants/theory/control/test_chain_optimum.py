"""Mistakes in the chain's regularised optimum."""

from __future__ import annotations

import math

import pytest

from tests.mutants.harness import mutant_module, overriding
from tests.theory.control.test_chain_optimum import (
    against_search,
    bowl_error,
    smoothing_errors,
)
from tests.theory.samplers.chain_routes import NOTE, SCALE, SHORT, note_axes
from theory.common.tolerances import QUADRATURE, QUADRATURE_2D, SLOPE
from theory.control import chain_optimum


def cost(mean, start, std, scale):
    return ((mean - start) ** 2).sum(-1) / (2 * scale * std**2)


def kernel(of):
    """Another value of the best kernel: of(value, cost, scale)."""

    def wrong(whole):
        def best_kernel(later, start, std, scale, k, curvature=0.0):
            mean, value = whole(later, start, std, scale, k, curvature)
            return mean, of(value, cost(mean, start, std, scale), scale)

        return best_kernel

    return {"best_kernel": wrong}


def at_the_bases_mean(whole):
    def best_kernel(later, start, std, scale, k, curvature=0.0):
        mean, _ = whole(later, start, std, scale, k, curvature)
        there = chain_optimum.SMOOTHED[start.shape[1]](later, std)(start)[0]
        return mean, there - cost(mean, start, std, scale)

    return best_kernel


def stein(of):
    """Other nodes and rows: of(nodes, rows, std)."""
    return {"_stein": lambda whole: lambda std, dim: of(*whole(std, dim), std)}


def scaled_row(row, power):
    def of(nodes, rows, std):
        rows[row] *= std**power
        return nodes, rows

    return stein(of)


def without_q(whole, self, x, t, cond=None):
    base = self.base(x, t, cond)
    shift = whole(x, t, cond) - base
    for k, rows in self.rows_by_kernel(t):
        shift[rows] *= self.chain.coefficients(x)[1][k]
    return base + shift


OPTIMUM_MUTANTS = {
    "scale of the cost dropped": kernel(lambda value, cost, scale: value + cost - scale * cost),
    "cost without the 1/2": kernel(lambda value, cost, scale: value - cost),
    "gain s for s squared": {
        "_solve": lambda whole: (
            lambda smooth, start, gain, own, k: whole(
                smooth, start, math.sqrt(gain * SCALE), own, k
            )
        )
    },
    "value without its cost": kernel(lambda value, cost, scale: value + cost),
    "slope at the base's mean": {"best_kernel": at_the_bases_mean},
    "value not smoothed": stein(lambda nodes, rows, std: (0 * nodes, rows)),
    "Stein's slope without 1/s": scaled_row(1, 1),
    "Q left out of the shift": {
        "ChainOptimum": lambda whole: overriding(whole, __call__=without_q)
    },
}


# Its own check stops this one: the maximum is not unique.
REFUSED = {"gain s for s squared"}


@pytest.mark.parametrize("name", OPTIMUM_MUTANTS)
def test_mutant_of_the_optimum_is_rejected(name):
    module = mutant_module("theory.control.chain_optimum", **OPTIMUM_MUTANTS[name])
    case = (SHORT, NOTE.base_field, NOTE.reward, SCALE, note_axes(SHORT))
    if name in REFUSED:
        with pytest.raises(ValueError, match="kernel"):
            module.regularised_optimum(*case)
        return
    value, mean = against_search(module.regularised_optimum(*case))
    assert value > QUADRATURE.rtol or mean > QUADRATURE_2D.rtol


def edited(old, new):
    return mutant_module("theory.control.chain_optimum", (old, new))


def replaced(names):
    return mutant_module("theory.control.chain_optimum", **names)


PLANE_MUTANTS = {
    "second order for first": lambda: edited("(0, 1), (2, 0)", "(0, 2), (2, 0)"),
    "slopes exchanged": lambda: edited("[(0, 0), (1, 0), (0, 1),", "[(0, 0), (0, 1), (1, 0),"),
    "curvatures without 1/s": lambda: replaced(scaled_row(2, 2)),
    "values not smoothed": lambda: replaced(
        {"_readings": lambda whole: lambda axis, steps: whole(axis, 0 * steps)}
    ),
}


@pytest.mark.parametrize("name", PLANE_MUTANTS)
def test_mutant_of_the_plane_is_rejected(name):
    assert max(smoothing_errors(PLANE_MUTANTS[name]())) > SLOPE / 10


BOWL_MUTANTS = {
    "left out of the mean": lambda: replaced(
        {
            "_solve": lambda whole: (
                lambda smooth, start, gain, own, k: whole(smooth, start, gain, 1, k)
            )
        }
    ),
    "its spread forgotten": lambda: edited(" + start.shape[1] * std**2)", ")"),
    "left out of the value": lambda: edited("smooth(mean)[0] + bowl - ", "smooth(mean)[0] - "),
    "not taken off the next value": lambda: edited("(value - c[k] * bowl)", "value"),
    "of the state before": lambda: edited("scale, k, c[k + 1])", "scale, k, c[k])"),
}


@pytest.mark.parametrize("name", BOWL_MUTANTS)
def test_mutant_of_the_bowl_is_rejected(name):
    module = BOWL_MUTANTS[name]()
    try:
        error = bowl_error(1, module)
    except ValueError as stopped:  # its own check stops it: the maximum is not unique
        if "kernel" not in str(stopped):
            raise
    else:
        assert error > QUADRATURE.rtol
