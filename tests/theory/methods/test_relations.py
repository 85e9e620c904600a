"""How methods relate to one another and to second routes; what tasks, draws, policies promise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import ks_bound, ks_distance, points, size, tensor
from tests.theory.methods.mutants import mutant_module
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT, SLOPE
from theory.fields.paths import PATHS
from theory.ledger import oracle
from theory.methods import Draws, Policy, ProblemTask, endpoint_batch, square
from theory.methods.adjoint.adjoint_matching import AdjointMatching
from theory.methods.contract.probe import (
    Perturbed,
    expected_gradient,
    gradient_samples,
    gradient_test,
    prepare,
)
from theory.methods.contract.task import heun
from theory.methods.matching.flow_matching import FlowMatching
from theory.methods.matching.nft import LEAST_WEIGHT, NFT
from theory.methods.matching.reward_mapping import released_mapping
from theory.methods.matching.tilt_matching import TiltMatching
from theory.methods.matching.weighted_flow_matching import WeightedFlowMatching
from theory.methods.policy_gradient.ddpo import DDPO
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, chain_law, state_axes
from theory.samplers.flow import FlowLaw
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


# --- DDPO without KL: the gradient of what it maximises


def shifted(theta):
    """The base moved by the probe's features: what theta does to the law of X_T."""
    model = Perturbed(NOTE.base_field, 1, 1, 1)
    model.theta.data[0, :, 0] = theta
    return model.requires_grad_(False)


def ddpo_gap(loss_method, features=6):
    """Student's t of (sampled gradient + finite difference of the exact E[r(X_T)])."""
    method, h = DDPO(0.0, steps=5, sigma_end=0.12), 1e-3
    chain = method.chain(NOTE)
    axes = state_axes(chain, [NOTE.base], 0.5)
    r = NOTE.reward(torch.as_tensor(axes[0])[:, None]).numpy()
    exact = []
    for i in range(features):
        ends = [
            chain_law(chain, shifted(sign * h * torch.eye(features, dtype=DOUBLE)[i]), axes)
            for sign in (1, -1)
        ]
        exact.append((ends[0].integrate(r) - ends[1].integrate(r)) / (2 * h))
    setting = prepare(method, NOTE, "reference", n=1024)
    samples = gradient_samples(loss_method, setting)[:, :features]
    return gradient_test(samples + tensor(exact)), gradient_test(samples), samples, exact


def test_ddpo_without_kl_follows_the_exact_gradient():
    method = DDPO(0.0, steps=5, sigma_end=0.12)
    gap, alone, samples, exact = ddpo_gap(method)
    assert gap.vanishes
    assert not alone.vanishes
    # n is enough to see a tenth of it missing.
    assert not gradient_test(samples + 1.1 * tensor(exact)).vanishes


@pytest.mark.parametrize(
    "edit",
    [
        ("(2 * variance)", "variance"),
        ("-advantage * log_prob", "advantage * log_prob"),
        ("self.kl_weight * kl).sum(1)", "self.kl_weight * kl).mean(1)"),
        ("advantage = returns - value.detach()", "advantage = returns.clamp_max(0.5)"),
    ],
)
def test_mutants_of_ddpo_without_kl(edit):
    module = mutant_module("theory.methods.policy_gradient.ddpo", edit)
    assert not ddpo_gap(module.DDPO(0.0, steps=5, sigma_end=0.12))[0].vanishes


# --- the lean adjoint by hand


class Rotating(nn.Module):
    """v(x, t) = A x with A far from symmetric: an exact field's Jacobian is symmetric, and would
    not tell a product with it from one with its transpose."""

    def forward(self, x, t, cond=None):
        return x @ tensor([[0.2, 1.3], [-0.4, -0.5]]).T


def adjoint_errors(kind):
    """Largest errors of the adjoints and reference means, against products of matrices; the
    student is another field: the lean adjoint does not look at it."""
    method, task = kind(2.0, steps=4, sigma_end=0.15), ProblemTask([PLANE], dtype=DOUBLE)
    policy = Policy(Perturbed(PLANE.base_field, 1, 2, 2), reference=Rotating())
    batch = method.collect(policy, task, 16, Draws.seeded([3], DOUBLE))
    P, Q, _ = (c.numpy() for c in method.chain(task).coefficients(batch["x"]))
    A = np.array([[0.2, 1.3], [-0.4, -0.5]])
    precision, centre = np.array([[1.4, 0.5], [0.5, 0.9]]), np.array([1.2, -0.6])
    gap = batch["x"][:, -1].numpy() - centre
    g = -np.exp(-0.5 * np.einsum("ni,ij,nj->n", gap, precision, gap))[:, None] * (gap @ precision)
    worst = 0.0
    for k in range(3, -1, -1):
        J = P[k] * np.eye(2) + Q[k] * A
        means = batch["x"][:, k].numpy() @ J.T
        worst = max(worst, ALGEBRA.error(batch["adjoint"][:, k], g, 1.0))
        worst = max(worst, ALGEBRA.error(batch["reference"][:, k], means, 1.0))
        g = g @ J
    return worst


def test_lean_adjoint_is_the_product_of_transposed_jacobians():
    assert adjoint_errors(AdjointMatching) <= ALGEBRA.rtol


@pytest.mark.parametrize(
    "instead",
    [
        # Without the transpose: exact fields have symmetric Jacobians and would not tell.
        "f = lambda z: chain.mean(policy.reference, k, z, cond)\n"
        + " " * 8
        + "g = torch.autograd.functional.jvp(f, state.detach(), adjoint)[1]",
        # Through the policy: the full adjoint without its running cost.
        "(g,) = torch.autograd.grad(chain.mean(policy.student, k, state, cond), state, adjoint)",
    ],
)
def test_mutants_of_the_lean_adjoint(instead):
    edit = ("(g,) = torch.autograd.grad(base, state, adjoint)", instead)
    module = mutant_module("theory.methods.adjoint.adjoint_matching", edit)
    assert adjoint_errors(module.AdjointMatching) > ALGEBRA.rtol


# --- NFT's released reward mapping


class Prompts(ProblemTask):
    """Rows in groups of eight of one prompt."""

    def reward_statistics(self, raw, cond=None):
        groups = raw.reshape(-1, 8)
        mean = groups.mean(1, keepdim=True).expand_as(groups).reshape(raw.shape)
        return mean, super().reward_statistics(raw, cond)[1]


def mapped_by_hand(raw, group):
    """clamp(1/2 + clip(A, -5, 5)/10, 0, 1), A = (R - prompt's mean) / (batch's std + 1e-4), of one
    network's rows."""
    centred = (raw.reshape(-1, group) - raw.reshape(-1, group).mean(1, keepdims=True)).ravel()
    advantage = centred / (np.sqrt(((raw - raw.mean()) ** 2).mean()) + 1e-4)
    return np.clip(0.5 + np.clip(advantage, -5, 5) / 10, 0, 1)


@pytest.mark.parametrize(("kind", "group"), [(ProblemTask, 64), (Prompts, 8)])
def test_released_mapping_is_that_of_its_docstring(kind, group):
    """Two networks of different rewards: each block by its own statistics."""
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=64), 40 + 12 * rng.exponential(size=64)]
    blocks[0][3], blocks[0][17] = 60.0, -25.0  # beyond the clip
    raw = torch.as_tensor(np.concatenate(blocks))
    ours = released_mapping(kind([NOTE, BUMPS], dtype=DOUBLE), raw)
    expected = np.concatenate([mapped_by_hand(block, group) for block in blocks])
    assert ALGEBRA.holds(ours, expected, scale=1.0)
    assert float(ours.max()) == 1.0
    mixed = mapped_by_hand(raw.numpy(), group)
    assert not ALGEBRA.holds(mixed, expected, scale=1.0)
    alone = released_mapping(kind([BUMPS], dtype=DOUBLE), raw[64:])
    assert torch.equal(alone, ours[64:])


def test_released_mapping_in_a_batch():
    method = NFT(reward_mapping="released")
    batch, _, _ = collected(method, NOTE, n=256)
    raw = NOTE.reward(batch["x"])  # any rewards: only the range is looked at
    assert float(batch["r"].min()) >= 0
    assert float(batch["r"].max()) <= 1
    assert abs(float(batch["r"].mean()) - 0.5) < SLOPE
    assert raw.shape == batch["r"].shape
    # scale: 2/nft_beta in units of the mapped reward, whose slope is 1/(10 std).
    axis = torch.linspace(-9, 11, 4001, dtype=DOUBLE)[:, None]
    p, r = NOTE.base.log_density(axis).exp() * 0.005, NOTE.reward(axis)
    std = float(((p * r**2).sum() - (p * r).sum() ** 2).sqrt())
    assert QUADRATURE_TIGHT.holds(method.scale(NOTE), 2 / (10 * (std + 1e-4)))
    assert not method.optimum(NOTE).exact


# --- NFT's adaptive normaliser


def branches(batch, velocity, nft_beta):
    step = nft_beta * (velocity(batch["x"], batch["t"]) - batch["v_old"])
    return batch["v_old"] + step - batch["y"], batch["v_old"] - step - batch["y"]


@pytest.mark.parametrize("path", PATHS)
def test_adaptive_normaliser_is_that_of_its_docstring(path):
    problem = replace(PLANE, path=PATHS[path]())
    off = NFT(0.8)
    batch, task, policy = collected(off, problem)
    assert torch.equal(
        off.loss(policy, task, batch)[0], NFT(0.8, "off").loss(policy, task, batch)[0]
    )
    student, t, r = problem.cumulant_field(1.0, 1), batch["t"], batch["r"]
    plus, minus = branches(batch, student, 0.8)
    policy = Policy(student, problem.base_field)
    plain = r * square(plus) + (1 - r) * square(minus)
    assert ALGEBRA.holds(off.loss(policy, task, batch)[0], plain)
    sizes = [e.abs().mean(1).clamp_min(LEAST_WEIGHT) for e in (plus, minus)]
    expected = r * square(plus) / sizes[0] + (1 - r) * square(minus) / sizes[1]
    found = NFT(0.8, "velocity").loss(policy, task, batch)[0]
    assert ALGEBRA.holds(found, expected)
    # x_1 - error of the x_1-prediction: theory.fields.paths converts both velocities.
    x1 = NFT(0.8, "x1").loss(policy, task, batch)[0]
    total = torch.zeros_like(x1)
    for weight, error in ((r, plus), (1 - r, minus)):
        inner = (t > 0.01) & (t < 0.99)
        ends = [
            problem.path.convert(v[inner], batch["x"][inner], t[inner], "velocity", "x1")
            for v in (error + batch["y"], batch["y"])
        ]
        gap = ends[0] - ends[1]
        total[inner] += weight[inner] * square(gap) / gap.abs().mean(1).clamp_min(LEAST_WEIGHT)
    assert QUADRATURE.holds(x1[inner], total[inner], scale=size(total))
    assert not QUADRATURE.holds(x1[inner], found[inner], scale=size(total))
    if path == "rectified_flow":  # the x_1-error is (1 - t) times the velocity's
        assert ALGEBRA.holds(x1, (1 - t) * found)


@pytest.mark.parametrize("kind", ["velocity", "x1"])
def test_adaptive_weight_is_held_fixed(kind):
    """The gradient is that of the squared errors over constants."""
    method, student = NFT(0.8, kind), PLANE.cumulant_field(1.0, 1)
    batch, _, _ = collected(method, PLANE)
    plus, minus = branches(batch, student, 0.8)
    r, factor = batch["r"][:, None], (1 - batch["t"][:, None]) if kind == "x1" else 1.0
    ours = slopes(method, batch, student, PLANE)
    expected = 2 * 0.8 * factor * (
        r * plus / plus.abs().mean(1, keepdim=True)
        - (1 - r) * minus / minus.abs().mean(1, keepdim=True)
    )  # fmt: skip
    assert ALGEBRA.holds(ours, expected, scale=1.0)
    module = mutant_module("theory.methods.matching.nft", ("error.detach().abs()", "error.abs()"))
    mutant = slopes(module.NFT(0.8, kind), batch, student, PLANE)
    assert not ALGEBRA.holds(mutant, expected, scale=1.0)
    assert method.optimum(PLANE) is None


# --- NFT's old copy


def test_old_copy_follows_every_so_many_steps():
    method = NFT(refresh_every=3, old_decay=0.75)
    _, task, policy = collected(method, NOTE, n=8)
    policy.student.theta.data.fill_(1.0)
    for step in (1, 2):
        method.after_step(policy, step)
        assert not policy.old.theta.any()
    method.after_step(policy, 3)
    assert ALGEBRA.holds(policy.old.theta, torch.full_like(policy.old.theta, 0.25))
    method.after_step(policy, 6)
    assert ALGEBRA.holds(policy.old.theta, torch.full_like(policy.old.theta, 0.25 + 0.75 * 0.25))
    assert not policy.reference.theta.any()
    assert not policy.old.theta.requires_grad
    # Data and the old velocity come from the old copy.
    batch = method.collect(policy, task, 8, Draws.seeded([5], DOUBLE))
    assert torch.equal(batch["v_old"], policy.old(batch["x"], batch["t"]))
    assert not torch.equal(batch["v_old"], policy.reference(batch["x"], batch["t"]))
    fresh = NFT(refresh_every=1)
    fresh.after_step(policy, 1)
    assert torch.equal(policy.old.theta, policy.student.theta)


def test_pool_is_drawn_once_an_epoch():
    method = NFT(refresh_every=2, pool=16)
    _, task, policy = collected(method, NOTE, n=8)
    pool = policy.state["pool"].clone()
    draws = Draws.seeded([5], DOUBLE)
    batch = method.collect(policy, task, 64, draws)
    assert torch.equal(policy.state["pool"], pool)  # the same epoch, the same pool
    x1 = batch["x"] + (1 - batch["t"])[:, None] * batch["y"]
    gaps = (x1[:, None, 0] - pool[None, :, 0]).abs().amin(1)
    assert ALGEBRA.holds(gaps, torch.zeros_like(gaps), scale=1.0)
    assert len({int((x - pool[:, 0]).abs().argmin()) for x in x1[:, 0]}) > 8
    policy.student.theta.data.fill_(1.0)
    method.after_step(policy, 2)
    method.collect(policy, task, 8, draws)
    assert not torch.equal(policy.state["pool"], pool)


def test_anchor_may_be_the_guided_reference():
    problem = load_problem("guided_1d")
    for anchor, reference in (("base", problem.base_field), ("guided", problem.guided_field)):
        batch, _, _ = collected(NFT(kl_weight=0.5, anchor=anchor), problem, n=8)
        x, t = batch["x"].to(torch.float64), batch["t"].to(torch.float64)
        assert ALGEBRA.holds(batch["v_ref"], reference(x, t), scale=1.0)
    assert NFT(kl_weight=0.5, anchor="guided").optimum(problem) is None
    assert NFT(kl_weight=0.5, anchor="guided").target(problem) is None
    with pytest.raises(ValueError, match=r"no guidance: allowed are problems with a \[guidance\]"):
        NFT(kl_weight=0.5, anchor="guided").check_problem(NOTE)


def test_options_that_would_change_nothing():
    with pytest.raises(ValueError, match="pool = 5 changes nothing"):
        NFT(pool=5)
    with pytest.raises(ValueError, match="anchor = 'guided' changes nothing"):
        NFT(anchor="guided")
    with pytest.raises(ValueError, match=r"kl_weight = -0\.1: allowed are finite numbers >= 0"):
        NFT(kl_weight=-0.1)


def test_without_refresh_there_is_no_old_copy():
    method = NFT()
    batch, _, policy = collected(method, NOTE, n=8)
    assert policy.old is None
    method.after_step(policy, 1)
    assert torch.equal(batch["v_old"], NOTE.base_field(batch["x"], batch["t"]))
    with pytest.raises(TypeError, match="allowed are torch modules"):
        NFT(refresh_every=1).after_step(Policy(NOTE.base_field, old=NOTE.base_field), 1)


def test_heun_is_second_order():
    """The samples of an old copy, against the exact transport."""
    noise = points(40, 1, seed=2)
    exact = FlowLaw(NOTE.base_field).push(noise)
    gaps = [size(heun(NOTE.base_field, NOTE.path, noise, n) - exact) for n in (40, 80, 160)]
    orders = -np.diff(np.log2(gaps))
    assert np.all(np.abs(orders - 2) < 3 * SLOPE), orders


# --- draws


def test_blocks_do_not_see_their_neighbours():
    together, alone = Draws.seeded([3, 8, 5], DOUBLE), Draws.seeded([8], DOUBLE)
    for draw in (lambda d: d.normal(7, 2), lambda d: d.uniform(7), lambda d: d.normal(7, 2)):
        a, b = draw(together), draw(alone)
        assert a.dtype == DOUBLE
        assert torch.equal(a[7:14], b)
        assert not torch.equal(a[:7], b)
    task = [ProblemTask([NOTE, BUMPS, NOTE], dtype=DOUBLE), ProblemTask([BUMPS], dtype=DOUBLE)]
    for quasi in (False, True):
        for t in task:
            t.low_discrepancy = quasi
        a, b = (t.endpoints(16, d) for t, d in zip(task, (together, alone), strict=True))
        for one, two in zip(a[:3], b[:3], strict=True):
            assert torch.equal(one[16:32], two)


def test_draws_go_on_where_they_were():
    draws = Draws.seeded([3, 8], DOUBLE)
    draws.normal(11)
    states = [s.clone() for s in draws.states()]
    first = draws.uniform(5), draws.normal(3, 2)
    other = Draws.seeded([1, 2], DOUBLE)
    other.restore(states)
    assert all(map(torch.equal, first, (other.uniform(5), other.normal(3, 2))))
    with pytest.raises(ValueError, match=r"1 states: allowed is one a generator \(2\)"):
        other.restore(states[:1])
    with pytest.raises(ValueError, match=r"generators = \[\]: allowed is at least one"):
        Draws([])
    for seed in (-1, 2**63, 0.5):
        with pytest.raises(ValueError, match=r"seed = .*: allowed are whole numbers"):
            Draws.seeded([seed])


# --- tasks


@pytest.mark.parametrize("quasi", [False, True])
@pytest.mark.parametrize("problem", [BUMPS, PLANE], ids=lambda p: p.name)
def test_endpoints_follow_their_laws(problem, quasi):
    n = 2**14
    task = ProblemTask([problem], dtype=DOUBLE, low_discrepancy=quasi)
    x0, x1, t, *_ = task.endpoints(n, Draws.seeded([1], DOUBLE))
    bound = ks_bound(n)
    assert ks_distance(t, lambda u: u) <= bound
    for i in range(problem.dim):
        law = problem.base.marginal([i])
        assert (
            ks_distance(x0[:, i], lambda y: torch.special.ndtr(torch.as_tensor(y)).numpy()) <= bound
        )
        assert ks_distance(x1[:, i], lambda y, p=law: p.cdf(torch.as_tensor(y)).numpy()) <= bound
        # Power: the first component alone is told from the mixture.
        one = problem.base.mean[0, i], problem.base.cov[0, i, i].sqrt()
        z = (x1[:, i] - one[0]) / one[1]
        assert ks_distance(z, lambda y: torch.special.ndtr(torch.as_tensor(y)).numpy()) > bound
    # Independent of one another: every pair of ranks is uniform on the square's quarters.
    columns = torch.cat([x0, x1[:, :1], t[:, None]], 1)
    high = (columns > columns.median(0).values).double()
    quarters = high.T @ high / n
    quarters.fill_diagonal_(0.25)
    assert size(quarters - 0.25) <= 2 * bound


def test_base_samples_and_endpoints_agree_in_float32():
    task = ProblemTask([PLANE])
    x, *_ = task.base_samples(2**13, Draws.seeded([4]))
    assert x.dtype == torch.float32
    law = PLANE.base.marginal([1])
    assert ks_distance(x[:, 1].double(), lambda y: law.cdf(torch.as_tensor(y)).numpy()) <= ks_bound(
        2**13
    )
    x0, x1, t, *_ = ProblemTask([PLANE], low_discrepancy=True).endpoints(2**13, Draws.seeded([4]))
    assert all(bool(torch.isfinite(v).all()) for v in (x0, x1, t))
    assert float(t.max()) < 1


def block_losses(quasi, blocks=64, n=512):
    """Mean flow matching loss at v = 0 of every block: E|Y|^2 = E|X_1|^2 + d."""
    task = ProblemTask([PLANE] * blocks, dtype=DOUBLE, low_discrepancy=quasi)
    ends = task.endpoints(n, Draws.seeded(range(blocks), DOUBLE))
    return square(endpoint_batch(task, ends)["y"]).reshape(blocks, n).mean(1)


def test_sobol_points_have_the_same_expectation_and_less_variance():
    base = PLANE.base
    exact = float(base.covariance().diagonal().sum() + base.expectation().square().sum()) + 2
    plain, quasi = block_losses(False), block_losses(True)
    for sample in (plain, quasi):
        assert gradient_test(sample[:, None] - exact).vanishes
    assert 2 * float(quasi.var()) < float(plain.var())
    assert not gradient_test(quasi[:, None] - 1.1 * exact).vanishes


def test_networks_of_several_problems_are_each_their_own():
    """Rewards, base velocities and samples of a mixed batch are those of every problem alone."""
    cases = [NOTE, NOTE, BUMPS, NOTE]
    task = ProblemTask(cases, dtype=DOUBLE)
    assert [b.count for b in task.blocks_of_problems] == [2, 1, 1]
    x, t = points(4 * 6, 1), torch.linspace(0, 0.9, 24, dtype=DOUBLE)
    samples, *_ = task.base_samples(6, Draws.seeded(range(4), DOUBLE))
    for i, case in enumerate(cases):
        rows = slice(6 * i, 6 * i + 6)
        assert torch.equal(task.reward(x)[rows], case.reward(x[rows]))
        velocity = task.base_velocity(x, t)[rows]
        assert ALGEBRA.holds(velocity, case.base_field(x[rows], t[rows]), scale=1.0)
        alone, *_ = ProblemTask([case], dtype=DOUBLE).base_samples(6, Draws.seeded([i], DOUBLE))
        assert torch.equal(samples[rows], alone)
    with pytest.raises(ValueError, match=r"d = \[1, 2\].*allowed is one dimension"):
        ProblemTask([NOTE, PLANE])
    with pytest.raises(ValueError, match=r"problems = \[\]: allowed is at least one"):
        ProblemTask([])
    with pytest.raises(NotImplementedError, match="makes no auxiliary networks"):
        task.auxiliary(1, Draws.seeded([0]))


def test_times_of_a_task_are_respected():
    task = ProblemTask([NOTE], dtype=DOUBLE)
    task.times = tensor([0.1, 0.4, 0.9])
    drawn = task.draw_times(4096, Draws.seeded([2], DOUBLE))
    assert torch.equal(drawn.unique(), task.times)
    for t in task.times:
        assert abs(float((drawn == t).double().mean()) - 1 / 3) <= ks_bound(4096, 3)
    for quasi in (False, True):
        task.low_discrepancy = quasi
        ends = task.endpoints(64, Draws.seeded([2], DOUBLE))
        assert bool(torch.isin(ends[2], task.times).all())


# --- policies


def test_checkpoint_of_a_policy_goes_round():
    method = DDPO(0.5, steps=4, sigma_end=0.1)
    policy = prepare(method, NOTE, "reference", blocks=2, n=8).policy
    policy.old, policy.state = policy.student.frozen_copy(), {"mean": torch.arange(2.0)}
    for p in policy.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(0))
    saved = {k: v.clone() for k, v in policy.tensors().items()}
    assert {k.partition(".")[0] for k in saved} == {"student", "old", "networks", "state"}
    other = prepare(method, NOTE, "reference", blocks=2, n=8).policy
    other.old, other.state = other.student.frozen_copy(), {"mean": torch.zeros(2)}
    trained = {id(p) for p in other.parameters()}
    other.load(saved)
    assert all(torch.equal(v, saved[k]) for k, v in other.tensors().items())
    assert {id(p) for p in other.parameters()} == trained  # in place: an optimiser goes on
    assert not other.reference.theta.any()  # no part of a checkpoint
    for change in (
        {**saved, "student.more": torch.zeros(1)},
        {k: v for k, v in saved.items() if k != "networks.value.theta"},
        {k.replace("old.", "older."): v for k, v in saved.items()},
    ):
        with pytest.raises(ValueError, match=r"tensors are named .*: allowed are this policy's"):
            other.load(change)
    with pytest.raises(ValueError, match=r"state.mean has shape \(3,\): allowed is \(2,\)"):
        other.load({**saved, "state.mean": torch.zeros(3)})
    with pytest.raises(
        TypeError, match=r"state.mean has dtype torch.float64: allowed is .*float32"
    ):
        other.load({**saved, "state.mean": torch.zeros(2, dtype=DOUBLE)})


def test_parameters_are_those_of_student_and_networks():
    method = DDPO(0.5, steps=4, sigma_end=0.1)
    policy = prepare(method, NOTE, "reference", blocks=2, n=8).policy
    policy.old = policy.student.frozen_copy()
    own = [policy.student.theta, policy.networks["value"].theta]
    assert [id(p) for p in policy.parameters()] == [id(p) for p in own]
    assert Policy(NOTE.base_field).parameters() == []
