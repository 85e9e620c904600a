"""How methods relate to one another and to second routes; what tasks, draws, policies promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import points, size, tensor
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT, SLOPE
from theory.ledger import oracle
from theory.methods import Draws, Policy, ProblemTask, endpoint_batch
from theory.methods.adjoint.adjoint_matching import AdjointMatching
from theory.methods.contract.probe import (
    Perturbed,
    expected_gradient,
    gradient_test,
)
from theory.methods.matching.flow_matching import FlowMatching
from theory.methods.matching.nft import NFT
from theory.methods.matching.tilt_matching import TiltMatching
from theory.methods.matching.weighted_flow_matching import WeightedFlowMatching
from theory.methods.policy_gradient.ddpo import DDPO
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Exponential, Power, TruncatedExponential

NOTE, PLANE, BUMPS = (load_problem(name) for name in ("note_1d", "bump_2d", "bumps_1d"))
DOUBLE = torch.float64


class Free(nn.Module):
    """v(x, t) plus a number of its own for every row: gradients of losses, row by row."""

    def __init__(self, function, rows, dim):
        super().__init__()
        self.function, self.shift = function, nn.Parameter(torch.zeros(rows, dim, dtype=DOUBLE))

    def forward(self, x, t, cond=None):
        return self.function(x, t) + self.shift


def slopes(method, batch, velocity, problem=NOTE):
    """d loss / d v of every row, at v = velocity(x, t)."""
    student = Free(velocity, *batch["x"].shape)
    task = ProblemTask([problem], dtype=DOUBLE)
    losses, _ = method.loss(Policy(student, problem.base_field), task, batch)
    (gradient,) = torch.autograd.grad(losses.sum(), student.shift)
    return gradient


def collected(method, problem, n=512, seed=0, **options):
    """A batch of one network at the base, and its task."""
    task = ProblemTask([problem], dtype=DOUBLE, **options)
    draws = Draws.seeded([seed], DOUBLE)
    policy = method.setup(Perturbed(problem.base_field, 1, problem.dim, problem.dim), task, draws)
    return method.collect(policy, task, n, draws), task, policy


# --- conditional expectations of the losses' own gradients, by quadrature in place of draws


def log_density(y):
    """note_1d's base in plain numpy."""
    weights, means, stds = np.array([0.65, 0.35]), np.array([-1.2, 1.1]), np.array([0.6, 0.9])
    parts = np.log(weights / stds) - 0.5 * ((y - means) / stds) ** 2
    return np.logaddexp(parts[:, 0], parts[:, 1])


def bump(y):
    return np.exp(-0.5 * (y[:, 0] - 2.0) ** 2)


DENSITY = oracle.Density(
    log_density, oracle.Region(np.array([-9.0]), np.array([11.0]), np.array([[-1.2], [1.1], [2.0]]))
)


def conditional_batch(x, t):
    """(rows of the batch at one (x, t), X_1 on a grid; their probabilities): trapezoidal rule."""
    y = np.linspace(-9, 11, 4001)[:, None]
    log_weight = log_density(y) - 0.5 * ((x - t * y[:, 0]) / (1 - t)) ** 2
    weight = np.exp(log_weight - log_weight.max())
    rows = torch.as_tensor(y)
    place = torch.full_like(rows, x)
    time = torch.full((len(rows),), t, dtype=DOUBLE)
    batch = {
        "x": place, "t": time, "y": (rows - place) / (1 - t), "r": torch.as_tensor(bump(y)),
        "cond": None, "v0": NOTE.base_field(place, time), "v_old": NOTE.base_field(place, time),
    }  # fmt: skip
    return batch, torch.as_tensor(weight / weight.sum())


def conditional_gap(method, velocity, x, t):
    """E[d loss / d v | X_t = x] relative to E|d loss / d v|, at v = velocity."""
    batch, weight = conditional_batch(x, t)
    if isinstance(method, WeightedFlowMatching):
        batch["weight"] = method.phi(batch["r"])
    row = slopes(method, batch, velocity)[:, 0]
    return float((weight * row).sum().abs() / (weight * row.abs()).sum())


FIXED_POINTS = {
    "flow matching": (FlowMatching(), NOTE.base_field),
    "nft": (NFT(0.7), NOTE.cumulant_field(2 / 0.7, 1)),
    "explicit": (TiltMatching("explicit", 3.0), NOTE.cumulant_field(3.0, 1)),
    "implicit": (TiltMatching("implicit", 3.0), NOTE.tilted_field(Exponential(3.0))),
    "implicit, large scale": (TiltMatching("implicit", 9.0), NOTE.tilted_field(Exponential(9.0))),
    "weighted": (TiltMatching("weighted", 9.0), NOTE.tilted_field(Exponential(9.0))),
    "truncated": (
        WeightedFlowMatching("truncated", 2.0, 3), NOTE.tilted_field(TruncatedExponential(2.0, 3))
    ),
    "power": (WeightedFlowMatching("power", exponent=2), NOTE.tilted_field(Power(2))),
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED_POINTS)
def test_fixed_points_point_by_point(name):
    """No draws: at every (x, t) the conditional gradient of the loss itself is zero."""
    method, velocity = FIXED_POINTS[name]
    little = NOTE.cumulant_field(1e-3, 1)

    def moved(x, t):
        return velocity(x, t) + little(x, t) - NOTE.base_field(x, t)

    for x, t in ((-0.8, 0.3), (0.9, 0.6), (2.1, 0.85)):
        assert conditional_gap(method, velocity, x, t) <= QUADRATURE_TIGHT.rtol
        # One part in a thousand of the reward's effect is seen.
        assert conditional_gap(method, moved, x, t) > 100 * QUADRATURE_TIGHT.rtol


def test_implicit_fixed_point_at_large_scale_by_the_oracle():
    """v0 + E[(exp(a r) - 1)(Y - v) | x] - v = 0, the expectation by adaptive quadrature."""
    a = 9.0
    field = NOTE.tilted_field(Exponential(a))
    first_order = NOTE.cumulant_field(a, 1)
    for x, t in ((-0.8, 0.3), (0.9, 0.6), (2.1, 0.85)):

        def residual(v, x=x, t=t):
            found = oracle.posterior_expectation(
                DENSITY,
                lambda y: (np.expm1(a * bump(y)) * ((y[:, 0] - x) / (1 - t) - v))[:, None],
                np.array([x]), t, 1 - t,
            )  # fmt: skip
            v0 = float(NOTE.base_field(tensor([[x]]), t))
            return v0 + found.value[0] - v

        v, wrong = (float(f(tensor([[x]]), t)) for f in (field, first_order))
        size_here = math.exp(a) * max(abs(v), 1.0)
        assert QUADRATURE_TIGHT.holds(residual(v), 0.0, scale=size_here)
        assert not QUADRATURE.holds(residual(wrong), 0.0, scale=size_here)
        weighted = oracle.velocity(
            DENSITY, np.array([x]), t, 1 - t, 1.0, -1.0, lambda y: np.exp(a * bump(y))
        )
        assert QUADRATURE_TIGHT.holds(v, weighted.value[0], scale=1.0)


# --- explicit tilt matching and NFT


@pytest.mark.parametrize("problem", [NOTE, PLANE, BUMPS], ids=lambda p: p.name)
def test_explicit_tilt_matching_and_nft_share_their_optimum(problem):
    x = points(20, problem.dim)
    for a in (0.7, 3.0):
        one, two = TiltMatching("explicit", a).optimum(problem), NFT(2 / a).optimum(problem)
        for t in (0.0, 0.4, 0.95):
            assert ALGEBRA.holds(one.velocity(x, t), two.velocity(x, t), scale=1.0)
        other = NFT(1 / a).optimum(problem).velocity(x, 0.4)
        assert not ALGEBRA.holds(one.velocity(x, 0.4), other, scale=1.0)


def targets(problem=PLANE, a=2.5, n=512, blocks=48):
    """What explicit tilt matching and NFT regress on at v0, row by row, and the rows."""
    task = ProblemTask([problem] * blocks, dtype=DOUBLE)
    batch = endpoint_batch(task, task.endpoints(n, Draws.seeded(range(blocks), DOUBLE)))
    batch["v0"] = batch["v_old"] = problem.base_field(batch["x"], batch["t"])
    nft_beta = 2 / a
    explicit = -slopes(TiltMatching("explicit", a), batch, problem.base_field, problem) / 2
    nft = -slopes(NFT(nft_beta), batch, problem.base_field, problem) / (2 * nft_beta**2)
    return explicit, nft, batch, nft_beta


def test_their_targets_agree_conditionally_and_not_draw_by_draw():
    """The difference is (Y - v0)/nft_beta, of conditional mean zero."""
    explicit, nft, batch, nft_beta = targets()
    noise = (batch["y"] - batch["v0"]) / nft_beta
    assert ALGEBRA.holds(explicit - nft, noise, scale=1.0)
    assert float((explicit - nft).abs().mean()) > SLOPE * size(nft.mean(0))
    features = PLANE.cumulant_field(1.0, 1)(batch["x"], batch["t"]) - batch["v0"]

    def per_block(values):
        return (values * features).reshape(48, -1, 2).mean(1)

    assert gradient_test(per_block(explicit - nft)).vanishes
    assert not gradient_test(per_block(explicit)).vanishes
    assert not gradient_test(per_block(nft)).vanishes
    # Power: targets at another scale differ in conditional mean.
    assert not gradient_test(per_block(2 * explicit - nft)).vanishes


# --- two spellings of one loss


def test_weighted_tilt_matching_is_weighted_flow_matching():
    one, two = TiltMatching("weighted", 1.7), WeightedFlowMatching("exp", 1.7)
    for problem in (NOTE, PLANE):
        first, task, policy = collected(one, problem)
        second, _, _ = collected(two, problem)
        policy.student.theta.data.fill_(0.3)
        a, b = (m.loss(policy, task, batch)[0] for m, batch in ((one, first), (two, second)))
        assert ALGEBRA.holds(a.detach(), b.detach())
        plain = FlowMatching().loss(policy, task, second)[0]
        assert ALGEBRA.holds(a.detach(), (plain * (1.7 * second["r"]).exp()).detach())
        assert not ALGEBRA.holds(a.detach(), plain.detach())


def test_methods_on_one_chain_share_their_optimum():
    """DDPO at kl_weight = 1/scale and Adjoint Matching: each one's gradient at the other's."""
    options = {"steps": 6, "sigma_end": 0.1}
    one, two = DDPO(0.4, **options), AdjointMatching(2.5, **options)
    best, other = one.optimum(NOTE), two.optimum(NOTE)
    x = points(30, 1)
    for t in Chain(6, 0.1).times.tolist():
        assert ALGEBRA.holds(best.velocity(x, t), other.velocity(x, t), scale=1.0)
    assert expected_gradient(two, NOTE, "optimum", best=best).vanishes
    assert expected_gradient(one, NOTE, "optimum", best=other).vanishes
    wrong = DDPO(0.6, **options).optimum(NOTE)
    assert not expected_gradient(two, NOTE, "optimum", best=wrong).vanishes
    assert AdjointMatching(2.5).optimum(load_problem("full_5d")).exact is False
    assert DDPO(0.4).optimum(load_problem("full_5d")) is None
    assert DDPO(0.0).optimum(NOTE) is None
