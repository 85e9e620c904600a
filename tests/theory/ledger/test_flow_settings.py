"""Where rows about GFlowNets are tried: drawn, packed, nudged; one problem for both routes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.fields.mixture import MixtureField
from theory.ledger.oracle.gflownet import flows, violation
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.settings import gflownet
from theory.ledger.settings.anchored import AnchoredChains
from theory.ledger.settings.gflownet import FlowProblems, line_problems

DOMAINS = {
    "with a prior": FlowProblems(),
    "without": FlowProblems(prior=False),
    "exp of any r": FlowProblems(forms=("log",), late=False),
    "line": line_problems(),
    "line, without a prior": line_problems(prior=False, late=False),
}
DIMS = (1, 2, 5)


def text(setting):
    return json.dumps(setting.pack(), sort_keys=True)


@pytest.fixture(params=DOMAINS)
def domain(request):
    return DOMAINS[request.param]


def packed(domain, dim, seed):
    """A setting that its seed and dimension name, which JSON gives back."""
    s = domain.draw(dim, seed)
    assert text(s) == text(domain.draw(dim, seed)) != text(domain.draw(dim, seed + 9))
    back = domain.unpack(json.loads(text(s)))
    assert text(back) == text(s)
    assert back.describe() == s.describe()
    assert "\n" not in s.describe()
    assert len(s.describe()) < 250
    assert s.dim == dim
    return s


def nudged(domain, dim):
    """Settings, each a step from the one before; some steps are refused, and some not."""
    rng, setting, found = np.random.default_rng(0), domain.draw(dim, 0), []
    for i in range(60):
        new = domain.nudge(setting, rng, 0.03 if i < 40 else 2.0)
        if new is not None:
            assert text(new) != text(setting)
            found.append(new)
            setting = new
    assert 3 < len(found) < 60
    return found


@pytest.mark.parametrize("dim", DIMS)
def test_draw_and_json(domain, dim):
    for seed in range(4):
        s = packed(domain, dim, seed)
        assert s.states.shape == (s.steps + 1, dim)
        assert 0 <= s.k < s.steps
        assert s.numbers.steps == s.chain.steps == s.steps
        assert domain.late or s.first_time == 0
        assert s.prior or (s.form == "plain" and math.isfinite(s.reward_std))


@pytest.mark.parametrize("dim", DIMS)
def test_nudge_stays_inside(domain, dim):
    for new in nudged(domain, dim):
        assert gflownet._farthest(new) <= gflownet.REACH
        assert (new.numbers.forward > 0).all()
        assert new.chain.steps == new.steps


@pytest.mark.parametrize("dim", DIMS)
def test_both_routes_have_the_same_problem(domain, dim):
    """log Z, p_T and the chain's kernels by theory's closed forms and by the plain numbers."""
    s = domain.draw(dim, 2)
    target = torch.as_tensor(s.states[-1])[None]
    power = s.wrapper(s.problem.reward(target)).log()
    weight = power + (s.last.log_density(target) if s.prior else 0.0)
    found = flows.log_flow(s.numbers, s.steps, s.states[-1])
    assert QUADRATURE_TIGHT.holds(found, float(weight[0]), 1.0)
    assert not QUADRATURE.holds(found, float(weight[0]) + float(power[0]) + 0.01, 1.0)
    P, Q, variance = s.chain._rows[:, s.k].tolist()
    kernel = violation.plugged(s.numbers, s.k)
    assert ALGEBRA.holds(kernel.variance, variance, 1.0)
    t = s.chain.times[s.k]
    velocity = s.problem.base_field(s.point, float(t)).numpy()[0]
    mean = violation.plugged_mean(s.numbers, s.k, s.x)
    assert QUADRATURE_TIGHT.holds(P * s.x + Q * velocity, mean, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_line_problems_fit_tables(seed):
    for prior in (True, False):
        s = line_problems(prior=prior).draw(1, seed)
        line = Line(s.numbers, s.start_std, s.eta)
        assert sum(len(axis) for axis in line.axes) < 6000
        found = line.log_flow(s.numbers, s.k, s.x)
        assert QUADRATURE_TIGHT.holds(found, flows.log_flow(s.numbers, s.k, s.x), 1.0)


# --- output regularisation


@pytest.mark.parametrize("dim", DIMS)
def test_anchored_chains_are_drawn_packed_and_nudged_inside(dim):
    domain = AnchoredChains()
    for seed in range(4):
        s = packed(domain, dim, seed)
        assert domain._allows(s)
    for new in nudged(domain, dim):
        assert (np.linalg.eigvalsh(new.cov) > 0).all()
        assert new.chain.steps == new.steps == new.numbers.steps


@pytest.mark.parametrize("seed", range(4))
def test_both_routes_have_the_same_anchored_chain(seed):
    s = AnchoredChains().draw(1, seed)
    x = torch.tensor([[0.3]], dtype=torch.float64)
    field = MixtureField(s.base, s.chain.path)
    for k in range(s.steps):
        slope, constant, variance = s.numbers.kernel(k)
        mean = s.chain.mean(field, k, x).numpy()[0]
        assert ALGEBRA.holds(slope @ x.numpy()[0] + constant, mean, 1.0)
        assert ALGEBRA.holds(variance, float(s.chain.coefficients(x)[2][k]) ** 2, 1.0)
