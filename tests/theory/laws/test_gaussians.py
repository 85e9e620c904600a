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
    LINE,
    LINE_B,
    PLANE,
    PLANE_B,
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


# --- batches, dtypes, devices

(H2, B2, C2), _ = quadratic(2)
OPERATIONS = {
    "log_density": lambda s, x: s.log_density(x),
    "density": lambda s, x: s.density(x),
    "score": lambda s, x: s.score(x),
    "total": lambda s, x: s.product(s).total()[0],
    "expectation": lambda s, x: s.expectation(),
    "covariance": lambda s, x: s.covariance(),
    "normalised": lambda s, x: s.scaled(0.3).normalised().log_density(x),
    "scaled": lambda s, x: s.scaled(0.3, -1.0).density(x),
    "sum_of": lambda s, x: GaussianSum.sum_of([s, s.scaled(0.5)]).density(x),
    "product": lambda s, x: s.product(s).log_density(x),
    "power": lambda s, x: s.power(3).log_density(x),
    "marginal": lambda s, x: s.marginal([1]).log_density(x[..., :1]),
    "affine": lambda s, x: s.affine(H2[0].to(x.dtype), B2[0].to(x.dtype)).log_density(x),
    "convolved": lambda s, x: s.convolved(0.7, 0.4).score(x),
    "quadratic": lambda s, x: s.times_exp_quadratic(
        *(v.to(x.dtype) for v in (H2, B2, C2))
    ).log_density(x),
    "cdf": lambda s, x: s.marginal([1]).cdf(x[..., 0]),
    "posterior": lambda s, x: s.noised(x, 0.6, 0.5).covariance(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_is_its_loop(name):
    laws = [random_plain(s, 2, 3) for s in (1, 2, 3)]
    x = torch.stack([points(7, 2, s) for s in range(3)])
    operation = OPERATIONS[name]
    batched = operation(stack(laws), x)
    looped = torch.stack([operation(p.law, xi) for p, xi in zip(laws, x, strict=True)])
    assert batched.shape == looped.shape
    assert ALGEBRA.holds(batched, looped, scale=1.0)
    assert not ALGEBRA.holds(batched, looped.flip(0), scale=1.0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_dtype_is_kept(name):
    law, x = PLANE.law.to(torch.float32), points(5, 2)
    assert OPERATIONS[name](law, x.float()).dtype == torch.float32
    assert OPERATIONS[name](PLANE.law, x).dtype == torch.float64


def test_parameters_keep_their_dtype():
    parts = [v.float() for v in (tensor(0.75, 0.25), PLANE_B.means, PLANE_B.covs)]
    law = GaussianSum.mixture(parts[0], parts[1], covs=parts[2])
    assert {law.log_abs.dtype, law.sign.dtype, law.mean.dtype, law.cov.dtype} == {torch.float32}
    assert law.sample(3, torch.Generator().manual_seed(0)).dtype == torch.float32


def test_weights_and_covs_may_carry_float32_rounding():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights = torch.softmax(torch.randn(7, generator=generator), 0)
        roots = torch.randn(7, 3, 3, generator=generator)
        scales = torch.rand(3, generator=generator) + 0.1
        covs = roots @ torch.diag(scales) @ roots.mT + torch.eye(3)
        assert GaussianSum.mixture(weights, roots[:, 0], covs=covs).dtype == torch.float32


@pytest.mark.parametrize("name", ["log_density", "score", "density", "cdf"])
def test_mixed_dtypes_are_refused(name):
    for law, x in (
        (PLANE.law, points(5, 2).float()),
        (PLANE.law.to(torch.float32), points(5, 2)),
    ):
        with pytest.raises(TypeError, match=r"dtype.*allowed"):
            OPERATIONS[name](law, x)


def test_to_rounds_the_spectrum_rather_than_recomputing_it():
    moved = PLANE.law.to(torch.float32)
    assert torch.equal(moved.spectrum.variances, PLANE.law.spectrum.variances.float())
    assert torch.equal(moved.spectrum.axes, PLANE.law.spectrum.axes.float())
    assert torch.equal(moved.mean, PLANE.law.mean.float())
    back = moved.to(torch.float64)
    assert back.dtype == back.spectrum.variances.dtype == torch.float64


META = ["log_density", "density", "score", "total", "expectation", "covariance", "cdf"]


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("plain", [PLANE, LINE], ids=["full", "line"])
def test_evaluation_stays_on_the_device(name, plain):
    if name == "cdf" and plain is PLANE:
        pytest.skip("cdf of a marginal needs its spectrum, which meta tensors cannot give")
    law, x = plain.law, points(5, plain.means.shape[-1])
    operation = OPERATIONS[name] if name != "cdf" else (lambda s, y: s.cdf(y[:, 0]))
    here, there = operation(law, x), operation(law.to(device="meta"), x.to("meta"))
    assert there.device.type == "meta"
    assert there.shape == here.shape


def test_algebra_stays_on_the_device():
    law, (H, b, _) = PLANE.law.to(device="meta"), quadratic(2)[0]
    H, b = H.to("meta"), b.to("meta")
    laws = [
        law.product(law),
        law.power(2),
        law.marginal([1]),
        law.affine(H[0], b[0]),
        law.convolved(0.5, 0.4),
        law.scaled(0.2, -1.0),
        GaussianSum.sum_of([law, law]),
    ]
    for made in laws:
        assert {p.device.type for p in (made.log_abs, made.sign, made.mean, made.cov)} == {"meta"}


def test_the_reference_laws_are_asymmetric():
    for plain in (LINE, LINE_B, PLANE, PLANE_B, SPACE):
        assert len(set(plain.weights.tolist())) == len(plain.weights)
        assert not torch.equal(plain.covs[0], plain.covs[1])
