"""liu, L12: the row's verdict, its identities with their mutants, and its numbers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME, seeds
from tests.theory.ledger.examined import FAST, SLOW_CHECKS, identities_of
from theory.common.tolerances import QUADRATURE
from theory.ledger.core.claim import Context
from theory.ledger.liu.toy_noise import toy
from theory.ledger.liu.variance import (
    L12,
    against_beta,
    network,
    noise_region,
    released_rewards,
)
from theory.ledger.oracle import variance
from theory.ledger.run import measure
from theory.ledger.settings.unit import UnitRewards
from theory.problems.problem import load_problem


def test_verdict():
    assert measure(L12, FAST).verdict == L12.recorded == "conditional"


@pytest.mark.parametrize("check", SLOW_CHECKS)
@pytest.mark.parametrize("part", identities_of(L12))
def test_identities(part, check):
    check(part)


# --- what the row measures


def test_same_moments_same_noise():
    """Power of the claim's part: a loss against itself is comparable, NFT at r near 1/2 is not."""
    assert toy().ratio(0.0, 1e-3) == pytest.approx(1.0, abs=0.01)
    assert toy().ratio(0.49, 0.51) < 1e-3


@SOME
@given(st.floats(0.0, 0.02), st.floats(0.0, 0.02))
def test_near_the_ends_noise_is_comparable(low, high):
    """|ratio - 1| is below a few times the largest r, or 1 - r."""
    most = max(low, high) + 1e-6
    assert abs(toy().ratio(low, high) - 1) < 5 * most
    assert abs(toy().ratio(1 - low, 1 - high) - 1) < 5 * most


@SOME
@given(seeds, st.floats(0.1, 10.0))
def test_noise_of_nft_is_the_same_everywhere(seed, nft_beta):
    """At v_0 and at v*, by the second route: additive noise. The weighted loss's moves."""
    s = replace(UnitRewards().draw(1, seed), nft_beta=nft_beta)
    both = [variance.nft(s.case, s.x, s.at, s.nft_beta, k) for k in (False, True)]
    assert QUADRATURE.holds(both[0], both[1])


def test_noise_of_the_weighted_loss_moves():
    s = UnitRewards().draw(1, 0)
    both = [variance.weighted(s.case, s.x, s.at, 2.0, k) for k in (False, True)]
    assert not QUADRATURE.holds(both[0], both[1])


def test_toy_without_closed_moments():
    """The ratio over X_t and t of the note's toy, by draws with a bound."""
    problem, n = load_problem("note_1d"), 400_000
    generator = torch.Generator().manual_seed(0)
    x1 = problem.base.sample(n, generator)
    x0 = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    x = t[:, None] * x1 + (1 - t[:, None]) * x0
    D = ((x1 - x0) - problem.base_field(x, t))[:, 0]
    r = problem.reward(x1)
    m = problem.conditional_reward.mean(x, t)
    c = problem.conditional_reward.covariance(x, t)[:, 0]
    nft = (2 * r - 1) ** 2 * D**2 - 4 * c**2
    other = ((1 + 2 * r) ** 2 * D**2 - 4 * c**2) / (1 + 2 * m) ** 2
    ratio = float(nft.mean() / other.mean())
    error = float((nft - ratio * other).std() / other.mean() / n**0.5)
    assert abs(toy().ratio(0.0, 1.0) - ratio) < 5 * error < 0.05


@pytest.mark.parametrize("part", [network, against_beta, released_rewards])
def test_extras_hold(part):
    finding = part(Context(FAST, seed=3))
    assert finding.holds
    assert all(finding.mutants.values())


def test_region():
    region = noise_region(5)
    assert region.errors[0, 0] == pytest.approx(0.0, abs=1e-9)  # r = 0 everywhere
    assert region.errors[2, 2] == pytest.approx(1.0)  # r = 1/2 everywhere: no noise in NFT


def test_smaller_beta_has_more_noise():
    assert toy().ratio(0.0, 1.0, 0.5) > toy().ratio(0.0, 1.0)
