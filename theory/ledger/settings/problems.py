"""Where identities are tried: random problems with a point, a time and a method's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from theory.fields.paths import PATHS, Path
from theory.laws.distances import Array
from theory.ledger.oracle.conditional import Instant
from theory.ledger.oracle.instants import instant
from theory.ledger.settings.domain import AnySetting, Domain
from theory.ledger.settings.plane import PlaneProblem
from theory.ledger.settings.random import (
    KINDS,
    MAX_CONDITION,
    MAX_EXPONENT,
    SPREADS,
    Shape,
    most_components,
    random_case,
    random_point,
)
from theory.problems.problem import Problem
from theory.tilts.moments import reward_moments

TIMES = (0.03, 0.97)  # 1e-2 from the ends: quadrature in x is differentiated there
BETAS = (0.2, 5.0)
# In the plane thin ridges that cross are where quadrature loses digits first: at condition 6e3 the
# search found it 9e-9 off where a dense linear solve sided with the closed form to 1e-13.
PLANE_CONDITION = 1e3
REACH = 3.5  # points of X_t lie within so many standard deviations


@dataclass(frozen=True, eq=False)
class Setting(AnySetting):
    """A problem, a point x (d,) of X_t, and parameters: NFT's beta, an inverse temperature a."""

    case: PlaneProblem
    x: Array
    t: float
    nft_beta: float
    a: float
    path: str = "rectified_flow"

    @property
    def dim(self) -> int:
        return self.case.dim

    @cached_property
    def problem(self) -> Problem:
        return replace(self.case.problem(), path=self.route_path)

    @cached_property
    def route_path(self) -> Path:
        return PATHS[self.path]()

    @cached_property
    def spread(self) -> float:
        """Standard deviation of r: sizes the comparison only."""
        return reward_moments(self.problem.base, self.problem.moments)[1]

    @property
    def at(self) -> Instant:
        """The path's coefficients at t, by the second route."""
        return instant(self.path, self.t)

    @property
    def point(self) -> Tensor:
        return torch.as_tensor(self.x)[None, :]

    @property
    def time(self) -> Tensor:
        return torch.tensor(self.t, dtype=torch.float64)

    def describe(self) -> str:
        case = self.case
        x = ", ".join(f"{v:.3g}" for v in self.x[:3]) + (", ..." if self.dim > 3 else "")
        path = "" if self.path == "rectified_flow" else f", {self.path.replace('_', ' ')}"
        return (
            f"d = {self.dim}, {len(case.weights)} Gaussians (condition {case.condition:.2g}), "
            f"{case.kind} reward of spread {self.spread:.2g}, t = {self.t:.3g}, x = ({x}), "
            f"nft_beta = {self.nft_beta:.3g}, a = {self.a:.3g}{path}"
        )


@dataclass(frozen=True)
class Problems(Domain[Setting]):
    """Random problems (theory.ledger.settings.random) with a point of X_t, a time and parameters.

    kinds of reward; bumps are positive, which vhat and 1 + a r need. paths: their names.
    max_condition: of the covariances, below what random problems have where a route asks for it.
    """

    kinds: tuple[str, ...] = KINDS
    paths: tuple[str, ...] = ("rectified_flow",)
    max_condition: float = MAX_CONDITION

    def draw(self, dim: int, seed: int) -> Setting:
        rng = np.random.default_rng([seed, dim])
        condition = math.exp(rng.uniform(0, math.log(self._most_condition(dim))))
        shape = Shape(
            dim=dim,
            components=int(rng.integers(1, most_components(dim, condition) + 1)),
            condition=condition,
            kind=str(rng.choice(self.kinds)),
            spread=math.exp(rng.uniform(*np.log(SPREADS))),
            bumps=int(rng.integers(1, 3)),
        )
        case = random_case(shape, int(rng.integers(2**32)))
        t = float(rng.uniform(*TIMES))
        path = str(rng.choice(self.paths))
        beta = math.exp(rng.uniform(*np.log(BETAS)))
        a = float(rng.uniform(-0.2, 1.0)) * case.scale
        return Setting(case, random_point(case, instant(path, t), rng), t, beta, a, path)

    def nudge(self, setting: Setting, rng: np.random.Generator, step: float) -> Setting | None:
        case = setting.case
        weights = softmax(np.log(case.weights) + step * rng.normal(size=case.weights.shape))
        factors = np.linalg.cholesky(case.covs)
        factors = (np.eye(case.plane_dim) + step * rng.normal(size=factors.shape)) @ factors
        covs = np.asarray(factors @ np.swapaxes(factors, 1, 2))
        values = np.linalg.eigvalsh(covs)
        condition = float((values.max(1) / values.min(1)).max())
        if case.plane_dim == 1:  # drawn between top / condition and top, tops within (0.4, 1.2)^2
            condition = float(values.max() / values.min())
        parameters = {}
        for key, value in case.parameters.items():
            if key in ("heights", "precisions"):
                parameters[key] = value * math.exp(step * rng.normal())
            else:
                moved = value + step * (0.1 + np.abs(value)) * rng.normal(size=np.shape(value))
                parameters[key] = 0.5 * (moved + moved.T) if key == "matrix" else moved
        moved_case = replace(
            case,
            weights=weights,
            covs=0.5 * (covs + np.swapaxes(covs, 1, 2)),
            means=case.means + step * rng.normal(size=case.means.shape),
            parameters=parameters,
            condition=condition,
        )
        logit = math.log(setting.t / (1 - setting.t)) + 2 * step * rng.normal()
        t = min(max(1 / (1 + math.exp(-logit)), TIMES[0]), TIMES[1])
        low, high = math.log(BETAS[0]), math.log(BETAS[1])
        beta = math.exp(min(max(math.log(setting.nft_beta) + step * rng.normal(), low), high))
        new = replace(
            setting,
            case=moved_case,
            x=setting.x + step * rng.normal(size=setting.x.shape),
            t=t,
            nft_beta=beta,
            a=setting.a * math.exp(step * rng.normal()),
        )
        return new if self._allows(new) else None

    def _most_condition(self, dim: int) -> float:
        return self.max_condition if dim == 1 else min(self.max_condition, PLANE_CONDITION)

    def _allows(self, setting: Setting) -> bool:
        """The same domain that `draw` has: condition, spread, tilt, distance of the point."""
        case, a = setting.case, setting.a
        std = np.sqrt(np.linalg.eigvalsh(case.covs))
        allowed = bool(
            case.condition <= self._most_condition(case.dim)
            and np.isfinite(case.means).all()
            and std.max() <= 2.0
            and std.min() >= 0.4 / math.sqrt(MAX_CONDITION)
            and np.abs(case.means).max() <= 6.0
            and SPREADS[0] <= setting.spread <= SPREADS[1]
            and abs(a) * setting.spread <= 1.5
            and _distance(case, setting) <= REACH
        )
        if case.kind == "bumps":
            tilt = a * float(np.abs(case.parameters["heights"]).sum())
            return allowed and -1 <= tilt <= MAX_EXPONENT
        if case.kind == "quadratic":
            bent = a * np.atleast_2d(case.parameters["matrix"])  # of exp(a r), either sign
            return allowed and float(np.linalg.eigvalsh(bent).max()) * std.max() ** 2 <= 0.5
        return allowed


def _distance(case: PlaneProblem, setting: Setting) -> float:
    """Standard deviations from x to the nearest component of X_t's law in the plane."""
    now, e = setting.at, case.plane_dim
    gaps = (case.frame.T @ setting.x)[:e] - now.alpha * case.means
    covs = now.alpha**2 * case.covs + now.sigma**2 * np.eye(e)
    return float(np.sqrt(np.einsum("ki,kij,kj->k", gaps, np.linalg.inv(covs), gaps).min()))


def full_rank_setting(dim: int, seed: int, kinds: Sequence[str] = KINDS) -> Setting:
    """d dimensions without a plane: every direction counts, at times where importance sampling
    still works."""
    rng = np.random.default_rng([seed, 7, dim])
    k, eye = 2, np.eye(dim)
    roots = 0.25 * rng.normal(size=(k, dim, dim)) + np.eye(dim) * rng.uniform(0.5, 0.9, (k, 1, 1))
    covs = roots @ np.swapaxes(roots, 1, 2)
    kind = kinds[seed % len(kinds)]
    matrix = 0.15 * rng.normal(size=(dim, dim))
    options: dict[str, dict[str, Array]] = {
        "linear": {"vector": 0.5 * rng.normal(size=dim), "constant": np.asarray(0.3)},
        "quadratic": {
            "matrix": 0.5 * (matrix + matrix.T),
            "vector": 0.4 * rng.normal(size=dim),
            "constant": np.asarray(0.2),
        },
        "bumps": {
            "heights": np.array([0.9]),
            "centres": 0.4 * rng.normal(size=(1, dim)),
            "precisions": 0.35 * eye[None],
        },
    }
    case = PlaneProblem(
        np.array([0.65, 0.35]),
        0.7 * rng.normal(size=(k, dim)),
        0.5 * (covs + np.swapaxes(covs, 1, 2)),
        kind,
        options[kind],
        0.8,
        eye,
        condition=float(np.linalg.cond(covs).max()),
    )
    t = float(rng.uniform(0.25, 0.5))
    x = random_point(case, instant("rectified_flow", t), rng)
    return Setting(case, x, t, float(rng.uniform(0.5, 2.0)), 0.8)
