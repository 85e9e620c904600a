"""Wrappers of rewards: their words, and differences."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np

from tests.mutants.harness import Checks, overridden, replaced, revised
from tests.theory.audit.synthetic import data_of
from theory.audit.data.samples import Pooled
from theory.audit.families import families
from theory.common.tolerances import QUADRATURE


def check_families(module: ModuleType) -> Checks:
    rng = np.random.default_rng(2)
    pooled = data_of([0.5 + rng.gamma(3, size=90)], [0.4 + rng.gamma(4, size=70)]).pooled
    found: Checks = {}
    for name, known in families.FAMILIES.items():
        kind = getattr(module, type(known).__name__, None)  # those that the module defines
        if kind is None:
            continue
        family = kind(**vars(known))
        fitted = family.fit(pooled)
        h, theta = 1e-5, fitted.fit.theta
        slope = (fitted.evaluate(theta + h)[0] - fitted.evaluate(theta - h)[0]) / (2 * h)
        found[f"{name}: slope"] = QUADRATURE.holds(fitted.evaluate(theta)[1][:, 0], slope, 1.0)
        p, r, log = fitted.parameters, pooled.reward, fitted.fit.log_ratio
        words = {
            "exponential": lambda p=p, r=r: p["a"] * r,
            "linear": lambda p=p, r=r: np.log(p["constant"] + p["slope"] * r),
            "truncated_2": lambda p=p, r=r: np.log(1 + p["a"] * r + (p["a"] * r) ** 2 / 2),
            "truncated_3": lambda p=p, r=r: np.log(
                1 + p["a"] * r + (p["a"] * r) ** 2 / 2 + (p["a"] * r) ** 3 / 6
            ),
            "power": lambda p=p, r=r: p["b"] * np.log(r),
            "clipped": lambda p=p, r=r: p["a"] * np.minimum(r, p["cap"]),
            "best_of_n": lambda p=p: (p["n"] - 1) * np.log(_base_ranks(pooled)),
            "rank": lambda p=p: p["a"] * _base_ranks(pooled),
        }
        with np.errstate(invalid="ignore"):
            gap = log - words[name]()
        found[f"{name}: words"] = QUADRATURE.holds(gap, gap.mean(), 1.0)
        again = family.at(p, pooled)[1]
        found[f"{name}: at"] = QUADRATURE.holds(again, theta, 1.0)
    return found


def _base_ranks(pooled: Pooled) -> np.ndarray:
    base = pooled.reward[pooled.is_base]
    values = [((base < x).sum() + (base <= x).sum() + 1) / 2 for x in pooled.reward]
    return np.array(values) / (len(base) + 1)


FORMS = ("family", "ranks", "curved", "clipped")
CHECKS = {f"families.{name}": check_families for name in FORMS}

# --- the mutants of a module, and the check that rejects each


def slopes(kind, of):
    """Another derivative of log Phi: of(slope, log Phi, theta, pooled)."""

    def evaluate(whole, self, pooled):
        right = whole(pooled)

        def values(theta):
            log_phi, slope = right(theta)
            return log_phi, of(slope, log_phi, theta[0], pooled)

        return values

    return overridden(kind, evaluate=evaluate)


def with_sine_added(slope, log_phi, theta, pooled):
    return slope + 2 * np.sin(theta) * np.exp(-log_phi)[:, None]


def of_the_same_order(slope, log_phi, theta, pooled):
    return (pooled.reward / pooled.spread)[:, None]


def ranks_of_the_tuned(whole, self, pooled):
    return whole(replace(pooled, label=1 - pooled.label))


def centre_added(whole, self, theta, pooled):
    found = whole(theta, pooled)
    return found | {"constant": found["constant"] + 2 * found["slope"] * pooled.centre}


def standardised_cap(whole, self, pooled):
    def parameters(found):
        cap = (found.parameters["cap"] - pooled.centre) / pooled.spread
        return found.parameters | {"cap": cap}

    return revised(whole(pooled), parameters=parameters)


MUTANTS = {
    "families.family": {
        "spread not taken off": (
            overridden(
                "ExponentialFamily",
                statistic=lambda whole, self, pooled: (whole(pooled)[0], 1.0),
            ),
            "exponential: words",
        ),
    },
    "families.ranks": {
        "n for n - 1": (
            replaced(BestOfN=lambda whole: type("WrongBestOfN", (whole,), {"shift": 0.0})),
            "best_of_n: words",
        ),
        "ranks of the tuned": (
            overridden("BestOfN", ranks=ranks_of_the_tuned),
            "best_of_n: words",
        ),
    },
    "families.curved": {
        "linear slope's sign": (slopes("LinearFamily", with_sine_added), "linear: slope"),
        "linear centre": (overridden("LinearFamily", parameters=centre_added), "linear: words"),
        "truncated derivative": (
            slopes("TruncatedFamily", of_the_same_order),
            "truncated_2: slope",
        ),
        "factorials forgotten": (
            replaced(_coefficients=lambda whole: lambda order: np.ones(order + 1)),
            "truncated_2: words",
        ),
    },
    "families.clipped": {
        "cap in standard units": (
            overridden("ClippedFamily", fit=standardised_cap),
            "clipped: words",
        ),
    },
}
