"""theory.released.modes: what stands in the advantage's place, and its means under Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erfc

from tests.strategies import SOME
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.released.reward.offset import smooth
from theory.methods.matching.reward_mapping import CLIP, SPREAD
from theory.released.exact import Epoch, carry_epochs
from theory.released.modes import MODES, mode

A = np.array([-7.0, -5.0, -1.0, 0.0, 0.5, 5.0, 9.0])
names = pytest.mark.parametrize("name", MODES)


def test_rewards_by_hand():
    """At the released clip of 5, and at 1, where sign and indicator do give 0 and 1."""
    wanted = {
        "all": [0.0, 0.0, 0.4, 0.5, 0.55, 1.0, 1.0],
        "positive_only": [0.5, 0.5, 0.5, 0.5, 0.55, 1.0, 1.0],
        "negative_only": [0.0, 0.0, 0.4, 0.5, 0.5, 0.5, 0.5],
        "one_only": [0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6],
        "binary": [0.4, 0.4, 0.4, 0.5, 0.6, 0.6, 0.6],
    }
    assert set(wanted) == set(MODES)
    for name, r in wanted.items():
        assert ALGEBRA.holds(mode(name).mapped(A, 5.0), np.array(r))
    assert mode("binary").mapped([-3.0, 0.0, 0.1], 1.0).tolist() == [0.0, 0.5, 1.0]


def test_all_is_the_mapping_of_the_method():
    """theory.methods.matching.nft's own clamp, given advantages."""
    theirs = (0.5 + torch.as_tensor(A).clamp(-CLIP, CLIP) / SPREAD).clamp(0, 1)
    assert np.array_equal(mode("all").mapped(A, CLIP), theirs.numpy())


@names
@SOME
@given(mean=st.floats(-8, 8), std=st.floats(0.05, 6), clip=st.floats(0.5, 8))
def test_mean_and_slope_of_a_gaussian(name, mean, std, clip):
    """E f and Cov(f, A) by Gauss-Legendre between the kinks; a clip 1 % off would be seen."""
    f = mode(name)
    ends = [mean - 9 * std, mean + 9 * std]
    edges = np.unique(np.clip([*np.linspace(*ends, 21), -clip, 0.0, clip], *ends))
    x, w = np.polynomial.legendre.leggauss(20)
    half = 0.5 * np.diff(edges)[:, None]
    a, w = (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()
    p = w * np.exp(-0.5 * ((a - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    size = max(clip, 1.0)
    assert QUADRATURE_TIGHT.holds(f.mean(mean, std, clip), p @ f.value(a, clip), size)
    cov = p @ (f.value(a, clip) * (a - mean))
    assert QUADRATURE_TIGHT.holds(std**2 * f.slope(mean, std, clip), cov, size * std)


@names
def test_mean_without_spread_is_the_value(name):
    f = mode(name)
    inside = A[A != 0] if f.jumps else A
    assert ALGEBRA.holds(f.mean(inside, 0.0, 5.0), f.value(inside, 5.0))


def test_slopes_at_zero():
    """1, 1/2, 1/2 less what the clip at 5 takes, phi(0), 2 phi(0)."""
    found = {n: float(f.slope(0.0, 1.0, 5.0)) for n, f in MODES.items()}
    kept, density = 1 - erfc(5 / np.sqrt(2)), 1 / np.sqrt(2 * np.pi)
    wanted = {
        "all": kept,
        "positive_only": kept / 2,
        "negative_only": kept / 2,
        "one_only": density,
        "binary": 2 * density,
    }
    assert all(ALGEBRA.holds(found[n], wanted[n]) for n in MODES)


def test_bad_names():
    with pytest.raises(ValueError, match=r"adv_mode must be one of all, .*got 'continuous'"):
        mode("continuous")
    with pytest.raises(ValueError, match=r"clip must .*got 0"):
        mode("all").mapped(A, 0.0)


def test_an_offset_changes_nothing_where_the_old_copy_is_fresh():
    """Laws of two epochs: "refit" drops the offset, "student" keeps it from the second epoch on."""
    problem = smooth()

    def law(offset: float, mode: str) -> list[np.ndarray]:
        run = carry_epochs(problem, [Epoch(2.0, offset=offset)] * 2, mode=mode)
        return [q.density for q in run.laws]

    fresh, moved = law(0.0, "refit"), law(-0.5, "refit")
    assert all(ALGEBRA.holds(a, b, b.max()) for a, b in zip(moved, fresh, strict=True))
    kept, other = law(0.0, "student"), law(-0.5, "student")
    assert ALGEBRA.holds(other[1], kept[1], kept[1].max())
    assert not QUADRATURE.holds(other[2], kept[2], kept[2].max())
