"""The tilt's likelihood against sums over subsets, scipy's maxima, and its scores' variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from tests.theory.audit.synthetic import (
    SIGMAS,
    conditional_likelihood,
    data_of,
    gaussians,
    quantiles,
)
from theory.audit.fit.likelihood import (
    NoFitError,
    chance_of,
    intercepts,
    maximise,
    row_values,
    score_variance,
    state,
    value_at,
)
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE, QUADRATURE_TIGHT

ZERO = np.zeros(1)


def times(T):
    return lambda theta: (theta[0] * T, T[:, None])


def two(r):
    """log Phi = a r + b sin(2 r): two parameters."""
    J = np.stack([r, np.sin(2 * r)], 1)
    return lambda theta: (J @ theta, J)


def few(seed=0, a=0.7):
    """Prompts of 3 + 2, 4 + 4, ... rows, which can be enumerated."""
    rng = np.random.default_rng(seed)
    sizes = [(3, 2), (4, 4), (2, 5), (6, 3), (1, 2), (5, 5)]
    return data_of(
        [rng.normal(size=n) for n, _ in sizes], [a + rng.normal(size=m) for _, m in sizes]
    )


# --- the value


@pytest.mark.parametrize("theta", [0.0, 0.8, -2.5])
def test_value_is_the_conditional_likelihood(theta):
    data = few()
    true = conditional_likelihood(lambda t, r: t * r, theta, data)
    found = value_at(times(data.pooled.reward), np.array([theta]), data.pooled)
    assert ALGEBRA.holds(found, true)
    # The likelihood of labels whose number is not given is another one.
    free = row_values(times(data.pooled.reward), np.array([theta]), data.pooled).sum()
    assert not QUADRATURE.holds(free, true)


def test_intercepts_put_the_right_number_into_each_prompt():
    data = few(3)
    log_ratio = 3 * np.sin(5 * data.pooled.reward)
    alpha, p = intercepts(log_ratio, data.pooled)
    for g in range(data.pooled.count):
        rows = data.pooled.prompt == g
        own = optimize.brentq(
            lambda a, rows=rows, g=g: special.expit(log_ratio[rows] + a).sum() - data.pooled.n1[g],
            -40,
            40,
            xtol=1e-13,
        )
        assert QUADRATURE_TIGHT.holds(alpha[g], own, scale=1.0)
        assert QUADRATURE_TIGHT.holds(p[rows], special.expit(log_ratio[rows] + own))
    # A common factor of Phi, however large, is the intercept's.
    far, same = intercepts(log_ratio + 800.0, data.pooled)
    assert QUADRATURE_TIGHT.holds(far, alpha - 800)
    assert QUADRATURE_TIGHT.holds(same, p)


def test_chances_do_not_overflow():
    eta = np.array([-800.0, -3, 0, 3, 800])
    with np.errstate(all="raise", under="ignore"):
        assert ALGEBRA.holds(chance_of(eta), special.expit(eta))


# --- gradient and curvature


@pytest.mark.parametrize("prompts", ["small", "large", "both"])
def test_gradient_is_that_of_the_value(prompts):
    """Also where the expansion holds: pi is the derivative of what is used for P(S = m)."""
    rng = np.random.default_rng(1)
    sizes = {"small": [(4, 3), (9, 20)], "large": [(30, 20), (70, 9)]}
    sizes["both"] = sizes["small"] + sizes["large"]
    data = data_of(
        [rng.normal(size=n) for n, _ in sizes[prompts]],
        [rng.normal(size=m) for _, m in sizes[prompts]],
    )
    evaluate, theta, h = two(data.pooled.reward), np.array([0.6, -0.4]), 1e-3
    _, gradient = state(evaluate, theta, data.pooled, None)

    def value(step):
        return value_at(evaluate, theta + step, data.pooled)

    for j, e in enumerate(np.eye(2) * h):
        # Fourth order.
        slope = (8 * (value(e) - value(-e)) - value(2 * e) + value(-2 * e)) / (12 * h)
        assert QUADRATURE.holds(gradient[j], slope, scale=1.0)
        assert not QUADRATURE.holds(-gradient[j], slope, scale=1.0)


def test_information_is_the_curvature_of_many_rows():
    """To order 1/n, by second differences; that of unadjusted scores would do so too."""
    data = gaussians(np.random.default_rng(2), 2, 800, 500, 0.4)
    evaluate, h = times(data.pooled.reward), 1e-3
    fit = maximise(evaluate, ZERO, data.pooled)
    values = [value_at(evaluate, fit.theta + k * h, data.pooled) for k in (-1, 0, 1)]
    curvature = -(values[0] - 2 * values[1] + values[2]) / h**2
    assert abs(fit.information[0, 0] / curvature - 1) < 3 / 500


# --- the maximum


def test_maximum_of_small_prompts_is_scipys():
    data = few()
    found = maximise(times(data.pooled.reward), ZERO, data.pooled)

    def loss(t):
        return -conditional_likelihood(lambda a, r: a * r, t, data)

    best = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    assert QUADRATURE.holds(found.theta, best.x)
    assert QUADRATURE.holds(found.value, -best.fun)
    two_found = maximise(two(data.pooled.reward), np.zeros(2), data.pooled)
    two_best = optimize.minimize(
        lambda t: -conditional_likelihood(lambda a, r: a[0] * r + a[1] * np.sin(2 * r), t, data),
        np.zeros(2),
        method="BFGS",
        options={"gtol": 1e-7},
    )
    assert QUADRATURE.holds(two_found.theta, two_best.x, scale=1.0)
    # An intercept a prompt, fitted beside the slope, would have found another slope.
    pooled = data.pooled
    free = optimize.minimize_scalar(
        lambda t: -row_values(times(pooled.reward), np.array([t]), pooled).sum(),
        bounds=(-5, 5),
        method="bounded",
    )
    assert free.x / best.x > 1.1


def test_maximum_of_one_large_prompt_is_the_logistic_one():
    """But for its bias of 1/n: scipy's fit of slope and intercept, without condition."""
    rng = np.random.default_rng(4)
    n0, n1 = 1500, 900
    data = data_of([rng.normal(size=n0)], [0.8 + rng.normal(size=n1)])
    r, y = data.pooled.reward, data.pooled.label

    def loss(t):
        eta = t[0] * r + t[1]
        return np.logaddexp(0, eta).sum() - y @ eta, np.array(
            [(special.expit(eta) - y) @ r, (special.expit(eta) - y).sum()]
        )

    best = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-6})
    found = maximise(times(r), ZERO, data.pooled)
    assert abs(found.theta[0] / best.x[0] - 1) < 5 / (n0 + n1)
    assert abs(found.alpha[0] - best.x[1]) < 5 / (n0 + n1)
    hessian = (special.expit(-loss_eta(best.x, r)) * special.expit(loss_eta(best.x, r)))[:, None]
    X = np.stack([r, np.ones_like(r)], 1)
    variance = np.linalg.inv(X.T @ (hessian * X))[0, 0]
    assert abs(variance * found.information[0, 0] - 1) < 5 / (n0 + n1)


def loss_eta(theta, r):
    return theta[0] * r + theta[1]


def test_pairs_are_a_regression_on_differences():
    rng = np.random.default_rng(5)
    base, tuned = rng.normal(size=300), 0.6 + rng.normal(size=300)
    data = data_of(base[:, None], tuned[:, None])
    gap = tuned - base
    a = optimize.brentq(lambda a: (gap * special.expit(-a * gap)).sum(), -5, 5, xtol=1e-13)
    found = maximise(times(data.pooled.reward), ZERO, data.pooled)
    assert QUADRATURE_TIGHT.holds(found.theta, a)
    assert QUADRATURE_TIGHT.holds(found.value, np.log(special.expit(a * gap)).sum())
    chance = special.expit(a * gap)
    assert QUADRATURE_TIGHT.holds(found.information, (gap**2 * chance * (1 - chance)).sum())
    # "An intercept a prompt costs a factor of two for pairs."
    free = optimize.minimize_scalar(
        lambda t: -row_values(times(data.pooled.reward), np.array([t]), data.pooled).sum(),
        bounds=(0, 9),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert QUADRATURE.holds(free.x, 2 * a)


def test_shifts_and_scales_of_rewards():
    data = few(2)
    r, prompt = data.pooled.reward, data.pooled.prompt
    fit = maximise(times(r), ZERO, data.pooled)
    for factor in (0.01, -3.0):
        own = maximise(times(factor * r + 5 * np.arange(6.0)[prompt]), ZERO, data.pooled)
        assert QUADRATURE_TIGHT.holds(own.theta * factor, fit.theta)
        assert QUADRATURE_TIGHT.holds(own.value, fit.value)
        assert QUADRATURE_TIGHT.holds(own.chance, fit.chance)


def test_ridge_is_taken_off():
    data = few(1)
    found = maximise(two(data.pooled.reward), np.zeros(2), data.pooled, ridge=1.5)
    best = optimize.minimize(
        lambda t: (
            0.75 * t @ t
            - conditional_likelihood(lambda a, r: a[0] * r + a[1] * np.sin(2 * r), t, data)
        ),
        np.zeros(2),
        method="BFGS",
        options={"gtol": 1e-7},
    )
    assert QUADRATURE.holds(found.theta, best.x, scale=1.0)


# The adjusted likelihood's last steps: c < 0 by rounding makes the prompts' means overflow.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(4))
def test_separated_labels_have_no_fit(seed):
    rng = np.random.default_rng(seed)
    data = data_of(rng.normal(size=(4, 5)), 8 + rng.normal(size=(4, 6)))
    with pytest.raises(NoFitError, match="separated"):
        maximise(times(data.pooled.z), ZERO, data.pooled)


def test_separated_labels_by_hand_have_no_fit():
    small = data_of([[0.0, 1, 2], [5.0, 6]], [[3.0, 4], [7.0]])
    with pytest.raises(NoFitError, match="separated"):
        maximise(times(small.pooled.z), ZERO, small.pooled)


def test_separated_labels_of_a_large_prompt_have_no_fit():
    rng = np.random.default_rng(0)
    data = data_of([0.1 * rng.normal(size=40)], [10 + 0.1 * rng.normal(size=40)])
    with pytest.raises(NoFitError, match="separated"):
        maximise(times(data.pooled.z), ZERO, data.pooled)


def test_a_vanishing_phi_is_refused_at_the_start_only():
    data = few()
    T = np.where(data.pooled.reward < np.median(data.pooled.reward), -np.inf, 0.0)
    with pytest.raises(NoFitError, match="zero"), np.errstate(invalid="ignore"):
        maximise(lambda theta: (T, np.ones((len(T), 1))), ZERO, data.pooled)


# --- variances


def spread_of_estimates(draw, repeats=400):
    """(variance of the estimates over replications, mean of their sandwich, of their inverse
    information)."""
    found = []
    for seed in range(repeats):
        data = draw(np.random.default_rng(seed))
        pooled = data.pooled
        fit = maximise(times(pooled.reward), ZERO, pooled)
        J = fit.information[0, 0]
        middle = score_variance(fit, pooled)[0, 0]
        found.append((fit.theta[0], middle / J**2, 1 / J))
    theta, sandwich, plain = np.array(found).T
    return theta.var(ddof=1), sandwich.mean(), plain.mean()


# The share by which a variance of 400 draws may be off: of a normal estimate, chi^2 of 399.
OFF = [float(q) / 399 for q in stats.chi2.ppf([FALSE_FAILURE_RATE, 1 - FALSE_FAILURE_RATE], 399)]
BIAS = 1.15  # of a sandwich of about 100 rows, to either side


def agrees(variance, estimate):
    return OFF[0] / BIAS < variance / estimate < OFF[1] * BIAS


def test_variance_of_rows_where_the_ratio_is_no_exponential():
    def draw(rng):
        return data_of([rng.normal(size=90)], [0.4 + 3 * rng.normal(size=30)])

    variance, sandwich, plain = spread_of_estimates(draw)
    assert agrees(variance, sandwich)
    assert not agrees(variance, plain)


def test_variance_of_paired_rows():
    """Rows of one seed on both sides, nearly the same noise: far less than independent ones."""

    def draw(rng):
        noise = rng.normal(size=60)
        seeds = np.arange(60)
        return data_of(
            [noise], [0.5 + noise + 0.3 * rng.normal(size=60)], base_seed=seeds, tuned_seed=seeds
        )

    variance, sandwich, plain = spread_of_estimates(draw)
    assert agrees(variance, sandwich)
    assert not agrees(variance, plain)


def test_estimates_are_unbiased_for_tiny_prompts():
    """2 + 2 rows a prompt: the mean over replications is the truth; one intercept a prompt is not
    that."""
    a, found = 0.6, []
    for seed in range(40):
        data = gaussians(np.random.default_rng(seed), 150, 2, 2, a)
        found.append(maximise(times(data.pooled.reward), ZERO, data.pooled).theta[0])
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - a) < SIGMAS * error
    assert 4 / 3 * a - a > SIGMAS * error


def test_uniform_places_are_even():
    assert ALGEBRA.holds(quantiles(4), [0.125, 0.375, 0.625, 0.875])
