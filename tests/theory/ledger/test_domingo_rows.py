"""Rows D1 to D15 in the fast profile, and the family that D11 and D13 search."""

import math
import zlib

import numpy as np
import pytest

from theory.common.tolerances import QUADRATURE
from theory.fields.diffusion import Diffusion
from theory.ledger.core.claim import PROFILES
from theory.ledger.domingo import search as domingo_search
from theory.ledger.domingo.line_chain import LineChain
from theory.ledger.run import measure, select
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain


@pytest.mark.slow
@pytest.mark.parametrize("claim", select([], "domingo"), ids=lambda claim: claim.id)
def test_row_has_its_verdict(claim):
    result = measure(claim, PROFILES["fast"])
    assert result.agrees, [(f.name, f.figure) for f in result.findings]
    assert all(all(f.mutants.values()) for f in result.findings)


def family_of(module, adjoint):
    problem = load_problem("note_1d")
    chain = Chain(4, schedule=Diffusion.of_constant(1.0))
    line = LineChain.of_problem(problem, chain, problem.scale, 241)
    return module.Family(line, line.critical().means, adjoint)


@pytest.fixture(scope="module", params=["full", "lean"])
def family(request):
    return family_of(domingo_search, request.param)


def cost(family, theta):
    """The chain's cost along its densities."""
    line, move = family.line, np.einsum("j,jtn->tn", theta, family._features[0])
    means = family.means + line.std[:, None] * move
    p, u = line.densities(means), line.controls(means)
    dx = float(line.axis[1] - line.axis[0])
    return float((0.5 * p[:-1] * u**2).sum() + p[-1] @ line.final(line.axis)) * dx


def has_the_costs_gradient(family):
    """By differences of the cost in every parameter."""
    theta = 0.1 * np.random.default_rng(0).normal(size=family.PARAMETERS)
    h, slopes = 1e-3, []
    for j in range(family.PARAMETERS):
        way = np.eye(family.PARAMETERS)[j]
        one, two = (
            (cost(family, theta + s * way) - cost(family, theta - s * way)) / (2 * s)
            for s in (h, 2 * h)
        )
        slopes.append((4 * one - two) / 3)
    return QUADRATURE.holds(family.gradient(theta), slopes, 1.0)


def test_full_adjoints_gradient_is_the_costs(family):
    """The lean one's is another."""
    assert has_the_costs_gradient(family) == (family.adjoint == "full")


def test_the_optimum_is_a_zero_and_found_from_near(family):
    size = math.sqrt(family.energy)
    # Kernels as sums on the grid here, splines in the critical point's equation.
    assert QUADRATURE.holds(family.gradient(np.zeros(family.PARAMETERS)), 0.0, size)
    assert not QUADRATURE.holds(family.gradient(np.zeros(family.PARAMETERS), 0.5), 0.0, size)
    found = family.search(3, 0)
    assert (found.zeros, found.others, found.stalled, found.lost) == (3, 0, 0, 0)
    assert found.wrong


@pytest.mark.slow
def test_a_start_that_stalls_is_told_from_a_zero(family):
    """D11's own starts: far ones settle where the full gradient's norm is least and not zero."""
    found = family.search(6, zlib.crc32(b"D11/3") % 2**20)
    assert (found.others, found.lost) == (0, 0)
    assert found.zeros + found.stalled == 6
    assert (found.stalled > 0) == (family.adjoint == "full")
