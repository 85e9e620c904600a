"""The exact law of what a field samples: floors of the issue, second routes, mutants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from theory.common.tolerances import FALSE_FAILURE_RATE, QUADRATURE, QUADRATURE_TIGHT
from theory.evaluation.grids import flow_on_grid, make_grid, mixture_on_grid, tilt_on_grid
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import MixtureField
from theory.laws.distances import GridLaw, grid_distances, sample_distances
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import load_problem
from theory.samplers.flow import FlowLaw
from theory.samplers.sde import sde_law
from theory.tilts.wrappers import Exponential, TruncatedExponential

# The region that holds 99.9 % of the mass, by random draws of the law itself.
CENTRAL = 0.999


def central_points(law: GaussianSum, n: int, seed: int = 0) -> torch.Tensor:
    """Draws of the law, the least likely 0.1 % left out."""
    x = law.sample(n, torch.Generator().manual_seed(seed))
    order = law.log_density(x).argsort(descending=True)
    return x[order[: int(CENTRAL * n)]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["note_1d", "bumps_1d", "linear_2d", "bump_2d"])
def test_exact_field_returns_its_density(name):
    """Floor: 1e-6 in log-density, d = 1 and 2; for the base and for its tilt."""
    problem = load_problem(name)
    tilted = problem.tilt(Exponential(problem.scale))
    for law in (problem.base, tilted.law):
        y = central_points(law, 300 if law.n_components < 200 else 60)
        found = FlowLaw(MixtureField(law)).log_density(y)
        assert QUADRATURE.holds(found, law.log_density(y), scale=1.0)


@pytest.mark.slow
def test_nft_law_by_quantiles_and_by_density():
    """Two routes to one law: the cdf by monotone transport, and the density integrated."""
    problem = load_problem("note_1d")
    law = FlowLaw(problem.nft_field(1.0))
    y = torch.linspace(-6, 6, 2401, dtype=torch.float64)[:, None]
    density = law.log_density(y).exp().numpy()
    mass = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * 0.005)])
    rise = law.cdf(y).numpy()
    # The trapezoidal rule on this grid is good to h^2 = 2.5e-5 |p'|/12.
    assert QUADRATURE.holds(mass - mass[-1] / 2, rise - rise[0] - 0.5 * (rise[-1] - rise[0]), 10.0)
    u = torch.tensor([0.01, 0.3, 0.77, 0.999], dtype=torch.float64)
    assert QUADRATURE_TIGHT.holds(law.cdf(law.quantile(u)[:, None]), u)


def test_nft_law_by_scipy():
    """A second integrator and a second field: scipy's DOP853 on a field written out by hand."""
    problem = load_problem("note_1d")
    w, mu, s = np.array([0.65, 0.35]), np.array([-1.2, 1.1]), np.array([0.6, 0.9])
    centre, width, a = 2.0, 1.0, 2.0

    def field(t: float, x: np.ndarray) -> np.ndarray:
        sigma = 1 - t
        var = t**2 * s**2 + sigma**2
        z = x[:, None] - t * mu
        logits = np.log(w) - 0.5 * z**2 / var - 0.5 * np.log(var)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        mean, post = mu + t * s**2 * z / var, s**2 * sigma**2 / var
        spread = post + width**2
        r = np.sqrt(width**2 / spread) * np.exp(-0.5 * (mean - centre) ** 2 / spread)
        shifted = (mean * width**2 + centre * post) / spread
        # v = (alpha' X_1 + sigma' X_0): X_1 - (x - t X_1)/(1 - t)
        v0 = (p * (mean - (x[:, None] - t * mean) / max(sigma, 1e-300))).sum(1)
        cov = (p * r * shifted).sum(1) - (p * r).sum(1) * (p * mean).sum(1)
        return v0 + a * cov / sigma

    start = np.array([-2.0, -0.4, 0.1, 1.3, 2.5])
    stop = 1 - 1e-7
    far = solve_ivp(field, (0, stop), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    last = far + (1 - stop) * field(stop, far)
    ours = FlowLaw(problem.nft_field(1.0)).push(torch.as_tensor(start)[:, None])[:, 0]
    assert QUADRATURE.holds(ours, last, scale=1.0)


@pytest.mark.slow
def test_nft_law_is_not_the_claimed_one():
    """Power: the pipeline tells NFT's law from exp(2 r), the exact tilt's law it does not."""
    problem = load_problem("note_1d")
    target = problem.tilt(Exponential(2.0))
    axes = make_grid(problem, problem.nft_field(1.0), {"exp": target})
    goal = tilt_on_grid(target, axes)
    exact = grid_distances(flow_on_grid(problem.tilted_field(Exponential(2.0)), axes), goal)
    approximate = grid_distances(flow_on_grid(problem.nft_field(1.0), axes), goal)
    for name in ("TV", "KL", "W1"):
        assert abs(exact[name].value) < QUADRATURE.rtol
        assert approximate[name].value > 0.01


@pytest.mark.slow
def test_samples_follow_the_law():
    """Draws of the NFT law against its cdf: Dvoretzky-Kiefer-Wolfowitz, and a wrong law."""
    problem = load_problem("note_1d")
    law, n = FlowLaw(problem.nft_field(1.0), rtol=1e-7, atol=1e-9), 20_000
    x = law.sample(n, torch.Generator().manual_seed(3))[:, 0].sort().values
    bound = math.sqrt(math.log(2 / FALSE_FAILURE_RATE) / (2 * n))
    empirical = (torch.arange(n, dtype=torch.float64) + 0.5) / n

    def gap(cdf: torch.Tensor) -> float:
        return float((cdf - empirical).abs().max())

    assert gap(law.cdf(x[:, None])) < bound
    assert gap(problem.tilt(Exponential(2.0)).law.cdf(x)) > bound


@pytest.mark.parametrize("name", ["note_1d", pytest.param("linear_2d", marks=pytest.mark.slow)])
def test_moments_of_laws(name):
    """Mean and covariance of what a tilt's field samples are its mixture's; the base's are not."""
    problem = load_problem(name)
    target = problem.tilt(Exponential(problem.scale))
    field = problem.tilted_field(target.wrapper)
    axes = tuple(axis[:: problem.dim] for axis in make_grid(problem, field, {"exp": target}))
    mean, cov = flow_on_grid(field, axes).moments()
    assert QUADRATURE.holds(mean, target.law.expectation(), scale=1.0)
    assert QUADRATURE.holds(cov, target.law.covariance(), scale=1.0)
    assert not QUADRATURE.holds(mean, problem.base.expectation(), scale=1.0)


# --- SDEs ---------------------------------------------------------------------------------------

GRID = np.linspace(-7, 7, 1201)
SCHEDULES = [Diffusion.of_constant(0.2), Diffusion.of_constant(1.0), Diffusion.of_memoryless()]


@pytest.mark.parametrize("diffusion", SCHEDULES, ids=lambda d: d.label)
def test_sde_of_an_exact_field_keeps_its_law(diffusion):
    base = load_problem("note_1d").base
    found = sde_law(MixtureField(base), diffusion, GRID)
    expected = mixture_on_grid(base, (GRID,))
    assert QUADRATURE.holds(found.density, expected.density, scale=1.0)
    assert QUADRATURE.holds(found.cdf, expected.cdf, scale=1.0)


@pytest.mark.slow
def test_sde_of_nft_depends_on_the_noise():
    """Its implied score is not the score of its own law: every g has a law of its own."""
    field = load_problem("note_1d").nft_field(1.0)
    ode = flow_on_grid(field, (GRID,))
    slight, strong = (sde_law(field, d, GRID) for d in (Diffusion.of_constant(0.02), SCHEDULES[2]))
    assert grid_distances(slight, ode)["TV"].value < 0.01
    assert grid_distances(strong, ode)["TV"].value > 0.02


@pytest.mark.slow
def test_sde_law_by_simulation():
    """Euler-Maruyama of the same SDE: means within a concentration bound plus the step's bias."""
    problem = load_problem("note_1d")
    field, g, n, steps = problem.nft_field(1.0), 1.0, 20_000, 100
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    for k in range(steps):
        t = k / steps
        drift = field(x, t) + 0.5 * g**2 * field.score(x, t)
        noise = torch.randn(n, 1, dtype=torch.float64, generator=generator)
        x = x + drift / steps + g * noise / math.sqrt(steps)
    r = problem.reward(x)
    law = sde_law(field, Diffusion.of_constant(g), GRID)
    values = problem.reward(torch.as_tensor(GRID)[:, None]).numpy()
    exact = float((law.density * values).sum() * (GRID[1] - GRID[0]))
    bound = math.sqrt(math.log(2 / FALSE_FAILURE_RATE) / (2 * n)) + 0.5 / steps
    assert abs(float(r.mean()) - exact) < bound
    base = float((mixture_on_grid(problem.base, (GRID,)).density * values).sum()) * 14 / 1200
    assert abs(base - exact) > 3 * bound


def test_grid_that_is_too_coarse_or_short_is_refused():
    base = load_problem("note_1d").base
    with pytest.raises(ValueError, match=r"too coarse or too short.*points"):
        sde_law(MixtureField(base), SCHEDULES[1], np.linspace(-7, 7, 25))
    with pytest.raises(ValueError, match="too coarse or too short"):
        sde_law(MixtureField(base), SCHEDULES[1], np.linspace(-1, 1, 401))


# --- distances ----------------------------------------------------------------------------------


def normal(mean: float, std: float, axis: np.ndarray) -> GridLaw:
    law = GaussianSum.mixture([1.0], [[mean]], stds=[std])
    return mixture_on_grid(law, (axis,))


def test_distances_of_normals_are_the_textbook_ones():
    axis = np.linspace(-12, 13, 2001)
    found = grid_distances(normal(0.0, 1.0, axis), normal(0.8, 1.0, axis))
    tv = 2 * torch.special.ndtr(torch.tensor(0.4, dtype=torch.float64)).item() - 1
    for name, expected in (("TV", tv), ("KL", 0.32), ("W1", 0.8)):
        assert QUADRATURE_TIGHT.holds(found[name].value, expected, 1.0), name
        assert abs(found[name].value - expected) <= max(found[name].floor, QUADRATURE_TIGHT.rtol)
    wide = grid_distances(normal(0.0, 1.0, axis), normal(0.3, 1.5, axis))
    kl = math.log(1.5) + (1 + 0.09) / (2 * 2.25) - 0.5
    assert QUADRATURE_TIGHT.holds(wide["KL"].value, kl, 1.0)


def test_floor_bounds_the_error_on_a_coarse_grid():
    axis = np.linspace(-9, 9, 61)
    found = grid_distances(normal(-0.1, 0.7, axis), normal(0.9, 0.7, axis))
    tv = 2 * torch.special.ndtr(torch.tensor(0.5 / 0.7, dtype=torch.float64)).item() - 1
    assert abs(found["TV"].value - tv) <= found["TV"].floor
    assert found["TV"].floor > QUADRATURE_TIGHT.rtol


def test_plane_distances():
    """A shift of a correlated Gaussian: KL and sliced W2 in closed form."""
    cov = [[0.6, 0.2], [0.2, 0.4]]
    shift = torch.tensor([0.5, -0.3], dtype=torch.float64)
    axis = np.linspace(-6, 6, 161)
    laws = [
        mixture_on_grid(GaussianSum.mixture([1.0], [m], covs=[cov]), (axis, axis))
        for m in ([0.0, 0.0], shift.tolist())
    ]
    found = grid_distances(*laws)
    kl = 0.5 * float(shift @ torch.linalg.inv(torch.tensor(cov, dtype=torch.float64)) @ shift)
    assert QUADRATURE_TIGHT.holds(found["KL"].value, kl, 1.0)
    sliced = float(shift.norm()) / math.sqrt(2)
    assert abs(found["SW2"].value - sliced) <= found["SW2"].floor
    tv = math.erf(math.sqrt(2 * kl) / (2 * math.sqrt(2)))
    assert abs(found["TV"].value - tv) <= 2 * found["TV"].floor


@pytest.mark.slow
def test_laws_in_many_dimensions_tell_tilts_apart():
    """d = 5, by draws: the exact tilt's field has KL zero within its floor, the base's has not."""
    problem = load_problem("plane_5d")
    target = problem.tilt(Exponential(problem.scale))
    generator = torch.Generator().manual_seed(0)
    pair = [target.law.sample(2000, generator) for _ in range(2)]
    for wrapper, same in (
        (Exponential(problem.scale), True),
        (TruncatedExponential(1.0, 1), False),
    ):
        law = FlowLaw(problem.tilted_field(wrapper), rtol=1e-5, atol=1e-6)
        x, log_p = law.push_with_log_density(law.start(2000, generator))
        found = sample_distances(x, log_p, target.log_density(x), *pair)
        for name in ("KL", "TV"):
            close = abs(found[name].value) <= max(found[name].floor, 1e-5)
            assert close == same, (name, found[name])


def test_two_component_push_is_monotone():
    """d = 1: the flow keeps the order of points."""
    law = FlowLaw(load_problem("bumps_1d").nft_field(0.5))
    ends = law.push(torch.linspace(-4, 4, 200, dtype=torch.float64)[:, None])[:, 0]
    assert bool((ends.diff() > 0).all())
