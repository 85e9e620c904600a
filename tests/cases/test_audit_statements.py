"""Statements of the audit that contradicted themselves, or changed with the reward's unit."""

from __future__ import annotations

import numpy as np
import pytest

from tests.theory.audit.synthetic import planted
from theory.audit import audit, audit_data, verdict
from theory.audit.estimators.conditional import permute
from theory.audit.estimators.excess import excess
from theory.audit.estimators.tilt import Interval
from theory.audit.families.curved import best_start
from theory.audit.families.families import FAMILIES
from theory.audit.fit.likelihood import NoFitError
from theory.common.tolerances import QUADRATURE

# --- E1


def test_e1_interval_and_p_value_agree():
    """Before: "7.5 % of variance [-9.1, 27.1] (p <= 0.001)". Prompts that lose and gain."""
    for seed in range(4):
        scale = np.exp(0.3 * np.random.default_rng(seed).normal(size=14))
        data = planted(np.random.default_rng(seed), 14, 50, scale=scale)
        found = excess(data, permute(data, seed, 19), seed)
        told = found.lost.low > 0 or found.lost.high < 0
        assert told == (found.p_value < 0.05)
        if told:
            break
    else:
        assert found.p_value > 0.001


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("move", [0.1, 0.3])
def test_e1_a_truncated_exponential_tilts_as_the_tilt_does(move, way):
    """Before: "explained by exp(-26.5 r) to order 2" beside a positive tilt."""
    rng = np.random.default_rng(0)
    base, tuned = (way * (1 + 0.3 * rng.normal(size=2000) + by) for by in (0, move))
    pooled, family = audit_data(base, tuned).pooled, FAMILIES["truncated_2"]
    tilt = FAMILIES["exponential"].fit(pooled).parameters["a"]
    assert way * tilt > 0
    if move < 0.2:
        assert family.fit(pooled).parameters["a"] * tilt > 0
    else:  # the likeliest of all has the other sign, of those with the tilt's there is none
        assert best_start(family.evaluate(pooled), family.range(pooled), pooled) * tilt < 0
        with pytest.raises(NoFitError, match=r"r\^2 alone is likelier"):
            family.fit(pooled)


# --- E8, C4, B9: the reward's unit and zero


def samples():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(12), 40)
    base, tuned = (rng.normal(size=480) + 0.3 * prompt + move for move in (0, 0.5))
    features = [rng.normal(size=(480, 2)) for _ in range(2)]
    return base, tuned, prompt, features


SIZES = [1e-300, 1e-200, 1e-153, 1e-3, 1e3, 1e153, 1e200, 1e300]
NAMES = ("exponential", "linear", "clipped", "rank")


def of_unit(size, shift=0.0):
    base, tuned, prompt, features = samples()
    data = audit_data(
        size * (base + shift), size * (tuned + shift), prompt, prompt, base_features=features[0],
        tuned_features=features[1],
    )  # fmt: skip
    return audit(data, wrappers=NAMES, permutations=39, second=False)


@pytest.fixture(scope="module")
def plain():
    return of_unit(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_e8_c4_the_rewards_unit_changes_nothing_else(size, plain):
    """Before: "separated in every prompt" at 1e153, ZeroDivisionError at 1e-200."""
    found = of_unit(size, shift=3.0 if size in (1e-3, 1e153) else 0.0)
    for name in ("value", "low", "high", "error"):
        assert QUADRATURE.holds(size * getattr(found.tilt, name), getattr(plain.tilt, name))
        assert QUADRATURE.holds(getattr(found.kl, name), getattr(plain.kl, name))
    assert QUADRATURE.holds(size * found.tilts.tilt, plain.tilts.tilt)
    assert QUADRATURE.holds(size * found.tilts.spread, plain.tilts.spread)
    assert QUADRATURE.holds(found.conditional.p_value, plain.conditional.p_value)
    assert QUADRATURE.holds(found.excess.p_value, plain.excess.p_value)
    for name in NAMES:
        one, other = (report.wrappers.of(name) for report in (found, plain))
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert QUADRATURE.holds(one.p_value, other.p_value)
    # As many sentences, and no line of zeros.
    lines = verdict(found)
    assert len(lines) == len(verdict(plain))
    assert max(map(len, lines)) < 250
    assert "per standard deviation within prompts" in lines[0]
    assert lines[0].split("(")[1] == verdict(plain)[0].split("(")[1]


def test_c4_rewards_alike_up_to_rounding():
    """0.1 + 0.2 and 0.3: no numpy warning, and what is said of constant rewards."""
    rewards = np.where(np.arange(60) % 2, 0.1 + 0.2, 0.3)
    report = audit(audit_data(rewards, rewards[::-1]))
    assert report.doubts == ("rewards are constant in every prompt, base and tuned together",)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.604, 0.54, 0.668, 0.0327), "0.604 [0.540, 0.668]"),
        (Interval(5.03e-201, 3.66e-201, 6.4e-201, 6e-202), "5.03e-201 [3.66e-201, 6.40e-201]"),
        (Interval(5.03e200, 3.66e200, 6.4e200, 6e199), "5.03e+200 [3.66e+200, 6.40e+200]"),
        (Interval(-3e-9, -9e-9, 3e-9, 3e-9), "-3.0e-09 [-9.0e-09, 3.0e-09]"),
        (Interval(12.34, 5.0, 20.0, 3.0), "12.3 [5.0, 20.0]"),
        (Interval(-120.0, -900.0, 700.0, 400.0), "-120 [-900, 700]"),
        (Interval(2e7, 1e7, 3e7, 5e6), "2.00e+07 [1.00e+07, 3.00e+07]"),
        (Interval(0.0, 0.0, 0.0, 0.0), "0.000 [0.000, 0.000]"),
    ],
)
def test_b9_an_interval_shows_the_digits_that_its_error_has(interval, text):
    assert str(interval) == text
