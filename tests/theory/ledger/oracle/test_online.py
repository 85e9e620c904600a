"""Online NFT on the line, second route: against Gaussians by hand and the loss by quadrature."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.cases import OneGaussian, mixture
from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle import conditional, flow, online
from theory.ledger.oracle.instants import instant
from theory.ledger.oracle.integrals.plane import PlaneNumbers

HAND = OneGaussian(1, 1)
BUMPS = mixture(1, "bumps")
PLACES = np.array([-1.4, 0.2, 1.3])
BETA = 1.6


def standard(curvature: float) -> PlaneNumbers:
    """N(0, 1) and r = curvature x^2 / 2."""
    parameters = {
        "matrix": np.array([[curvature]]),
        "vector": np.zeros(1),
        "constant": np.array(0.0),
    }
    return PlaneNumbers(
        np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)), "quadratic", parameters, 1.0, np.eye(1)
    )


def gap(law, mean: float, std: float) -> float:
    """Largest difference of the densities, relative to the peak of N(mean, std^2)."""
    y = mean + std * np.linspace(-5, 5, 41)
    truth = stats.norm.pdf(y, mean, std)
    return QUADRATURE.error(np.exp(law.log_density(y)), truth, truth.max())


@pytest.mark.parametrize("mode", online.MODES)
def test_linear_reward_of_a_gaussian(mode):
    """Every epoch moves the mean by (1 - ema) lam cov w, in every mode."""
    std, ema = math.sqrt(HAND.cov[0, 0]), 0.4
    found = online.laws(HAND.case, BETA, mode, 2, ema)
    for epoch, law in enumerate(found):
        tilt = epoch * (1 - ema) * 2 / BETA
        mean = float((HAND.mean + tilt * HAND.cov @ HAND.w)[0])
        assert gap(law, mean, std) <= QUADRATURE.rtol
        assert gap(law, mean + 1e-3 * std, std) > QUADRATURE.rtol


def test_concave_reward_of_a_gaussian():
    """r = -x^2/2, q = N(0, s^2): the optimum's slope in x exceeds u's by -lam s^4 t (1-t) / V^2,
    V = t^2 s^2 + (1-t)^2, whose integral over [0, 1] is -lam s^2 / 2. Frozen: always with s = 1."""
    lam = 2 / BETA
    refit = frozen = 1.0
    for law, other in zip(
        *(online.laws(standard(-1.0), BETA, mode, 2) for mode in ("refit", "frozen")), strict=True
    ):
        assert gap(law, 0.0, math.sqrt(refit)) <= QUADRATURE.rtol
        assert gap(other, 0.0, math.sqrt(frozen)) <= QUADRATURE.rtol
        refit, frozen = refit * math.exp(-lam * refit), frozen * math.exp(-lam)
    assert gap(law, 0.0, math.sqrt(frozen)) > QUADRATURE.rtol


@pytest.mark.parametrize("t", [0.0, 0.35, 0.7, 0.97])
@pytest.mark.parametrize("kind", ["bumps", "quadratic"])
def test_an_epochs_optimum_is_the_losss(kind, t):
    """With any v_old; at early times and at late ones, where the nodes are others."""
    case, at = mixture(1, kind), instant("rectified_flow", t)
    law = online.start(case)
    v_old = np.array([0.5, -1.0, 0.2])
    u, mu = law.epoch(PLACES, t, BETA, v_old)
    for i, x in enumerate(PLACES):
        place = np.array([x])
        theirs = conditional.nft_minimiser(case, place, at, BETA, v_old[i : i + 1])
        assert QUADRATURE_TIGHT.holds(mu[i], theirs[0], 1.0)
        assert QUADRATURE_TIGHT.holds(u[i], conditional.velocity(case, place, at)[0], 1.0)
    plain = law.epoch(PLACES, t, BETA)[1]
    assert QUADRATURE_TIGHT.holds(plain, flow.LineField(case, scale=2 / BETA)(PLACES, t), 1.0)
    assert not QUADRATURE_TIGHT.holds(mu, plain, 1.0)


def test_the_law_of_a_field():
    """Of the base's own velocity: the base again; of its optimum: the pull-back's density."""
    law = online.start(BUMPS)
    again = online.sampled(law, law.velocity)
    near = law.values > law.values.max() - 15
    y = law.nodes[near]
    truth = np.exp(law.values[near])
    assert QUADRATURE.holds(np.exp(again.log_density(y)), truth, truth.max())
    (_, one) = online.laws(BUMPS, BETA, "refit", 1)
    density = flow.density(flow.LineField(BUMPS, scale=2 / BETA), PLACES)
    assert QUADRATURE.holds(np.exp(one.log_density(PLACES)), density, density.max())
    assert not QUADRATURE.holds(np.exp(law.log_density(PLACES)), density, density.max())


def test_fields_of_a_law_that_is_no_mixture():
    """After an epoch only a spline knows the law: the early sums and the late ones agree where
    they meet, and its score is that of its own convolution."""
    law = online.laws(BUMPS, BETA, "refit", 1)[1]
    step = law.nodes[1] - law.nodes[0]
    t = 1 / (1 + 1.5 * step)
    early, late = law.moments(PLACES, t * (1 - 1e-12)), law.moments(PLACES, t * (1 + 1e-12))
    for one, other in zip(early, late, strict=True):
        assert QUADRATURE.holds(one, other, 1.0)
    mass = np.exp(law.values).sum() * step
    assert QUADRATURE.holds(mass, 1.0)
    assert np.all(law.log_density(law.nodes[[0, -1]] + [-1.0, 1.0]) < law.values[[0, -1]])


@pytest.mark.slow
def test_modes_differ_and_epochs_matter():
    """What the second epoch's law is compared with in the ledger tells the modes apart."""
    ends = {mode: online.laws(BUMPS, BETA, mode, 2) for mode in online.MODES}
    y = ends["refit"][0].nodes[::7]
    first, last = (
        {mode: np.exp(found[k].log_density(y)) for mode, found in ends.items()} for k in (1, 2)
    )
    top = last["refit"].max()
    for mode in ("frozen", "student"):
        assert QUADRATURE.holds(first[mode], first["refit"], top)  # one epoch is the same
        assert not QUADRATURE.holds(last[mode], last["refit"], top)


def test_bad_input():
    with pytest.raises(ValueError, match="needs d = 1, got d = 2"):
        online.start(mixture(2, "bumps"))
    with pytest.raises(ValueError, match="mode must be one of frozen, refit, student"):
        online.laws(BUMPS, 1.0, "fixed", 1)
    law = online.start(BUMPS)
    with pytest.raises(RuntimeError, match="not increasing"):
        online.sampled(law, lambda x, t: 40 * np.sin(40 * x) * (0.5 < t < 0.6))
