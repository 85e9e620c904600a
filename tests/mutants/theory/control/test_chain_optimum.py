"""Mistakes in the chain's regularised optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.mutants.harness import edited, overridden, replaced
from tests.theory.control.test_chain_optimum import (
    against_search,
    bowl_error,
    smoothing_errors,
)
from tests.theory.samplers.chain_routes import NOTE, SCALE, SHORT, note_axes
from theory.common.tolerances import QUADRATURE, QUADRATURE_2D, SLOPE
from theory.control import chain_optimum

MODULE = "theory.control.chain_optimum"


def cost(mean, start, std, scale):
    return ((mean - start) ** 2).sum(-1) / (2 * scale * std**2)


def kernel(of):
    """Another value of the best kernel: of(value, cost, scale)."""

    def wrong(whole):
        def best_kernel(later, start, std, scale, k, curvature=0.0):
            mean, value = whole(later, start, std, scale, k, curvature)
            return mean, of(value, cost(mean, start, std, scale), scale)

        return best_kernel

    return replaced(best_kernel=wrong)


def at_the_bases_mean(whole):
    def best_kernel(later, start, std, scale, k, curvature=0.0):
        mean, _ = whole(later, start, std, scale, k, curvature)
        there = chain_optimum.SMOOTHED[start.shape[1]](later, std)(start)[0]
        return mean, there - cost(mean, start, std, scale)

    return best_kernel


def stein(of):
    """Other nodes and rows: of(nodes, rows, std)."""
    return replaced(_stein=lambda whole: lambda std, dim: of(*whole(std, dim), std))


def solving(of):
    """Another equation of the mean: of(gain, own)."""

    def wrong(whole):
        return lambda smooth, start, gain, own, k: whole(smooth, start, *of(gain, own), k)

    return replaced(_solve=wrong)


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
    "gain s for s squared": solving(lambda gain, own: (math.sqrt(gain * SCALE), own)),
    "value without its cost": kernel(lambda value, cost, scale: value + cost),
    "slope at the base's mean": replaced(best_kernel=at_the_bases_mean),
    "value not smoothed": stein(lambda nodes, rows, std: (0 * nodes, rows)),
    "Stein's slope without 1/s": scaled_row(1, 1),
    "Q left out of the shift": overridden("ChainOptimum", __call__=without_q),
}


# Its own check stops this one: the maximum is not unique.
REFUSED = {"gain s for s squared"}


@pytest.mark.parametrize("name", OPTIMUM_MUTANTS)
def test_mutant_of_the_optimum_is_rejected(name):
    module = OPTIMUM_MUTANTS[name](MODULE)
    case = (SHORT, NOTE.base_field, NOTE.reward, SCALE, note_axes(SHORT))
    if name in REFUSED:
        with pytest.raises(ValueError, match="kernel"):
            module.regularised_optimum(*case)
        return
    value, mean = against_search(module.regularised_optimum(*case))
    assert value > QUADRATURE.rtol or mean > QUADRATURE_2D.rtol


def slopes(of):
    """Other slopes of what is smoothed in the plane: of(slope, curve)."""

    def wrong(whole):
        def smoothed_plane(later, std):
            right = whole(later, std)

            def at(m):
                value, slope, curve = right(m)
                return value, of(slope, curve), curve

            return at

        return smoothed_plane

    return replaced(_smoothed_plane=wrong)


PLANE_MUTANTS = {
    "second order for first": slopes(
        lambda slope, curve: np.stack([slope[:, 0], curve[:, 1, 1]], 1)
    ),
    "slopes exchanged": slopes(lambda slope, curve: slope[:, ::-1]),
    "curvatures without 1/s": scaled_row(2, 2),
    "values not smoothed": replaced(
        _averages=lambda whole: lambda axis, steps, rows: whole(axis, 0 * steps, rows)
    ),
}


@pytest.mark.parametrize("name", PLANE_MUTANTS)
def test_mutant_of_the_plane_is_rejected(name):
    assert max(smoothing_errors(PLANE_MUTANTS[name](MODULE))) > SLOPE / 10


def less(of):
    """A value of the best kernel without a part of the bowl: of(curvature, mean, std)."""

    def wrong(whole):
        def best_kernel(later, start, std, scale, k, curvature=0.0):
            mean, value = whole(later, start, std, scale, k, curvature)
            return mean, value - of(curvature, mean, std)

        return best_kernel

    return replaced(best_kernel=wrong)


def spread(curvature, mean, std):
    return curvature * mean.shape[1] * std**2 / 2


def bowl(curvature, mean, std):
    return curvature * (mean**2).sum(-1) / 2 + spread(curvature, mean, std)


BOWL_MUTANTS = {
    "left out of the mean": solving(lambda gain, own: (gain, 1)),
    "its spread forgotten": less(spread),
    "left out of the value": less(bowl),
    "not taken off the next value": edited("(value - c[k] * bowl)", "value"),
    "of the state before": edited("scale, k, c[k + 1])", "scale, k, c[k])"),
}


@pytest.mark.parametrize("name", BOWL_MUTANTS)
def test_mutant_of_the_bowl_is_rejected(name):
    module = BOWL_MUTANTS[name](MODULE)
    try:
        error = bowl_error(1, module)
    except ValueError as stopped:  # its own check stops it: the maximum is not unique
        if "kernel" not in str(stopped):
            raise
    else:
        assert error > QUADRATURE.rtol
