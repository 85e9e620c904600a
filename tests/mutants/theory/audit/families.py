"""Wrappers of rewards: their words, and differences."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from tests.mutants.theory.audit.shared import Checks
from tests.theory.audit.synthetic import data_of
from theory.audit.data.samples import Pooled
from theory.audit.families import families
from theory.common.tolerances import QUADRATURE

FAMILIES = ("family", "ranks", "curved", "clipped")


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


CHECKS = dict.fromkeys(FAMILIES, check_families)

MUTANTS = {
    "spread not taken off": ("family", "return pooled.z, pooled.spread", "return pooled.z, 1.0"),
    "n for n - 1": ("ranks", '"n", 1.0', '"n", 0.0'),
    "ranks of the tuned": (
        "ranks",
        "own[pooled.label[start:end] == 0]",
        "own[pooled.label[start:end] == 1]",
    ),
    "linear slope's sign": ("curved", "((c * z - s) / phi)", "((c * z + s) / phi)"),
    "linear centre": (
        "curved",
        "math.cos(theta) - slope * pooled.centre",
        "math.cos(theta) + slope * pooled.centre",
    ),
    "truncated derivative": (
        "curved",
        "_coefficients(self.order - 1)",
        "_coefficients(self.order)",
    ),
    "factorials forgotten": ("curved", "1 / math.factorial(j)", "1.0"),
    "cap in standard units": ("clipped", "cap = pooled.centre + pooled.spread * cut", "cap = cut"),
}
