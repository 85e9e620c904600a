"""A planted exact network through the adapter: theory's field, losses and samples."""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torchdiffeq import odeint

from scaleup.adapter import FlowClock, Guided, NetworkVelocity, VPClock, sample, sampling_times
from tests.helpers import ALL, LINE, PLANE, Plain, points, size
from tests.scaleup.planted import (
    DOUBLE,
    NO_PROMPTS,
    PlantedToy,
    PlantedTransformer,
    PlantedUNet,
    abar,
    knots,
    time_of,
)
from theory.common.tolerances import ALGEBRA, FLOAT32, FLOAT32_PARITY, QUADRATURE, SLOPE
from theory.fields.mixture import MixtureField, VelocityModel
from theory.fields.paths import RECTIFIED_FLOW
from theory.methods import Draws, Policy, Task
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from toys.networks.mlp import StackedMLP

METHODS = (
    "flow_matching",
    "nft:nft_beta=0.5",
    "weighted_flow_matching:wrapper=exp",
    "tilt_matching:kind=implicit",
    "tilt_matching:kind=explicit",
)


def planted(law, kind="eps", clock=None, dtype=DOUBLE):
    """The adapter around the exact network of a mixture: kind eps, v or flow."""
    if kind == "flow":
        return NetworkVelocity(PlantedTransformer(law), clock or FlowClock(), NO_PROMPTS, dtype)
    return NetworkVelocity(
        PlantedUNet(law, kind), clock or VPClock(abar(), kind), NO_PROMPTS, dtype
    )


def as_event(x):
    """(n, d) as (n, d, 1, 1)."""
    return x[..., None, None]


def places(kind, dim, seed=0):
    """Points and times: every covered time, and as many between; for flow, (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(1000, dtype=DOUBLE, generator=generator)
    table = torch.as_tensor(knots())
    between = table[-1] + (table[0] - table[-1]) * u
    t = u if kind == "flow" else torch.cat([table, between])
    return points(len(t), dim, seed), t


def velocity_error(law, kind, clock=None):
    """Largest error of the adapter's velocity against theory's field, relative to its size."""
    x, t = places(kind, law.means.shape[1])
    model = planted(law, kind, clock)
    t = t.clamp(*model.clock.span)  # what a wrong clock refuses is not counted against it
    truth = MixtureField(law.law)(x, t)
    found = model(as_event(x), t).flatten(1)
    return ALGEBRA.error(found, truth, size(truth))


@pytest.mark.parametrize("law", ALL.values(), ids=ALL)
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_velocity_is_theorys(law, kind):
    assert velocity_error(law, kind) <= ALGEBRA.rtol


# --- the clock


def test_covered_times_of_stable_diffusion():
    """t in about [0.064, 0.972], b_T = 1.066 (the design's figures), from the betas in numpy."""
    clock = VPClock(abar(), "eps")
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    a = np.cumprod(1 - betas)
    b = np.sqrt(a) + np.sqrt(1 - a)
    assert FLOAT32.holds(clock.times, (np.sqrt(a) / b)[::-1])
    assert FLOAT32.holds(clock.start_std, 1 / b[-1])
    assert [round(float(v), 3) for v in (*clock.span, 1 / clock.start_std)] == [0.064, 0.972, 1.066]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_exact_at_the_integers(dtype):
    """To the bit, also from float32 times, whose rounding alone would shift them by 1e-4."""
    t = torch.as_tensor(knots()).to(dtype)
    assert torch.equal(VPClock(abar(), "eps").step(t), torch.arange(1000, dtype=DOUBLE))


def test_steps_fall_and_invert_the_schedule():
    clock = VPClock(abar(), "eps")
    t = torch.linspace(*clock.span, 20_011, dtype=DOUBLE)
    step = clock.step(t)
    assert bool((step[1:] < step[:-1]).all())
    assert ALGEBRA.holds(time_of(step), t)


def test_steps_stay_exact_in_half_precision_networks():
    """999 is no number of bfloat16: the step must not pass through the network's dtype."""
    seen = []

    class Recorder(nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states, return_dict):
            seen.extend([sample.dtype, encoder_hidden_states.dtype, timestep])
            return (sample,)

    clock = VPClock(abar(), "eps")
    model = NetworkVelocity(Recorder(), clock, NO_PROMPTS, torch.bfloat16)
    x = torch.ones(3, 1, 1, 1)
    out = model(x, clock.times[:3].float())
    assert out.dtype == torch.float32
    assert seen[:2] == [torch.bfloat16] * 2
    assert seen[2].tolist() == [999.0, 998.0, 997.0]


# --- losses


class Covered(Task):
    """A problem on the times of a clock, with events (d, 1, 1)."""

    path = RECTIFIED_FLOW

    def __init__(self, problem, times):
        self.problem, self.times, self.event_shape = problem, times, (problem.dim, 1, 1)

    def reward(self, x1, cond=None):
        return self.problem.to(x1.dtype).reward(x1.flatten(1))

    def base_samples(self, n, draws):
        law = self.problem.base.to(draws.dtype)
        return as_event(draws.per_block(lambda g: law.sample(n, g))), None, None


class Moved(nn.Module):
    """A student away from its base: v + tanh(x + t)/2."""

    def __init__(self, base: VelocityModel) -> None:
        super().__init__()
        self.base = base

    def forward(self, x, t, cond=None):
        return self.base(x, t, cond) + torch.tanh(x + t[:, None, None, None]) / 2


def flat(field):
    """A field on (n, d) as a model on (n, d, 1, 1)."""
    return lambda x, t, cond=None: as_event(field(x.flatten(1), t))


def losses(method, task, student, reference, dtype=DOUBLE, rows=400):
    """(loss of every row, batch) on the draws of seed 3."""
    policy = Policy(student, reference)
    batch = method.collect(policy, task, rows, Draws.seeded([3], dtype))
    return method.loss(policy, task, batch)[0]


@pytest.mark.parametrize("name", ["note_1d", "bump_2d"])
@pytest.mark.parametrize("text", METHODS)
def test_losses_are_theorys(text, name):
    """Row by row, on the same draws, with the exact field as the network."""
    problem, method = load_problem(name), parse_method(text)
    law = plain(problem)
    for kind in ("eps", "v"):
        task = Covered(problem, VPClock(abar(), kind).times)
        truth, model = flat(MixtureField(problem.base)), planted(law, kind)
        expected = losses(method, task, Moved(truth), truth)
        found = losses(method, task, Moved(model), model)
        assert ALGEBRA.holds(found, expected, size(expected))
        swapped = planted(law, kind, VPClock(abar(), "v" if kind == "eps" else "eps"))
        wrong = losses(method, task, Moved(swapped), swapped)
        assert not FLOAT32.holds(wrong, expected, size(expected))


def plain(problem):
    """A problem's base as plain numbers."""
    return Plain(problem.base.log_abs.exp(), problem.base.mean, problem.base.cov)


@functools.cache
def toy_pair(dtype=torch.float32):
    """Two small velocity networks, student and reference."""
    draws = Draws.seeded([11], dtype)
    return [StackedMLP(2, 2, 32, 2, draws).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("text", METHODS)
def test_float32_parity_with_a_toy_network(text):
    """The same draws through a toy network and through the adapter: one loss, one gradient."""
    assert not torch.backends.cuda.matmul.allow_tf32
    problem, method, clock = load_problem("bump_2d"), parse_method(text), VPClock(abar(), "eps")
    task, toys = Covered(problem, clock.times), toy_pair()
    direct = [flat(toy) for toy in toys]
    behind = [NetworkVelocity(PlantedToy(toy), clock, NO_PROMPTS) for toy in toys]
    means, slopes = [], []
    for models in (direct, behind):
        mean = losses(method, task, *models, dtype=torch.float32, rows=2048).mean()
        gradient = torch.autograd.grad(mean, list(toys[0].parameters()))
        means.append(float(mean.detach()))
        slopes.append(torch.cat([g.flatten() for g in gradient]))
    assert FLOAT32_PARITY.holds(means[1], means[0])
    assert FLOAT32.holds(slopes[1], slopes[0], size(slopes[0]))


# --- samples


def starts(dim, std):
    """Points of N(0, std^2 I): quantiles on the line, a grid in the plane; and as N(0, I)."""
    u = (torch.arange(99, dtype=DOUBLE) + 0.5) / 99
    axis = torch.special.ndtri(u) if dim == 1 else torch.linspace(-2.5, 2.5, 9, dtype=DOUBLE)
    noise = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    return noise, std * noise


def flow(law, x, start, stop):
    """Where theory's field takes x from one time to another, by dopri8."""
    field, times = MixtureField(law.law), torch.tensor([start, stop], dtype=DOUBLE)
    options = {"norm": lambda e: e.abs().max(), "step_t": times}
    with torch.no_grad():
        rate = lambda t, y: field(y, t.clamp(start, stop))  # noqa: E731
        return odeint(rate, x, times, rtol=1e-10, atol=1e-12, method="dopri8", options=options)[-1]


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        pytest.param("eps", PLANE, id="eps-plane"),
        pytest.param("flow", LINE, id="flow-line"),
        pytest.param("eps", LINE, id="eps-line", marks=pytest.mark.slow),
        pytest.param("flow", PLANE, id="flow-plane", marks=pytest.mark.slow),
    ],
)
def test_samples_follow_theorys_law(law, kind):
    """Quantile points through `sample`, in finer and finer steps, go where theory's flow takes
    them from the same law at the same time: N(0, I/b_T^2) at t_first for eps, N(0, I) at 0."""
    model, dim = planted(law, kind), law.means.shape[1]
    clock = model.clock
    noise, x = starts(dim, clock.start_std)
    (first, last), field = clock.span, MixtureField(law.law)
    truth = flow(law, x, first, last)
    if last < 1:
        truth = truth + (1 - last) * field(truth, torch.tensor(last, dtype=DOUBLE))
    runs = [
        sample(model, as_event(noise), clock, n + (last < 1), method="heun").flatten(1)
        for n in (48, 96, 192)
    ]
    gaps = [float((run - truth).abs().max()) for run in runs]
    assert all(math.log2(a / b) > 2 - SLOPE for a, b in pairwise(gaps))
    # Twice extrapolated: errors of order 2 and 3 cancel.
    coarse, fine = ((4 * b - a) / 3 for a, b in pairwise(runs))
    assert QUADRATURE.holds((8 * fine - coarse) / 7, truth, size(truth))


def test_samples_of_a_wrong_start_are_told_apart():
    model = planted(LINE)
    noise, x = starts(1, model.clock.start_std)
    right = flow(LINE, x, *model.clock.span)
    wrong = flow(LINE, noise, *model.clock.span)
    assert not QUADRATURE.holds(wrong, right, size(right))


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_every_step_is_the_solvers(method):
    """Against the solver written out on theory's field: grid, start and last step."""
    model, field = planted(PLANE), MixtureField(PLANE.law)
    noise, x = starts(2, model.clock.start_std)
    times = [*np.linspace(*model.clock.span, 7), 1.0]
    for a, b in pairwise(times):
        slope = field(x, torch.tensor(a, dtype=DOUBLE))
        if method == "heun" and b < 1:
            slope = (slope + field(x + (b - a) * slope, torch.tensor(b, dtype=DOUBLE))) / 2
        x = x + (b - a) * slope
    found = sample(model, as_event(noise), model.clock, 7, method=method).flatten(1)
    assert ALGEBRA.holds(found, x, size(x))


def test_sampling_times():
    assert sampling_times((0.1, 0.7), 1).tolist() == [0.1, 1.0]
    assert ALGEBRA.holds(sampling_times((0.1, 0.7), 3), [0.1, 0.4, 0.7, 1.0])
    assert ALGEBRA.holds(sampling_times((0.0, 1.0), 4), [0.0, 0.25, 0.5, 0.75, 1.0])
    with pytest.raises(ValueError, match=r"steps must be a whole number >= 1, got 0"):
        sampling_times((0.1, 0.7), 0)
    with pytest.raises(ValueError, match="method must be euler or heun, got 'midpoint'"):
        sample(planted(LINE), torch.zeros(1, 1, 1, 1), VPClock(abar(), "eps"), 2, None, "midpoint")


# --- guidance


class Conditional(nn.Module):
    """v = x + t + 10 * index + 100 * second column: shows which rows met which condition."""

    def forward(self, x, t, cond=None):
        t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        cond = torch.zeros(len(x), 2) if cond is None else cond.reshape(len(x), -1)
        second = cond[:, 1] if cond.shape[1] > 1 else torch.zeros(len(x))
        return x + (t + 10 * cond[:, 0] + 100 * second)[:, None, None, None]


@pytest.mark.parametrize("t", [0.25, torch.tensor(0.25), torch.tensor([0.25, 0.5])])
def test_guidance(t):
    """v_u + w (v_c - v_u): only the prompt's column is emptied, points and times go along."""
    x, model = points(2, 1)[:, :, None, None].float(), Conditional()
    cond, empty = torch.tensor([[1, 5], [2, 6]]), torch.tensor([[0, 5], [0, 6]])
    before = cond.clone()
    low, high = model(x, t, empty), model(x, t, cond)
    for weight in (0.0, 3.0):
        expected = low + weight * (high - low)
        assert FLOAT32.holds(Guided(model, weight)(x, t, cond), expected, size(expected))
    assert torch.equal(cond, before)
    flat_cond = cond[:, 0].contiguous()
    expected = model(x, t, 0 * flat_cond) * -1 + 2 * model(x, t, flat_cond)
    assert FLOAT32.holds(Guided(model, 2.0)(x, t, flat_cond), expected, size(expected))
    assert torch.equal(Guided(model, 1.0)(x, t, cond), high)
    assert torch.equal(Guided(model, 7.0)(x, t, None), model(x, t))
