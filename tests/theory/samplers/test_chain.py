"""The discrete chain: its kernels and law by second routes, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from tests.helpers import ks_bound, ks_distance, tensor
from tests.theory.samplers.chain_routes import (
    NOTE,
    SCALE,
    SHORT,
    STDS,
    bayes_kernel,
    matrix_law,
    normal,
    note_axes,
)
from theory.common.tolerances import (
    ALGEBRA,
    FLOAT32,
    QUADRATURE,
    QUADRATURE_2D,
    QUADRATURE_TIGHT,
    SLOPE,
)
from theory.control.chain_optimum import regularised_optimum
from theory.fields.diffusion import Diffusion
from theory.fields.paths import PATHS
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, chain_law, state_axes
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward

LATE = Chain(5, 0.1, last_time=0.7)


@pytest.mark.parametrize("chain", [SHORT, Chain(16, 0.04), Chain(2, 0.3), LATE])
def test_kernels_are_those_of_bayes(chain):
    x = np.linspace(-4, 4, 33)
    for k in range(chain.steps):
        mean, std = bayes_kernel(chain, k, x)
        ours = chain.mean(NOTE.base_field, k, torch.as_tensor(x)[:, None])
        assert ALGEBRA.holds(ours[:, 0], mean, scale=1.0)
        assert ALGEBRA.holds(chain.coefficients(ours)[2][k], std)


def moments_of_one_gaussian(path, steps):
    """Mean and variance of X_T over the base N(0.7, 0.5^2): affine kernels, no grid."""
    law = GaussianSum.mixture([1.0], [[0.7]], stds=[0.5])
    field = Problem("one", law, linear_reward([1.0]), path=path).base_field
    before = tensor(1 - 1 / steps)
    chain = Chain(steps, 0.5 * float(path.sigma(before) / path.alpha(before)), path)
    s = chain.coefficients(before)[2].tolist()
    mean, variance = 0.0, float(path.sigma(tensor(0.0))) ** 2
    for k in range(steps):
        low, high = chain.mean(field, k, tensor([[0.0], [1.0]]))[:, 0].tolist()
        mean, variance = low + (high - low) * mean, (high - low) ** 2 * variance + s[k] ** 2
    return mean, variance - chain.sigma_end**2


@pytest.mark.parametrize("path", PATHS)
def test_base_chain_is_first_order_on_every_path(path):
    """X_T tends to X_1 + sigma_end X_0, the variance's error like 1/T, the mean's at once."""
    (mean, coarse), (_, fine) = (moments_of_one_gaussian(PATHS[path](), T) for T in (512, 1024))
    assert QUADRATURE_2D.holds(mean, 0.7, scale=1.0)  # what alpha_0 > 0 and sigma_0 > 1 leave
    order = np.log2((coarse - 0.25) / (fine - 0.25))
    assert abs(order - 1) < SLOPE


def test_batch_of_rollouts_is_step_by_step():
    noise = torch.randn(
        7, SHORT.steps + 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x = SHORT.rollout(NOTE.base_field, noise).numpy()[..., 0]
    place = noise.numpy()[:, 0, 0]
    for k in range(SHORT.steps):
        mean, std = bayes_kernel(SHORT, k, place)
        place = mean + std * noise.numpy()[:, k + 1, 0]
        assert ALGEBRA.holds(x[:, k + 1], place, scale=1.0)


def test_law_is_that_of_the_transition_matrix():
    axes = note_axes(SHORT)
    ours = chain_law(SHORT, NOTE.base_field, axes)
    x = axes[0]
    assert QUADRATURE_TIGHT.holds(ours.density, matrix_law(SHORT, x), scale=1.0)
    # Another grid, three times as fine: what the first is worth.
    fine = np.linspace(x[0], x[-1], 3 * (len(x) - 1) + 1)
    assert QUADRATURE.holds(ours.density, matrix_law(SHORT, fine)[::3], scale=1.0)
    assert QUADRATURE.holds(ours.cdf[-1], 1.0)


def simulated(n, seed):
    """X_T of the numpy kernels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    for k in range(SHORT.steps):
        mean, std = bayes_kernel(SHORT, k, x)
        x = mean + std * rng.normal(size=n)
    return torch.as_tensor(x)


def test_law_is_that_of_simulation():
    n = 100_000
    law = chain_law(SHORT, NOTE.base_field, note_axes(SHORT))
    cdf = CubicSpline(law.axes[0], law.cdf)
    draws = simulated(n, 3)
    assert ks_distance(draws, cdf) <= ks_bound(n)
    # n is enough to tell the chain's law from the base's, with or without the last noise.
    for wrong in (
        NOTE.base,
        GaussianSum.mixture([0.65, 0.35], [[-1.2], [1.1]], stds=np.hypot(STDS, 0.12).tolist()),
    ):
        far = ks_distance(draws, lambda y, law=wrong: law.cdf(torch.as_tensor(y)).numpy())
        assert far > ks_bound(n)


def test_law_of_two_independent_coordinates_is_their_product():
    """base(x) = p(x_1) q(x_2), r = r_1 + r_2: laws multiply, shifts stand side by side."""
    p = GaussianSum.mixture([0.65, 0.35], [[-1.2], [1.1]], stds=[0.6, 0.9])
    q = GaussianSum.mixture([1.0], [[0.4]], stds=[0.7])
    both = GaussianSum.mixture(
        [0.65, 0.35],
        [[-1.2, 0.4], [1.1, 0.4]],
        covs=[np.diag([0.36, 0.49]).tolist(), np.diag([0.81, 0.49]).tolist()],
    )
    # A bump without precision along the other axis: r_1(x_1) + r_2(x_2).
    reward = bumps_reward(
        [1.0, 0.7],
        [[2.0, 0.0], [0.0, -0.5]],
        precisions=[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.5]]],
    )
    chain = Chain(3, 0.25)
    plane = Problem("both", both, reward)
    lines = [
        Problem("one", p, bump_reward(1.0, [2.0], width=1.0)),
        Problem("two", q, bump_reward(0.7, [-0.5], precision=[[1.5]])),
    ]
    axes = state_axes(chain, [both], 0.5)
    best = regularised_optimum(chain, plane.base_field, reward, SCALE, axes)
    alone = [
        regularised_optimum(chain, case.base_field, case.reward, SCALE, (axis,))
        for case, axis in zip(lines, axes, strict=True)
    ]
    x = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for k, t in enumerate(chain.times.tolist()):
        side_by_side = torch.cat([a(x[:, i : i + 1], t) for i, a in enumerate(alone)], 1)
        assert QUADRATURE_2D.holds(best(x, t), side_by_side, scale=1.0), k
        total = sum(a.value(x[:, i : i + 1], t) for i, a in enumerate(alone))
        assert QUADRATURE_2D.holds(best.value(x, t), total, scale=1.0), k
    assert QUADRATURE_2D.holds(best.log_z, sum(a.log_z for a in alone))
    coarse = tuple(axis[::2] for axis in state_axes(chain, [both], 0.5))
    law = chain_law(chain, best, coarse)
    parts = [chain_law(chain, a, (axis,)) for a, axis in zip(alone, coarse, strict=True)]
    product = np.outer(parts[0].density, parts[1].density)
    assert QUADRATURE_2D.holds(law.density, product, scale=float(product.max()))
    # Power: with the two rewards exchanged nothing of it holds.
    assert not QUADRATURE_2D.holds(law.density, product[:, ::-1], scale=float(product.max()))


def correlations(steps):
    """How far X_0 still tells X_T: |corr| under the base chain, from exact conditional laws."""
    chain = Chain(steps, 0.5 / steps)
    x = state_axes(chain, [NOTE.base], 0.5)[0]
    cell = x[1] - x[0]
    told = x  # E[X_T | X_k = x], backwards
    for k in reversed(range(steps)):
        mean, std = bayes_kernel(chain, k, x)
        kernel = normal(x, mean[:, None], std) * cell
        told = kernel @ told
    start = normal(x, 0.0, 1.0) * cell
    centred = told - (start * told).sum()
    spread = np.sqrt((matrix_law(chain, x) * cell * x**2).sum())
    return abs((start * centred * x).sum()) / spread


def test_chain_is_memoryless():
    """At t = 0 the first kernel keeps nothing of X_0, at any number of steps."""
    assert correlations(8) <= QUADRATURE.rtol
    # The mean at t = 0 is that of the data, whatever the state; the deterministic chain's is not.
    x = tensor([[-2.0], [3.0]])
    P, Q, s = Chain(8, 0.05).coefficients(x)
    first = Chain(8, 0.05).mean(NOTE.base_field, 0, x)
    assert ALGEBRA.holds(first[0], first[1], scale=1.0)
    assert ALGEBRA.holds(s[0], 1 - 1 / 8)
    assert ALGEBRA.holds(P[0], Q[0])


def test_refusals_name_what_is_allowed():
    axes = note_axes(SHORT)
    field = NOTE.base_field
    with pytest.raises(ValueError, match=r"sigma_end must be less than 0.3333.*got 0.4"):
        Chain(4, 0.4)
    for end in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"sigma_end must be a finite number > 0, got .*"):
            Chain(4, end)
    for last in (0.0, 1.0, 1.2):
        with pytest.raises(ValueError, match=r"last_time must be between .* = 0 and 1, .* got .*"):
            Chain(4, 0.1, last_time=last)
    with pytest.raises(ValueError, match=r"last_time must be .* None with a schedule, got 0.5"):
        Chain(4, 0.1, schedule=Diffusion(constant=0.5), last_time=0.5)
    for steps in (1, 2.5, True):
        with pytest.raises(ValueError, match=r"steps must be a whole number >= 2, got .*"):
            Chain(steps, 0.1)
    with pytest.raises(ValueError, match=r"grid must have 1 or 2 axes, got 3"):
        chain_law(SHORT, field, axes * 3)
    with pytest.raises(ValueError, match="must be 16 or more points in equal steps"):
        chain_law(SHORT, field, (axes[0] ** 3,))
    with pytest.raises(ValueError, match=r"mass of 1 to 1e-3 .*got 0\.\d+; use a wider"):
        chain_law(SHORT, field, (np.linspace(-1, 1, 201),))
    with pytest.raises(ValueError, match=r"mass of 1 to 1e-3 .*use a wider or finer"):
        chain_law(Chain(16, 0.02), field, (np.linspace(-6, 6, 41),))


@pytest.mark.parametrize(
    "chain",
    [SHORT, LATE, Chain(4, 0.1, first_time=0.35, start_std=1.0)],
    ids=["even", "ends", "begins"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_by_state_are_those_of_its_time(chain, dtype):
    times = torch.cat([chain.times, torch.ones(1, dtype=torch.float64)])
    order = torch.randperm(3 * len(times), generator=torch.Generator().manual_seed(0))
    t = times.repeat(3)[order].to(dtype)
    found = dict(chain.rows_by_state(t))
    assert sorted(found) == list(range(chain.steps + 1))
    for k, rows in found.items():
        assert int(rows.sum()) == 3
        assert FLOAT32.holds(t[rows], float(times[k]), 1.0)
    with pytest.raises(ValueError, match=f"t must be one of the chain's {chain.steps} times, from"):
        list(chain.rows_by_state(t + 1e-3))
