"""GaussianSum against torch.distributions, autograd, grid integrals and draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from tests.helpers import (
    ALL,
    BY_DIM,
    FEW,
    PLANE,
    SPACE,
    Plain,
    derivative,
    grid,
    integral,
    ks_bound,
    ks_distance,
    points,
    random_plain,
    size,
    stack,
    tensor,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.laws.gaussians import GaussianSum

PLUS, MINUS = 1.7, 1.1
DRAWS = 20_000


def signed(dim):
    """(1.7 p - 0.6 q, the same by torch.distributions)."""
    p, q = BY_DIM[dim]
    parts = [p.law.scaled(math.log(PLUS)), q.law.scaled(math.log(MINUS), -1.0)]
    return GaussianSum.sum_of(parts), lambda x: PLUS * p.density(x) - MINUS * q.density(x)


def quadratic(dim):
    """(H, b, c) and the function x'Hx/2 + b'x + c."""
    matrix = tensor([[-0.4, 0.3], [0.3, 0.2]])[:dim, :dim]
    vector, constant = tensor([0.5, -0.7])[:dim], tensor(0.3)

    def value(x):
        return 0.5 * torch.einsum("ni,ij,nj->n", x, matrix, x) + x @ vector + constant

    return (matrix[None], vector[None], constant[None]), value


# --- densities and scores


@pytest.mark.parametrize("name", ALL)
def test_density_and_score(name):
    plain = ALL[name]
    d = plain.means.shape[-1]
    x = torch.cat([points(50, d), points(10, d, seed=1, spread=15.0)])
    assert ALGEBRA.holds(plain.law.log_density(x), plain.reference.log_prob(x), scale=1.0)
    score = derivative(plain.reference.log_prob, x)
    assert ALGEBRA.holds(plain.law.score(x), score, scale=1.0)
    assert not ALGEBRA.holds(plain.law.score(x), -score, scale=1.0)


@pytest.mark.parametrize("stds", [[0.5, 1.2], [[0.5, 0.9], [1.2, 0.4]]])
def test_stds_are_square_roots_of_covs(stds):
    weights, means = [0.7, 0.3], [[-0.5, 0.4], [0.9, -0.2]]
    rows = np.broadcast_to(np.reshape(stds, (2, -1)), (2, 2))
    x = points(20, 2)
    expected = sum(
        w * stats.multivariate_normal(m, np.diag(s**2)).pdf(x)
        for w, m, s in zip(weights, means, rows, strict=True)
    )
    law = GaussianSum.mixture(weights, means, stds=stds)
    assert ALGEBRA.holds(law.density(x), expected)
    swapped = GaussianSum.mixture(weights, means, stds=stds[::-1])
    assert not ALGEBRA.holds(swapped.density(x), expected)


def test_isotropic_components_above_the_dimension_of_differences():
    d = 11
    means, stds = points(3, d, seed=4), tensor(0.6, 1.1, 0.8)
    law = GaussianSum.mixture([0.5, 0.2, 0.3], means, stds=stds)
    x = points(20, d)
    parts = [
        stats.multivariate_normal(m, float(s) ** 2).logpdf(x)
        for m, s in zip(means, stds, strict=True)
    ]
    expected = np.logaddexp.reduce(np.log([[0.5], [0.2], [0.3]]) + np.stack(parts))
    assert ALGEBRA.holds(law.log_density(x), expected, scale=1.0)


@pytest.mark.parametrize("dim", [1, 2])
def test_signed_sums(dim):
    law, density = signed(dim)
    x = points(60, dim)
    value = density(x)
    assert (value > 0).any()
    assert (value < 0).any()
    assert ALGEBRA.holds(law.density(x), value, scale=size(value))
    log_abs, sign = law.log_abs_density(x)
    assert torch.equal(sign, value.sign())
    assert ALGEBRA.holds(log_abs, value.abs().log(), scale=1.0)
    assert torch.equal(law.log_density(x).isnan(), value < 0)
    score = derivative(lambda y: density(y).abs().log(), x)
    assert ALGEBRA.holds(law.score(x), score, scale=size(score))
    assert not law.is_positive
    wrong = PLUS * BY_DIM[dim][0].density(x) + MINUS * BY_DIM[dim][1].density(x)
    assert not ALGEBRA.holds(law.density(x), wrong, scale=size(value))


# --- algebra


@FEW
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_product_of_densities(seed, dim, k, other_k):
    p, q = random_plain(seed, dim, k), random_plain(seed + 1, dim, other_k)
    product, x = p.law.product(q.law), points(20, dim, seed)
    assert product.n_components == k * other_k
    expected = p.reference.log_prob(x) + q.reference.log_prob(x)
    assert ALGEBRA.holds(product.log_density(x), expected, scale=1.0)


@pytest.mark.parametrize("dim", [1, 2])
def test_product_with_signs_and_its_total(dim):
    law, density = signed(dim)
    other = BY_DIM[dim][1]
    product, x = law.product(other.law), points(40, dim)
    expected = density(x) * other.density(x)
    assert ALGEBRA.holds(product.density(x), expected, scale=size(expected))
    log_mass, sign = product.total()
    mass = integral(lambda y: density(y) * other.density(y), dim)
    assert QUADRATURE_TIGHT.holds(sign * log_mass.exp(), mass)
    assert not QUADRATURE_TIGHT.holds((law.total()[0] + other.law.total()[0]).exp(), mass)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_power(n):
    law, density = signed(1)
    x = points(40, 1)
    expected = density(x) ** n
    assert ALGEBRA.holds(law.power(n).density(x), expected, scale=size(expected))
    assert not ALGEBRA.holds(law.power(n + 1).density(x), expected, scale=size(expected))


def test_marginal_integrates_out_and_keeps_the_order_of_axes():
    ab = points(8, 2, seed=2)
    line, cell = grid(1)
    x = torch.stack([ab[:, 1, None].expand(-1, len(line)), line.T.expand(8, -1)], -1)
    x = torch.cat([x, ab[:, :1, None].expand(-1, len(line), 1)], -1)  # (b, y, a)
    expected = SPACE.density(x).sum(-1) * cell
    assert QUADRATURE_TIGHT.holds(SPACE.law.marginal([2, 0]).density(ab), expected)
    assert not QUADRATURE_TIGHT.holds(SPACE.law.marginal([0, 2]).density(ab), expected)


def test_affine_of_full_rank_changes_variables():
    matrix, shift = tensor([[1.2, -0.5], [0.4, 0.8]]), tensor(0.3, -0.9)
    y = points(30, 2)
    back = torch.linalg.solve(matrix, (y - shift).T).T
    expected = PLANE.density(back) / torch.linalg.det(matrix).abs()
    assert ALGEBRA.holds(PLANE.law.affine(matrix, shift).density(y), expected)
    assert not ALGEBRA.holds(PLANE.law.affine(matrix.T, shift).density(y), expected)
    assert not ALGEBRA.holds(PLANE.law.affine(matrix).density(y), expected)


def test_affine_to_fewer_dimensions_integrates_along_the_kernel():
    a, shift = tensor(0.8, -1.3), tensor([0.4])
    y = points(10, 1)
    line, cell = grid(1)
    along = (y - shift) * a / (a @ a)
    across = tensor(1.3, 0.8) / a.norm()
    x = along[:, None, :] + line * across
    expected = PLANE.density(x).sum(-1) * cell / a.norm()
    assert QUADRATURE_TIGHT.holds(PLANE.law.affine(a[None], shift).density(y), expected)


@pytest.mark.parametrize("dim", [1, 2])
def test_convolved_with_noise(dim):
    alpha, sigma = 0.7, 0.45
    plain, y = BY_DIM[dim][0], points(6, dim)
    noise = torch.distributions.Normal(tensor(0.0), sigma)

    def integrand(u):
        return plain.density(u)[:, None] * noise.log_prob(y - alpha * u[:, None]).sum(-1).exp()

    expected = integral(integrand, dim)
    assert QUADRATURE_TIGHT.holds(plain.law.convolved(alpha, sigma).density(y), expected)
    assert not QUADRATURE_TIGHT.holds(plain.law.convolved(sigma, alpha).density(y), expected)


@pytest.mark.parametrize("dim", [1, 2])
def test_times_exp_quadratic(dim):
    (H, b, c), value = quadratic(dim)
    law, density = signed(dim)
    tilted, x = law.times_exp_quadratic(H, b, c), points(40, dim)
    expected = density(x) * value(x).exp()
    assert ALGEBRA.holds(tilted.density(x), expected, scale=size(expected))
    log_mass, sign = tilted.total()
    mass = integral(lambda y: density(y) * value(y).exp(), dim)
    assert QUADRATURE_TIGHT.holds(sign * log_mass.exp(), mass)
    mutant = law.times_exp_quadratic(H, b, torch.zeros_like(c))
    assert not ALGEBRA.holds(mutant.density(x), expected, scale=size(expected))


def test_times_exp_quadratic_with_one_quadratic_a_component():
    H = tensor([[[-0.4, 0.1], [0.1, 0.2]], [[0.3, 0.0], [0.0, -0.5]], [[-1.0, 0.2], [0.2, -0.3]]])
    b, c = points(3, 2, seed=3), tensor(0.1, -0.4, 0.2)
    x = points(30, 2)
    expected = sum(
        w
        * stats.multivariate_normal(m, C).pdf(x)
        * np.exp(0.5 * np.einsum("ni,ij,nj->n", x, h, x) + x.numpy() @ v + k)
        for w, m, C, h, v, k in zip(
            *(v.numpy() for v in (PLANE.weights, PLANE.means, PLANE.covs, H, b, c)), strict=True
        )
    )
    assert ALGEBRA.holds(PLANE.law.times_exp_quadratic(H, b, c).density(x), expected)
    mixed_up = PLANE.law.times_exp_quadratic(H.flip(0), b, c)
    assert not ALGEBRA.holds(mixed_up.density(x), expected)


@pytest.mark.parametrize("dim", [1, 2])
def test_normalised_and_moments(dim):
    law, density = signed(dim)
    x = points(20, dim)
    mass = integral(density, dim)
    unit = law.normalised()
    assert QUADRATURE_TIGHT.holds(unit.density(x), density(x) / mass, scale=1.0)
    mean = integral(lambda y: density(y)[:, None] * y, dim) / mass

    def second(y):
        return density(y)[:, None, None] * (y - mean)[:, :, None] * (y - mean)[:, None, :]

    for sum_ in (law, unit, law.scaled(0.3, -1.0)):
        assert QUADRATURE_TIGHT.holds(sum_.expectation(), mean, scale=1.0)
        assert QUADRATURE_TIGHT.holds(sum_.covariance(), integral(second, dim) / mass, scale=1.0)
    within = (law._weights()[:, None, None] * law.cov).sum(0)
    assert not QUADRATURE_TIGHT.holds(within, integral(second, dim) / mass, scale=1.0)


def test_cdf_of_a_signed_sum():
    law, density = signed(1)
    y = tensor(-2.5, -0.3, 0.9, 3.1)

    def one(v):
        return density(tensor([[v]])).item()

    expected = [
        integrate.quad(one, -20, v, epsabs=1e-13, epsrel=1e-13, limit=200, points=[-1.5])[0]
        for v in y.tolist()
    ]
    assert QUADRATURE_TIGHT.holds(law.cdf(y), expected, scale=1.0)
    assert not QUADRATURE_TIGHT.holds(1 - law.cdf(y), expected, scale=1.0)


# --- draws


def projected_cdf(plain, direction, covs=None):
    means = (plain.means @ direction).numpy()
    covs = plain.covs if covs is None else covs
    stds = torch.einsum("i,kij,j->k", direction, covs, direction).sqrt().numpy()
    return lambda v: stats.norm.cdf(v[:, None], means, stds) @ plain.weights.numpy()


DIRECTIONS = {
    2: [tensor(1.0, 0.0), tensor(0.6, 0.8), tensor(-0.8, 0.6)],
    3: [tensor(1.0, 0.0, 0.0), tensor(0.6, 0.8, 0.0), tensor(0.0, -0.8, 0.6)],
}


def is_drawn_from(x, plain, covs=None):
    """False for a right law with probability FALSE_FAILURE_RATE."""
    directions = DIRECTIONS[x.shape[-1]]
    bound = ks_bound(len(x), len(directions))
    return all(ks_distance(x @ u, projected_cdf(plain, u, covs)) <= bound for u in directions)


def test_draws_have_the_law_and_a_wrong_law_is_seen():
    x = PLANE.law.sample(DRAWS, torch.Generator().manual_seed(0))
    assert is_drawn_from(x, PLANE)
    wrong_sign = PLANE.covs * tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert not is_drawn_from(x, PLANE, wrong_sign)
    weights = GaussianSum.mixture(PLANE.weights.flip(0), PLANE.means, covs=PLANE.covs)
    assert not is_drawn_from(weights.sample(DRAWS, torch.Generator().manual_seed(0)), PLANE)


def test_draws_in_three_dimensions():
    # In the plane LAPACK's eigenvectors form a symmetric matrix: a transpose would not show.
    steep = random_plain(11, 3, 2)
    root = tensor([[1.6, 0.0, 0.0], [1.1, 0.4, 0.0], [-0.7, 0.9, 0.3]])
    plain = Plain(steep.weights, steep.means, torch.stack([root @ root.T, steep.covs[1]]))
    x = plain.law.sample(DRAWS, torch.Generator().manual_seed(0))
    assert is_drawn_from(x, plain)
    assert not is_drawn_from(x, plain, plain.covs.flip((-1, -2)))


def test_draws_of_a_batch_and_their_generator():
    laws = [random_plain(s, 2, 3) for s in (5, 6)]
    batch = stack(laws)
    x = batch.sample(DRAWS, torch.Generator().manual_seed(3))
    assert x.shape == (2, DRAWS, 2)
    assert all(is_drawn_from(x[i], laws[i]) for i in range(2))
    assert not is_drawn_from(x[0], laws[1])
    assert torch.equal(x, batch.sample(DRAWS, torch.Generator().manual_seed(3)))
    assert not torch.equal(x, batch.sample(DRAWS, torch.Generator().manual_seed(4)))
