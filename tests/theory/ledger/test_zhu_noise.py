"""Z4: what SDEs of growing noise sample, by Fokker-Planck and by a variance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.core.claim import PROFILES, Context, verdict
from theory.ledger.oracle import noise
from theory.ledger.zhu import noise as zhu_noise
from theory.ledger.zhu.noise import bowl_distance, bowl_multiple, density_gap, tends_to_the_tilt

FAST = Context(PROFILES["fast"])


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_the_odes_variance_is_known(scale):
    """exp(-lambda) without noise; 1/(1 + lambda), the claim's, in the limit of loud noise."""
    assert ALGEBRA.holds(noise.bowl_variance(scale, lambda t: 0.0), math.exp(-scale))
    loud = noise.bowl_variance(scale, lambda t: 200.0**2)
    assert QUADRATURE.holds(loud, 1 / (1 + scale))
    assert not QUADRATURE.holds(noise.bowl_variance(scale, lambda t: 1.0), 1 / (1 + scale))


def test_variation_of_gaussians_by_sums():
    y = np.linspace(-12, 12, 240_001)

    def normal(v: float) -> np.ndarray:
        return np.exp(-0.5 * y**2 / v) / np.sqrt(2 * np.pi * v)

    for one, other in ((1.0, 0.4), (0.2, 0.25)):
        summed = 0.5 * np.trapezoid(np.abs(normal(one) - normal(other)), y)
        assert QUADRATURE.holds(noise.variation_of_gaussians(one, other), summed)
    assert noise.variation_of_gaussians(0.7, 0.7) == 0.0


def test_distance_falls_and_vanishes():
    g = [0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    found = [bowl_distance(v) for v in g]
    assert np.all(np.diff(found) < 0)
    assert found[0] > 0.2
    assert found[-1] < QUADRATURE.rtol
    multiples = [bowl_multiple(k) for k in (0.1, 1.0, 10.0, 100.0)]
    assert np.all(np.diff(multiples) < 0)
    assert multiples[-1] > QUADRATURE.rtol  # more slowly: the noise dies at the data end


def test_two_routes():
    assert density_gap(1.0) <= QUADRATURE.rtol


def test_the_finding_and_what_it_rejects(monkeypatch):
    found = tends_to_the_tilt(FAST)
    assert found.holds
    assert found.order == 4
    assert all(found.mutants.values())
    # The condition, and not the Gaussian case alone, makes the row conditional.
    claim = replace(found, role="claim", kind="exact", order=None, holds=False)
    assert verdict([claim, found]) == "conditional"
    with monkeypatch.context() as patch:  # a distance that rises again
        right = bowl_distance
        patch.setattr(
            zhu_noise, "bowl_distance", lambda g, implied=True: right(min(g, 4.0) + (g == 0.5) / 2)
        )
        assert not tends_to_the_tilt(FAST).holds
    with monkeypatch.context() as patch:  # the other score in the second route
        whole = noise.bowl_variance
        patch.setattr(
            noise, "bowl_variance", lambda s, g, a=0.0, implied=True: whole(s, g, a, False)
        )
        assert not tends_to_the_tilt(FAST).holds
