"""Diffusion schedules and steered fields: closed forms, the drift of a process, differences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from tests.helpers import tensor
from tests.mutants.harness import Checks, edited, overridden
from tests.mutants.theory.control.shared import (
    MEMORYLESS,
    STEP,
    refused,
    scaled,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.fields.diffusion import Diffusion
from theory.fields.paths import PATHS
from theory.ledger.oracle.instants import instant
from theory.problems.problem import Problem, load_problem


@dataclass(frozen=True, eq=False)
class Steering:
    """What SteeredField asks of an optimum, V = (1 + t) sum sin(x_i + i) + 0.3 x_0 x_1."""

    problem: Problem
    schedule: Diffusion

    def gradient(self, x: np.ndarray, t: float) -> np.ndarray:
        return (1 + t) * np.cos(x + np.arange(2)) + 0.3 * x[:, ::-1]

    def laplacian(self, x: np.ndarray, t: float) -> np.ndarray:
        return -(1 + t) * np.sin(x + np.arange(2)).sum(1)


def check_steered(module: ModuleType) -> Checks:
    problem = replace(load_problem("bump_2d"), path=PATHS["trigonometric"]())
    x, found = np.random.default_rng(1).normal(size=(4, 2)), {}
    at, base = tensor(x), problem.base_field
    for schedule in (Diffusion.of_constant(0.8), Diffusion.of_memoryless(2.0), MEMORYLESS):
        optimum = Steering(problem, schedule)
        for share, t in ((1.0, 0.3), (0.6, 0.8)):
            a, s, da, ds = instant("trigonometric", t)
            g = float(schedule.squared(problem.path, tensor(t)).sqrt())
            field = module.SteeredField(optimum, share)
            velocity = field(at, t).numpy()
            # Of the velocity, by what all predictions have in common.
            score = (a * velocity - da * x) / (s * (da * s - a * ds))
            mean = (s * velocity - ds * x) / (da * s - a * ds)
            drift = velocity + 0.5 * g**2 * score
            plain = (base(at, t) + 0.5 * g**2 * base.score(at, t)).numpy()
            moves = [tensor(STEP * unit) for unit in np.eye(2)]
            slopes = [
                (field(at + m, t) - field(at - m, t))[:, i] / (2 * STEP)
                for i, m in enumerate(moves)
            ]
            both = field.with_divergence(at, t)
            key = f"{schedule.label}, {share}: "
            found |= {
                key + "drift": ALGEBRA.holds(
                    drift - plain, -share * g**2 * optimum.gradient(x, t), 1.0
                ),
                key + "score": ALGEBRA.holds(field.score(at, t), score, 1.0),
                key + "mean": ALGEBRA.holds(field.posterior_mean(at, t), mean, 1.0),
                key + "divergence": QUADRATURE.holds(both[1], sum(slopes), 1.0),
                key + "velocity": ALGEBRA.holds(both[0], velocity, 1.0),
            }
    end = module.SteeredField(Steering(problem, MEMORYLESS)).score(at, 1.0) - base.score(at, 1.0)
    return found | {"end": ALGEBRA.holds(end, -optimum.gradient(x, 1.0), 1.0)}


def check_schedules(module: ModuleType) -> Checks:
    D, rf, vp = module.Diffusion, PATHS["rectified_flow"](), PATHS["variance_preserving"]()
    t, h, m = np.array([0.05, 0.3, 0.8]), 0.2, 1.7
    at = tensor(t)
    etas = []
    for time in t:
        a, s, da, ds = instant("variance_preserving", time)
        etas.append(s * (s * da / a - ds))
    eta = np.array(etas)
    offset, double = D.of_offset(h, m), D.of_memoryless(m, 0.05)
    odd = D.of_function("odd", lambda path, time: 1 - 2 * time)
    ratio = D.of_function("own", lambda path, time: 1 + time)
    return {
        "constant": ALGEBRA.holds(D.of_constant(0.6).squared(rf, at), 0.36),
        "memoryless": ALGEBRA.holds(double.squared(vp, at), 2 * m * eta),
        "offset": ALGEBRA.holds(offset.squared(rf, at), 2 * m * (1 - t + h) / (t + h)),
        "start": (double.start, D.of_memoryless().start, offset.start) == (0.05, 1e-4, 0.0),
        "zero at the end": float(D(memoryless=1.0).squared(rf, tensor(1.0))) == 0,
        "ratio": ALGEBRA.holds(D.of_constant(0.6).gain_ratio(rf, at), (1 - t) / 0.36),
        "eta's ratio": ALGEBRA.holds(double.gain_ratio(rf, at), t / (2 * m)),
        "offset's ratio": ALGEBRA.holds(
            offset.gain_ratio(rf, at), (1 - t) * (t + h) / (2 * m * (1 - t + h))
        ),
        "own ratio": ALGEBRA.holds(ratio.gain_ratio(rf, at), (1 - t) / (1 + t)),
        "infinite": refused(lambda: D(memoryless=1.0).squared(rf, tensor([0.5, 0.0]))),
        "negative": refused(lambda: odd.squared(rf, at)),
        "offset of a constant": refused(lambda: D(constant=1.0, offset=0.1)),
        "negative offset": refused(lambda: D(memoryless=1.0, offset=-0.1)),
        "start at the end": refused(lambda: D(constant=1.0, start=1.0)),
        "two kinds": refused(lambda: D(constant=1.0, memoryless=1.0)),
        "labels": [d.label for d in (D.of_constant(0.6), double, D.of_offset(h), odd)]
        == ["g = 0.6", "g² = 1.7·2η", "memoryless, offset 0.2", "odd"],
    }


HOME = "fields.diffusion"
CHECKS = {"control.steered": check_steered, HOME: check_schedules}

# --- the mutants of a module, and the check that rejects each


def field_with(**parts):
    return overridden("SteeredField", **parts)


def diffusion_with(**parts):
    return overridden("Diffusion", **parts)


def eta_for_2_eta(whole, self, x, t):
    return self.share / (self.share / whole(x, t) + 0.5 * self.path.alpha(tensor(t)))


def without_alpha(whole, self, x, t):
    return self.base.score(x, t) + self._displacement(x, t)


def sigma_once(whole, self, x, t):
    return self.base.posterior_mean(x, t) + self.path.sigma(tensor(t)) * self._displacement(x, t)


def divergence(factor):
    """So many times what the displacement adds to it: factor(field, x, t)."""

    def wrong(whole, self, x, t):
        velocity, found = whole(x, t)
        plain = self.base.with_divergence(x, t)[1]
        return velocity, plain + factor(self, x, t) * (found - plain)

    return field_with(with_divergence=wrong)


def offset_on_one_side(whole, self, path, t):
    h = self.offset
    return whole(path, (t + h) * (1 + 2 * h) / (1 + h) - h)


def ratio_to_eta(whole, self, path, t):
    return whole(path, t) * (2 if self.memoryless and not self.offset else 1)


def without_offset(whole, self, path, t):
    return whole.func(replace(self, offset=0.0), path, t)


def without_start(whole, kind, multiple=1.0, start=None):
    return replace(whole(multiple), start=0.0)


MUTANTS = {
    "control.steered": {
        "eta for 2 eta": (field_with(_factor=eta_for_2_eta), "drift"),
        "displacement's sign": (field_with(_displacement=scaled(-1)), "drift"),
        "all of the control": (
            field_with(_factor=lambda whole, self, x, t: whole(x, t) / self.share),
            "0.6: drift",
        ),
        "score without alpha": (field_with(score=without_alpha), "score"),
        "sigma once": (field_with(posterior_mean=sigma_once), "mean"),
        "divergence's sign": (divergence(lambda field, x, t: -1), "divergence"),
        "divergence without share": (
            divergence(lambda field, x, t: 1 / field._factor(x, t)),
            "divergence",
        ),
    },
    HOME: {
        "g for g squared": (
            diffusion_with(squared=lambda whole, self, path, t: whole(path, t).sqrt()),
            "constant",
        ),
        "one eta": (
            diffusion_with(
                squared=lambda whole, self, path, t: whole(path, t) / (2 if self.memoryless else 1)
            ),
            "memoryless",
        ),
        "offset on one side": (diffusion_with(squared=offset_on_one_side), "offset"),
        "ratio to eta": (diffusion_with(gain_ratio=ratio_to_eta), "eta's ratio"),
        "ratio as without offset": (diffusion_with(gain_ratio=without_offset), "offset's ratio"),
        "eta for the gain": (
            diffusion_with(gain_ratio=lambda whole, self, path, t: whole(path, t) / path.alpha(t)),
            "ratio",
        ),
        "negative squares": (
            edited("torch.isfinite(value) & (value >= 0)", "torch.isfinite(value)"),
            "negative",
        ),
        "guard of the other kind": (
            edited(
                "self.offset and self.memoryless is None", "self.offset and self.constant is None"
            ),
            "must be 0 but for eta-schedules",
        ),
        "start forgotten": (diffusion_with(of_memoryless=without_start), "start"),
    },
}
