"""Every wrapper: its slope, its own truth from samples without randomness, what leaves it as it is.

Base rewards are quantiles of a smooth bounded law, tuned ones the quantiles of the law tilted by
the wrapper, by numerical integration. What is left are terms of order 1/n of the conditional
likelihood, taken off by the fits of n and 2 n rows.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special

from tests.theory.audit.synthetic import data_of, gaussians, quantiles, tilted_quantiles
from theory.audit.families.curved import Range, TruncatedFamily, _root, best_start
from theory.audit.families.families import FAMILIES
from theory.audit.families.family import some_rows
from theory.audit.families.ranks import LEAST_FOR_RANKS
from theory.audit.fit.likelihood import NoFitError, value_at
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, QUADRATURE_TIGHT

NAMES = list(FAMILIES)
CURVED = ["linear", "truncated_2", "truncated_3"]
RANKED = ["best_of_n", "rank"]


def base_quantile(u):
    """Of a law on (0.4, 2.3), skewed."""
    return 0.4 + 1.1 * u + 0.8 * u**3


def centred(u):
    """Of a law on (-0.9, 1.0)."""
    return base_quantile(u) - 1.3


# name: (base law, log Phi(r, rank), the true parameters)
TRUTHS = {
    "exponential": (centred, lambda r, u: 1.7 * r, {"a": 1.7}),
    "linear": (centred, lambda r, u: np.log(1 + 0.8 * r), {"a": 0.8}),
    "truncated_2": (centred, lambda r, u: np.log(1 + 1.4 * r + 0.98 * r**2), {"a": 1.4}),
    "truncated_3": (
        centred,
        lambda r, u: np.log(1 + 1.2 * r + 0.72 * r**2 + 0.288 * r**3),
        {"a": 1.2},
    ),
    "power": (base_quantile, lambda r, u: 2.2 * np.log(r), {"b": 2.2}),
    "clipped": (centred, lambda r, u: 2.5 * np.minimum(r, 0.2), {"a": 2.5, "cap": 0.2}),
    "best_of_n": (base_quantile, lambda r, u: 3 * np.log(u), {"n": 4}),
    "rank": (base_quantile, lambda r, u: 1.8 * u, {"a": 1.8}),
}


def without_noise(name, n):
    quantile, log_phi, _ = TRUTHS[name]
    return data_of([quantile(quantiles(n))], [tilted_quantiles(n, quantile, log_phi)]).pooled


def in_words(name, fitted):
    found = dict(fitted.parameters)
    return {"a": found["slope"] / found["constant"]} if name == "linear" else found


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*RANKED, "clipped")])
def test_own_truth_without_noise(name):
    fits = [in_words(name, FAMILIES[name].fit(without_noise(name, n))) for n in (2000, 4000)]
    for key, true in TRUTHS[name][2].items():
        assert QUADRATURE_2D.holds(2 * fits[1][key] - fits[0][key], true)
        assert abs(fits[0][key] - true) < 10 * true / 2000
        assert not QUADRATURE_2D.holds(2 * fits[1][key] - fits[0][key], 1.01 * true)


@pytest.mark.parametrize("name", [*RANKED, "clipped"])
def test_own_truth_to_first_order(name):
    """Empirical ranks, and a kink found by a search, leave errors of order log(n)/n."""
    errors = []
    for n in (1000, 8000):
        fit = in_words(name, FAMILIES[name].fit(without_noise(name, n)))
        errors.append(max(abs(fit[key] / true - 1) for key, true in TRUTHS[name][2].items()))
        assert errors[-1] < 10 * math.log(n) / n
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_another_truth_is_not_found(name):
    """Of a wrapper's samples, every other one is less likely."""
    pooled = without_noise(name, 4000)
    own = FAMILIES[name].fit(pooled).fit.value
    others = []
    for other in NAMES:
        if other in (name, "clipped"):  # clipped holds exp(a r), but for the last quantile
            continue
        try:
            others.append(FAMILIES[other].fit(pooled).fit.value)
        except NoFitError:  # rewards that are not positive; r^2 is likelier than polynomials
            assert other in ("power", "truncated_2", "truncated_3")
    assert own > max(others)


# --- slopes, ranges, what a form is


@pytest.mark.parametrize("name", NAMES)
def test_slopes_by_finite_differences(name):
    pooled = data_of([base_quantile(quantiles(30))], [base_quantile(quantiles(25)) + 0.1]).pooled
    fitted = FAMILIES[name].fit(pooled)
    for theta in (fitted.fit.theta, fitted.fit.theta + 0.05):
        h = 1e-4
        values = [fitted.evaluate(theta + k * h)[0] for k in (-2, -1, 1, 2)]
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
        assert QUADRATURE.holds(fitted.evaluate(theta)[1][:, 0], slope, scale=1.0)


def formula(name, parameters, r, pooled):
    """log Phi by its words."""
    a = parameters.get("a")
    match name:
        case "exponential":
            return a * r
        case "linear":
            return np.log(parameters["constant"] + parameters["slope"] * r)
        case "truncated_2" | "truncated_3":
            order = int(name[-1])
            return np.log(sum((a * r) ** j / special.factorial(j) for j in range(order + 1)))
        case "power":
            return parameters["b"] * np.log(r)
        case "clipped":
            return np.minimum(a * r, a * parameters["cap"])
    base = pooled.reward[pooled.is_base]
    ranks = np.array(
        [(base < x).sum() / 2 + (base <= x).sum() / 2 + 0.5 for x in pooled.reward]
    ) / (len(base) + 1)
    return (parameters["n"] - 1) * np.log(ranks) if name == "best_of_n" else a * ranks


@pytest.mark.parametrize("name", NAMES)
def test_parameters_say_what_was_fitted(name):
    """On the rows fitted to, and on other rows by `at`: the formula, up to a factor of Phi."""
    rng = np.random.default_rng(0)
    family = FAMILIES[name]
    pooled = data_of([0.5 + rng.uniform(size=150)], [0.5 + rng.uniform(size=140) ** 0.7]).pooled
    fitted = family.fit(pooled)
    other = data_of([0.6 + 0.6 * rng.uniform(size=40)], [0.8 + 0.5 * rng.uniform(size=40)]).pooled
    evaluate, theta = family.at(fitted.parameters, other)
    for rows, log_phi in ((pooled, fitted.fit.log_ratio), (other, evaluate(theta)[0])):
        gap = log_phi - formula(name, fitted.parameters, rows.reward, rows)
        assert QUADRATURE_TIGHT.holds(gap, gap.mean(), scale=1.0)
    assert QUADRATURE_TIGHT.holds(family.at(fitted.parameters, pooled)[1], fitted.fit.theta)
    assert fitted.name == name


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("law", ["both signs", "positive", "negative"])
def test_ranges_keep_phi_positive(name, law):
    rng = np.random.default_rng(1)
    shift = {"both signs": 0.0, "positive": 5.0, "negative": -5.0}[law]
    pooled = data_of([shift + rng.normal(size=40)], [shift + rng.normal(size=40)]).pooled
    family = FAMILIES[name]
    where = family.range(pooled)
    evaluate = family.evaluate(pooled)
    for theta in [*np.linspace(where.low, where.high, 21), where.low, where.high]:
        phi = np.exp(evaluate(np.array([theta]))[0])
        assert (phi > 0).all()
        assert np.isfinite(phi).all()
    # The range is no narrower than it must be: just beyond its ends Phi < 0 at a row.
    if name != "truncated_2":
        width = where.high - where.low
        for theta in (where.low - 1e-3 * width, where.high + 1e-3 * width):
            if abs(theta) > 39:  # nothing bounds it but what is looked at
                continue
            with np.errstate(invalid="ignore"):
                assert np.isnan(evaluate(np.array([theta]))[0]).any()


def test_held_out_rows_where_phi_is_negative_are_refused():
    inner = data_of([np.linspace(0.5, 1.5, 30)], [np.linspace(0.6, 1.7, 30)]).pooled
    wider = data_of([np.linspace(-9, 1.5, 30)], [np.linspace(0.6, 1.7, 30)]).pooled
    for name in ("linear", "truncated_3"):
        family = FAMILIES[name]
        with pytest.raises(NoFitError, match="not positive"):
            family.at(family.fit(inner).parameters, wider)


def test_root_of_a_truncated_exponential():
    for order in (1, 3, 5):
        root = optimize.brentq(
            lambda x, k=order: sum(x**j / math.factorial(j) for j in range(k + 1)), -9, 0
        )
        assert QUADRATURE_TIGHT.holds(_root(order), -root)


def test_grid_is_inside_its_range_and_fine_about_zero():
    places = Range(-3.0, 40.0).grid()
    assert -3 < places.min() < places.max() < 40
    assert (np.diff(places) > 0).all()
    gaps = np.diff(places)
    assert gaps[np.abs(places[:-1]).argmin()] < gaps[-1] / 20


def test_start_is_the_likeliest_place():
    pooled = gaussians(np.random.default_rng(2), 1, 60, 60, 0.5).pooled
    family = TruncatedFamily(3)
    where, evaluate = family.range(pooled), family.evaluate(pooled)
    values = [value_at(evaluate, np.array([x]), pooled) for x in where.grid()]
    assert best_start(evaluate, where, pooled) == where.grid()[int(np.argmax(values))]


def test_some_rows_are_few_and_two_sided():
    pooled = gaussians(np.random.default_rng(3), 7, 60, 30, 0.5).pooled
    assert some_rows(pooled, 10_000) is pooled
    found = some_rows(pooled, 50)
    assert 0 < len(found) <= 90  # a whole prompt at the least
    assert (found.n0 > 0).all()
    assert (found.n1 > 0).all()
    assert (found.centre, found.spread) == (pooled.centre, pooled.spread)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_some_rows_of_pairs_hold_both_sides():
    found = some_rows(gaussians(np.random.default_rng(3), 50, 1, 1, 0.5).pooled, 60)
    assert 0 < found.n1.sum() < len(found)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_clipped_is_fitted_where_no_tuned_reward_is_low():
    """The truth is exp(2.5 r), which is in the family, with its cap beyond all rewards: more likely
    than a threshold at the lowest cut."""
    rng = np.random.default_rng(0)
    FAMILIES["clipped"].fit(data_of([rng.normal(size=200)], [2.5 + rng.normal(size=200)]).pooled)


# --- invariance


def fits(base, tuned, name):
    return FAMILIES[name].fit(data_of(base, tuned).pooled)


def positive(seed=4):
    rng = np.random.default_rng(seed)
    return rng.gamma(3, size=(2, 60)), 0.3 + rng.gamma(3.5, size=(2, 50))


@pytest.mark.parametrize(
    ("name", "scale", "shift"),
    [
        ("exponential", 2.5, -7.0),
        ("power", 3.0, 0.0),
        ("truncated_2", 2.5, 0.0),
        ("truncated_3", 0.3, 0.0),
        ("clipped", 2.5, 3.0),
        ("linear", 0.2, 0.3),
    ],
)
def test_affine_changes_of_the_reward(name, scale, shift):
    base, tuned = positive()
    one = fits(base, tuned, name)
    other = fits(shift + scale * base, shift + scale * tuned, name)
    p, q = one.parameters, other.parameters
    expected = {"a": p.get("a", 0) / scale, "b": p.get("b"), "cap": shift + scale * p.get("cap", 0)}
    for key in p:
        if name == "linear":
            continue
        assert QUADRATURE_TIGHT.holds(q[key], expected[key])
    if name == "linear":  # constant + slope r, up to a factor: its zero moves with the reward
        zero = -p["constant"] / p["slope"]
        assert QUADRATURE.holds(-q["constant"] / q["slope"], shift + scale * zero)
    assert QUADRATURE_TIGHT.holds(other.fit.value, one.fit.value)


@pytest.mark.parametrize("name", RANKED)
def test_monotone_maps_leave_ranks(name):
    base, tuned = positive()
    one = fits(base, tuned, name)
    for change in (np.log, lambda r: np.exp(3 * r), lambda r: 5 * r - 2):
        assert ALGEBRA.holds(fits(change(base), change(tuned), name).fit.theta, one.fit.theta)
    other = fits(-base, -tuned, name)
    assert not QUADRATURE.holds(other.fit.theta, one.fit.theta)
    # Of every prompt's own: prompts may be moved each by itself.
    moved = np.array([[0.0], [50.0]])
    assert ALGEBRA.holds(fits(base + moved, tuned + moved, name).fit.theta, one.fit.theta)


def test_truncated_polynomials_are_about_zero():
    base, tuned = positive()
    for name in ("truncated_2", "truncated_3"):
        values = [fits(base + c, tuned + c, name).fit.value for c in (0.0, 0.5)]
        assert not QUADRATURE.holds(*values)


# --- words, and what is refused


@pytest.mark.parametrize(
    ("name", "parameters", "label"),
    [
        ("exponential", {"a": 0.4567}, "exp(0.457 r)"),
        ("power", {"b": 2.0}, "r^2"),
        ("best_of_n", {"n": 4.04}, "best of n, n = 4.04"),
        ("truncated_2", {"a": -1.5}, "exp(-1.5 r) to order 2"),
        ("linear", {"constant": 2.0, "slope": 1.0}, "1 + 0.5 r"),
        ("linear", {"constant": 2.0, "slope": -1.0}, "1 - 0.5 r"),
        ("linear", {"constant": -2.0, "slope": 1.0}, "r - 2"),
        ("linear", {"constant": 0.0, "slope": 1.0}, "r"),
        ("linear", {"constant": 0.0, "slope": -1.0}, "-r"),
        ("linear", {"constant": -2.0, "slope": -1.0}, "-(r + 2)"),
        ("rank", {"a": 1.8}, "exp(1.8 F(r))"),
    ],
)
def test_labels(name, parameters, label):
    assert FAMILIES[name].label(parameters) == label


@pytest.mark.parametrize("name", NAMES)
def test_constant_rewards_are_refused(name):
    pooled = data_of([np.full(30, 0.1)], [np.full(30, 0.1)]).pooled
    with pytest.raises(NoFitError, match="constant"):
        FAMILIES[name].fit(pooled)


def test_rewards_that_a_form_does_not_take_are_refused():
    rng = np.random.default_rng(5)
    pooled = data_of([rng.normal(size=50)], [rng.normal(size=50)]).pooled
    with pytest.raises(NoFitError, match=r"rewards > 0, the smallest is -"):
        FAMILIES["power"].fit(pooled)
    few = data_of(
        [rng.normal(size=LEAST_FOR_RANKS - 1), rng.normal(size=90)], rng.normal(size=(2, 50))
    ).pooled
    for name in RANKED:
        with pytest.raises(NoFitError, match=r"ranks need 20 base samples .* fewest are 19"):
            FAMILIES[name].fit(few)


def test_binary_rewards_are_fitted():
    """Two values: every wrapper with one parameter gives the same ratio of the two."""
    base, tuned = np.repeat([0.0, 1.0], [60, 40]), np.repeat([0.0, 1.0], [30, 70])
    ratios = []
    for name in ("exponential", "linear", "truncated_2", "rank"):
        fitted = fits([base], [tuned], name)
        log = fitted.fit.log_ratio
        ones = data_of([base], [tuned]).pooled.reward == 1
        ratios.append(log[ones][0] - log[~ones][0])
    odds = math.log(70 * 60 / (30 * 40))
    # The conditional likelihood's own factor: less by about 1/n.
    assert all(abs(found / odds - 1) < 3 / 200 for found in ratios)
    assert QUADRATURE.holds(ratios[1:], ratios[0])
