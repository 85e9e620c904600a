"""The adjoint family: its gradients against one another and against matrices, draw by draw."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import ks_bound, points, size, tensor
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.methods import Draws, Execution, Policy, ProblemTask
from theory.methods.adjoint import family as adjoints
from theory.methods.adjoint.continuous_adjoint import ContinuousAdjoint
from theory.methods.chain.finite import NonFiniteAdjointError
from theory.methods.chain.transforms import clipped, draw_subset, over_states
from theory.methods.contract.probe import Perturbed, expected_gradient
from theory.methods.registry import methods, parse_method
from theory.problems.problem import load_problem

NOTE, PLANE = load_problem("note_1d"), load_problem("bump_2d")
DOUBLE = torch.float64
NAMES = ("adjoint_matching", "basic_adjoint_matching", "discrete_adjoint", "continuous_adjoint")
STORED = tuple(n for n in NAMES if n != "discrete_adjoint")
KERNELS = {"ancestral": "steps=5,sigma_end=0.1", "constant": "steps=4,g=0.8",
           "offset": "steps=5,offset=0.4"}  # fmt: skip
ROWS = 64


def moved(problem, size=0.4, seed=0, kind=Perturbed):
    """The base moved by random features: its Jacobian is not symmetric, as an exact field's is."""
    model = kind(problem.base_field, 1, problem.dim, problem.dim, seed)
    generator = torch.Generator().manual_seed(seed + 7)
    model.theta.data = size * torch.randn(model.theta.shape, dtype=DOUBLE, generator=generator)
    return model


def setting(problem, kind=Perturbed):
    """A policy away from its reference, neither a gradient field, and a task."""
    reference = moved(problem, 0.3, 1, kind).requires_grad_(False)
    return Policy(moved(problem, kind=kind), reference), ProblemTask([problem], dtype=DOUBLE)


def collect(method, problem, n=ROWS, seed=3, kind=Perturbed):
    policy, task = setting(problem, kind)
    return policy, task, method.collect(policy, task, n, Draws.seeded([seed], DOUBLE))


def gradient(method, policy, task, batch):
    losses, _ = method.loss(policy, task, batch)
    return torch.autograd.grad(losses.mean(), policy.parameters())[0]


def gradient_of(method, problem, **options):
    return gradient(method, *collect(method, problem, **options))


# --- the discrete adjoint is the cost's gradient, and half of basic Adjoint Matching's


def cost_by_hand(policy, problem, options, scale=2.0, seed=3):
    """(costs (rows,), states) of a rollout written out, its noise drawn again."""
    chain = parse_method(f"discrete_adjoint:{options}").chain(problem)
    P, Q, s = chain.coefficients(torch.zeros(1, dtype=DOUBLE))
    noise = Draws.seeded([seed], DOUBLE).normal(ROWS, chain.steps + 1, problem.dim)
    x, total = noise[:, 0].clone().requires_grad_(True), 0.0
    states = [x]
    for k, t in enumerate(chain.times):
        v, w = (m(x, t.expand(ROWS)) for m in (policy.student, policy.reference))
        total = total + 0.5 * (Q[k] * (v - w) / s[k]).square().sum(1)
        x = P[k] * x + Q[k] * v + s[k] * noise[:, k + 1]
        states.append(x)
    return total - scale * problem.reward(x), states


def errors(problem, kind, basic=None, discrete=None):
    """Errors, in units of the gradient, of the discrete adjoint's gradient and of half of basic
    Adjoint Matching's, and of the latter's adjoints, against autograd of the cost."""
    options = KERNELS[kind]
    basic = basic or parse_method(f"basic_adjoint_matching:{options}")
    discrete = discrete or parse_method(f"discrete_adjoint:{options}")
    policy, task, batch = collect(basic, problem)
    cost, states = cost_by_hand(policy, problem, options)
    truth = torch.autograd.grad(cost.mean(), policy.parameters(), retain_graph=True)[0]
    slopes = torch.stack(torch.autograd.grad(cost.sum(), states[1:]), 1)
    ours = gradient_of(discrete, problem), 0.5 * gradient(basic, policy, task, batch)
    found = [ALGEBRA.error(g, truth, size(truth)) for g in ours]
    return [*found, ALGEBRA.error(batch["adjoint"], slopes, size(slopes))]


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("problem", [NOTE, PLANE], ids=lambda p: p.name)
def test_discrete_adjoint_is_the_costs_gradient_and_half_of_basic(problem, kind):
    assert max(errors(problem, kind)) <= ALGEBRA.rtol


def test_recomputed_steps_have_the_same_gradient_and_hold_less():
    method = parse_method("discrete_adjoint:steps=6,sigma_end=0.1")
    policy, task, batch = collect(method, PLANE)
    found, held = [], []
    for recompute in (False, True):
        task.execution = Execution(recompute=recompute)
        count = 0

        def pack(value):
            nonlocal count
            count += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            losses, _ = method.loss(policy, task, batch)
        held.append(count)
        found.append(torch.autograd.grad(losses.mean(), policy.parameters())[0])
    assert torch.equal(*found)
    assert held[1] < held[0] / 3


# --- the continuous adjoint


class Linear(nn.Module):
    """v(x, t) = A x."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(tensor(matrix))

    def forward(self, x, t, cond=None):
        return x @ self.matrix.T


A, B = [[0.2, 1.3], [-0.4, -0.5]], [[-0.3, 0.4], [0.9, 0.1]]


def bump_gradient(x):
    precision, centre = np.array([[1.4, 0.5], [0.5, 0.9]]), np.array([1.2, -0.6])
    gap = x - centre
    value = np.exp(-0.5 * np.einsum("ni,ij,nj->n", gap, precision, gap))
    return -value[:, None] * (gap @ precision)


def heun_by_hand(chain, x, scale, limit):
    """a_k of the docstring in plain matrices: (T + 1, rows, 2)."""
    P, Q, s, regular = limit
    eye, MA, MB = np.eye(2), np.array(A), np.array(B)
    a = -scale * bump_gradient(x[:, -1])
    found = {chain.steps: a}

    def slope(k, a):
        J = (P[k] - 1) * eye + Q[k] * MA
        C = (Q[k] / s[k]) ** 2 * (MA - MB).T @ (MA - MB)
        return a @ J + x[:, k] @ C

    for k in range(chain.steps - 1, -1, -1):
        if not regular[k]:
            found[k] = a
        elif k == chain.steps - 1:
            found[k] = a = a + slope(k, a)
        else:
            first = slope(k + 1, a)
            found[k] = a = a + 0.5 * (first + slope(k, a + first))
    return np.stack([found[k] for k in range(chain.steps + 1)])


def limit_by_hand(chain, kind):
    """P, Q, s and whether g is finite, of the rectified flow."""
    P, Q, s = (c.numpy().copy() for c in chain.coefficients(torch.zeros(1, dtype=DOUBLE)))
    if kind != "ancestral":
        return P, Q, s, [True] * chain.steps
    t, dt = chain.times.numpy()[1:], 1 / chain.steps
    P[1:], Q[1:], s[1:] = 1 - dt / t, 2 * dt, np.sqrt(2 * dt * (1 - t) / t)
    return P, Q, s, [False] + [True] * (chain.steps - 1)


def continuous_errors(kind, made=ContinuousAdjoint):
    """Largest errors of the stored adjoints and of the loss's gradient by hand."""
    method = made(**parse_method(f"continuous_adjoint:{KERNELS[kind]}").options)
    policy, task = Policy(Linear(A), Linear(B).requires_grad_(False)), setting(PLANE)[1]
    batch = method.collect(policy, task, 16, Draws.seeded([3], DOUBLE))
    chain, x = method.chain(task), batch["x"].numpy()
    limit = limit_by_hand(chain, kind)
    _, Q, s, _ = limit
    a = heun_by_hand(chain, x, 2.0, limit)
    worst = ALGEBRA.error(batch["adjoint"].transpose(0, 1), a, size(tensor(a)))
    truth, cost = np.zeros((2, 2)), 0.0
    for k in range(chain.steps):
        u = Q[k] / s[k] * x[:, k] @ (np.array(A) - np.array(B)).T
        truth += Q[k] / s[k] * (u + s[k] * a[k]).T @ x[:, k]
        cost = cost + 0.5 * (u**2).sum(1)
    losses, _ = method.loss(policy, task, batch)
    (ours,) = torch.autograd.grad(losses.sum(), policy.parameters())
    worst = max(worst, ALGEBRA.error(ours, truth, size(tensor(truth))))
    cost = cost - 2.0 * batch["r"].numpy()
    return max(worst, ALGEBRA.error(losses.detach(), cost, size(tensor(cost))))


@pytest.mark.parametrize("kind", KERNELS)
def test_continuous_adjoint_is_that_of_its_docstring(kind):
    assert continuous_errors(kind) <= ALGEBRA.rtol


class Fading(Perturbed):
    """Features that vanish at t = 1, as x_1-predictions ask for: without that drift and control of
    the limit are infinite there, and there is no limit."""

    def forward(self, x, t, cond=None):
        features = torch.sin(torch.cat([x, t[:, None]], -1) @ self.slopes + self.phases)
        return self.function(x, t) + (1 - t)[:, None] * (features @ self.theta[0])


def continuous_gaps(options, counts):
    """|continuous - discrete| of the two gradients on the same batches, relative."""
    found = []
    for steps in counts:
        text = options.format(steps=steps, end=0.5 / steps)
        two = [
            gradient_of(parse_method(f"{name}:{text}"), NOTE, n=512, kind=Fading)
            for name in ("continuous_adjoint", "discrete_adjoint")
        ]
        found.append(size(two[0] - two[1]) / size(two[1]))
    return found


@pytest.mark.parametrize(
    "options", ["steps={steps},sigma_end={end}", "steps={steps},g=1", "steps={steps},offset=0.2"]
)
def test_continuous_adjoint_tends_to_the_discrete_one(options):
    """The observed order is one."""
    gaps = continuous_gaps(options, (12, 24, 48))
    assert gaps[0] > gaps[1] > gaps[2]
    assert abs(np.log2(gaps[0] / gaps[2]) / 2 - 1) < 0.35, gaps


# --- transforms


@pytest.mark.parametrize("name", STORED)
def test_a_subset_has_the_expected_gradient_of_all(name):
    """Averaged over every subset there is: exactly, and not by draws."""
    whole, part = (parse_method(f"{name}:steps=4,sigma_end=0.1{o}") for o in ("", ",subset=2"))
    policy, task, batch = collect(whole, PLANE)
    expected, found = gradient(whole, policy, task, batch), 0.0
    subsets = list(combinations(range(4), 2))
    for chosen in subsets:
        index = torch.tensor(chosen).expand(ROWS, -1)
        found = found + gradient(part, policy, task, {**batch, "index": index}) / len(subsets)
    assert ALGEBRA.holds(found, expected, size(expected))
    one = gradient(part, policy, task, {**batch, "index": torch.tensor([[0, 1]]).expand(ROWS, -1)})
    assert not ALGEBRA.holds(one, expected, size(expected))
    drawn = part.collect(policy, task, ROWS, Draws.seeded([3], DOUBLE))
    assert torch.equal(drawn["x"], batch["x"])
    assert drawn["index"].shape == (ROWS, 2)
    assert part.states_per_row == 2


def test_subsets_are_uniform_and_without_replacement():
    n = 20_000
    index = draw_subset(n, 4, 2, Draws.seeded([5], DOUBLE))
    assert bool((index[:, 0] < index[:, 1]).all())
    pairs = list(combinations(range(4), 2))
    shares = [float((index == torch.tensor(p)).all(1).double().mean()) for p in pairs]
    assert max(abs(s - 1 / 6) for s in shares) <= ks_bound(n, len(pairs))
    assert sum(shares) == pytest.approx(1, abs=ALGEBRA.rtol)


@pytest.mark.parametrize("name", NAMES)
def test_clip(name):
    """High enough it is off; a term above has the value of the clip, and no gradient."""
    options = f"{name}:steps=4,sigma_end=0.1"
    off, high, low = (parse_method(f"{options}{o}") for o in ("", ",clip=1e30", ",clip=1e-12"))
    policy, task, batch = collect(off, PLANE)
    losses = [m.loss(policy, task, batch)[0].detach() for m in (off, high, low)]
    assert torch.equal(losses[0], losses[1])
    terms = 4e-12
    reward = 0.0 if "matching" in name else -2.0 * off.loss(policy, task, batch)[1]["reward"]
    assert ALGEBRA.holds(losses[2] - reward, torch.full_like(losses[2], terms), scale=1.0)
    ours = [gradient(m, policy, task, batch) for m in (off, high, low)]
    assert torch.equal(ours[0], ours[1])
    if name != "discrete_adjoint":  # whose reward is differentiated through as well
        assert not ours[2].any()


def test_clipped_terms():
    terms = tensor([[0.5, 2.0], [3.0, 1.0]]).requires_grad_(True)
    over_states(terms, 4, 1.5).sum().backward()
    assert torch.equal(terms.grad, tensor([[2.0, 0.0], [0.0, 2.0]]))
    assert torch.equal(over_states(terms, 4, 1.5).detach(), tensor([4.0, 5.0]))
    assert clipped(terms, 0.0) is terms


@pytest.mark.parametrize("name", NAMES[:3])
def test_clip_moves_the_fixed_point(name):
    method = parse_method(f"{name}:steps=4,sigma_end=0.1")
    best = method.optimum(NOTE)
    assert expected_gradient(method, NOTE, "optimum", best=best).vanishes
    cut = parse_method(f"{name}:steps=4,sigma_end=0.1,clip=0.1")
    assert not expected_gradient(cut, NOTE, "optimum", best=best).vanishes


@pytest.mark.parametrize("name", NAMES)
def test_reward_scale_is_a_factor_of_scale(name):
    one = parse_method(f"{name}:scale=1.5,reward_scale=3,steps=4,sigma_end=0.1")
    two = parse_method(f"{name}:scale=4.5,steps=4,sigma_end=0.1")
    ours, theirs = (gradient_of(m, PLANE) for m in (one, two))
    assert ALGEBRA.holds(ours, theirs, size(theirs))
    other = gradient_of(parse_method(f"{name}:scale=1.5,steps=4,sigma_end=0.1"), PLANE)
    assert not ALGEBRA.holds(other, theirs, size(theirs))
    axis = points(9, 2)
    densities = [m.target(PLANE).law.log_density(axis) for m in (one, two)]
    assert ALGEBRA.holds(*densities, scale=1.0)


# --- the optimum's derivative


@pytest.mark.parametrize("problem", [NOTE, PLANE], ids=lambda p: p.name)
def test_the_optimum_has_its_own_slope(problem):
    method = parse_method("discrete_adjoint:steps=3,sigma_end=0.1")
    best, h = method.optimum(problem).velocity, 1e-4
    for t in (1 / 3, 2 / 3):
        x = points(20, problem.dim).requires_grad_(True)
        v = best(x, t)
        assert torch.equal(v.detach(), best(x.detach(), t))
        for i in range(problem.dim):
            (ours,) = torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)
            for j in range(problem.dim):
                step = h * torch.eye(problem.dim, dtype=DOUBLE)[j]
                ends = [best(x.detach() + sign * step, t)[:, i] for sign in (1, -1)]
                slope = (ends[0] - ends[1]) / (2 * h)
                assert QUADRATURE.holds(ours[:, j], slope, scale=10.0)


def test_a_schedule_too_coarse_has_no_optimum():
    with pytest.raises(ValueError, match=r"offset 0\.02' with steps = 4 must spread .*more"):
        parse_method("adjoint_matching:steps=4,offset=0.02").optimum(NOTE)


def test_beyond_the_plane():
    problem = load_problem("full_5d")
    for name in NAMES:
        assert parse_method(f"{name}:g=1").optimum(problem) is None
        for options in ("", ":offset=0.1"):
            assert not parse_method(name + options).optimum(problem).exact


# --- errors


class Detached(ProblemTask):
    def reward(self, x1, cond=None):
        return super().reward(x1, cond).detach()


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_without_gradient_is_refused(name):
    method = parse_method(f"{name}:steps=3,sigma_end=0.1")
    task = Detached([NOTE], dtype=DOUBLE)
    with pytest.raises(ValueError, match=rf"no gradient: {name}.* needs .*differentiable"):
        gradient(
            method, setting(NOTE)[0], task,
            method.collect(setting(NOTE)[0], task, 4, Draws.seeded([0], DOUBLE)),
        )  # fmt: skip


def spike(x, mask):
    """0, with a slope that is no number where mask (rows,)."""
    gap = torch.where(mask[:, None], x - x.detach(), torch.ones_like(x))
    return torch.where(mask[:, None], gap.abs().sqrt(), torch.zeros_like(x))


class Spiked(nn.Module):
    """A model whose derivative is not finite for one row at some times."""

    def __init__(self, model, times, row):
        super().__init__()
        self.model, self.times, self.row = model, times, row

    def forward(self, x, t, cond=None):
        at = torch.isin(t, self.times) & (torch.arange(len(x)) % 8 == self.row)
        return self.model(x, t, cond) + spike(x, at)


class SpikedReward(ProblemTask):
    def reward(self, x1, cond=None):
        at = torch.arange(len(x1)) == 3
        return super().reward(x1, cond) + spike(x1, at).sum(1)


def provoked(name, task, times=(), row=5):
    method = parse_method(f"{name}:steps=6,sigma_end=0.1")
    policy, _ = setting(NOTE)
    at = method.chain(NOTE).times[list(times)]
    both = [Spiked(m, at, row) for m in (policy.student, policy.reference)]
    policy = Policy(both[0], both[1].requires_grad_(False))
    batch = method.collect(policy, task, 8, Draws.seeded([0], DOUBLE))
    return gradient(method, policy, task, batch)


@pytest.mark.parametrize("name", NAMES)
def test_an_adjoint_that_is_not_finite_is_named(name):
    """Method, state, time and row: the first going back, and not those it infects."""
    task = ProblemTask([NOTE], dtype=DOUBLE)
    provoked(name, task)
    with pytest.raises(
        NonFiniteAdjointError,
        match=rf"^{name}:.*: the adjoint is not finite, .* at state k = 4, t = 0\.6667, in row 5 ",
    ):
        provoked(name, task, times=(2, 4))
    with pytest.raises(NonFiniteAdjointError, match=r"k = 6, t = 1, in row 3 .*reward's gradient"):
        provoked(name, SpikedReward([NOTE], dtype=DOUBLE))


def test_the_row_is_the_batchs_where_a_loss_sees_a_part():
    method, task = (
        parse_method("discrete_adjoint:steps=6,sigma_end=0.1"),
        SpikedReward([NOTE], dtype=DOUBLE),
    )
    policy, _ = setting(NOTE)
    batch = method.collect(policy, task, 8, Draws.seeded([0], DOUBLE))
    whole = {k: None if v is None else v.roll(-2, 0)[:4] for k, v in batch.items()}
    with pytest.raises(NonFiniteAdjointError, match="in row 5 of the batch"):
        gradient(method, policy, task, whole)
    task.execution = Execution(scaled_gradients=True)  # a scaler looks after them
    assert not torch.isfinite(gradient(method, policy, task, whole)).all()


OPTIONS = {
    "g=1,offset=0.1": r"at most one of g and offset .*got g = 1\.0 and offset = 0\.1",
    "g=1,sigma_end=0.1": r"sigma_end must come with ancestral .*got 0\.1 with g = 1",
    "g=-1": r"g must be a finite number >= 0, got -1\.0",
    "offset=nan": r"offset must be a finite number >= 0, got nan",
    "clip=-1": r"clip must be a finite number >= 0, got -1\.0",
    "reward_scale=0": r"reward_scale must be a finite number > 0, got 0\.0",
    "scale=0": r"scale must be a finite number > 0, got 0\.0",
    "subset=17": r"subset must be a whole number from 0 to 16, got 17",
    "subset=-1": r"subset must be a whole number from 0 to 16, got -1",
}


@pytest.mark.parametrize("text", OPTIONS)
def test_bad_options(text):
    for name in STORED if "subset" in text else NAMES:
        with pytest.raises(ValueError, match=rf"method '{name}': {OPTIONS[text]}"):
            parse_method(f"{name}:{text}")


def test_what_is_a_method_and_what_is_not():
    assert set(NAMES) <= methods().keys()
    kinds = set(methods().values())
    assert not {adjoints.AdjointMethod, adjoints.StoredAdjoint} & kinds
    with pytest.raises(ValueError, match=r"option of method 'discrete_adjoint' .* got 'subset'"):
        parse_method("discrete_adjoint:subset=2")
    for name in NAMES:
        label = f"{name}:scale=3,steps=8,offset=0.2,reward_scale=0.5,clip=9"
        assert parse_method(label).label == label
