"""Closed forms against quadrature: one problem, one (x, t), every quantity by both routes.

The first route is `Problem`'s fields. The second is the oracle on densities and rewards that are
written out again here in plain numpy and scipy; nothing is shared but the problem's numbers.
A problem in d > 2 must vary in a plane only: rotated, with an independent Gaussian in the rest.

Errors are relative to the size of the quantity, or to the problem's own: 1 (a standard deviation)
for positions and velocities, spread(r)^n for cumulants with n copies of r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from theory import (
    ClippedExponential,
    Exponential,
    GaussianSum,
    Power,
    Problem,
    Reward,
    TruncatedExponential,
    Wrapper,
    bumps_reward,
    linear_reward,
    quadratic_reward,
)
from theory.common.tolerances import QUADRATURE_TIGHT
from theory.laws.distances import Array
from theory.ledger import oracle
from theory.ledger.oracle.integrals.plane import PlaneNumbers, RewardFunction

MAX_ORDER = 4
CLIP = 1.5


@dataclass(frozen=True)
class PlaneProblem(PlaneNumbers):
    """The same numbers as a Problem in R^d (first route)."""

    def problem(self) -> Problem:
        """The same as a Problem in R^d (first route)."""
        plane, rest = np.split(self.frame, [self.plane_dim], axis=1)
        covs = plane @ self.covs @ plane.T + self.rest_std**2 * rest @ rest.T
        base = GaussianSum.mixture(
            torch.as_tensor(self.weights),
            torch.as_tensor(self.means @ plane.T),
            covs=torch.as_tensor(0.5 * (covs + np.swapaxes(covs, 1, 2))),
        )
        return Problem(f"{self.kind}, d = {self.dim}", base, self._reward(plane), self.scale)

    def _reward(self, plane: Array) -> Reward:
        p = self.parameters
        if self.kind == "linear":
            return linear_reward(torch.as_tensor(plane @ p["vector"]), float(p["constant"]))
        if self.kind == "quadratic":
            matrix = plane @ p["matrix"] @ plane.T
            return quadratic_reward(
                torch.as_tensor(0.5 * (matrix + matrix.T)),
                torch.as_tensor(plane @ p["vector"]),
                float(p["constant"]),
            )
        precisions = plane @ p["precisions"] @ plane.T
        return bumps_reward(
            torch.as_tensor(p["heights"]),
            torch.as_tensor(p["centres"] @ plane.T),
            precisions=torch.as_tensor(0.5 * (precisions + np.swapaxes(precisions, 1, 2))),
        )


def _kinks(case: PlaneProblem) -> list[Array]:
    """Where the clipped exponential of a linear reward on the line has its kink."""
    if case.kind != "linear" or case.plane_dim != 1:
        return []
    at = math.log(CLIP) / case.scale - float(case.parameters["constant"])
    return [at / case.parameters["vector"]]


def wrappers_for(case: PlaneProblem) -> list[Wrapper]:
    """Every wrapper that is defined for this kind of reward in closed form."""
    a = case.scale
    found: list[Wrapper] = [Exponential(a), TruncatedExponential(a, 2), Power(2)]
    if case.kind == "bumps" and (case.parameters["heights"] > 0).all():
        found += [TruncatedExponential(a, 1), TruncatedExponential(a, 3), Power(1)]
    if case.kind == "linear" and case.plane_dim == 1:  # in the plane its kink is a line
        found.append(ClippedExponential(a, CLIP))
    return found


def plain(wrapper: Wrapper) -> RewardFunction:
    """Phi on numpy reward values, written out again."""
    if isinstance(wrapper, Exponential):
        return lambda r: np.exp(float(wrapper.scale) * r)
    if isinstance(wrapper, ClippedExponential):
        return lambda r: np.minimum(np.exp(wrapper.scale * r), wrapper.max_weight)
    if isinstance(wrapper, Power):
        return lambda r: np.asarray(r**wrapper.exponent)
    assert isinstance(wrapper, TruncatedExponential)
    a, order = float(wrapper.scale), wrapper.order
    return lambda r: np.asarray(
        sum((a * r) ** j / math.factorial(j) for j in range(order + 1)), dtype=float
    )


def disagreement(case: PlaneProblem, x: Array, t: float) -> dict[str, float]:
    """Errors of every quantity at X_t = x (d,), t in [0, 1): {name: relative error}.

    Rectified-flow path. Raises the oracle's QuadratureError where the second route gives up.
    """
    problem, e, wrappers = case.problem(), case.plane_dim, wrappers_for(case)
    at = case.frame.T @ x
    spread, (mean, covariance, reward, cumulants), tilts = _by_quadrature(
        case, case.density(*_kinks(case)), at[:e], t, wrappers
    )
    rest = _rest_velocity(case, at[e:], t)
    point = torch.as_tensor(x)[None, :]
    fields = problem.conditional_reward
    errors: dict[str, float] = {}

    def vector(name: str, ours: torch.Tensor, plane: Array, other: Array, scale: float) -> None:
        theirs = case.frame @ np.concatenate([plane, other])
        size = max(scale, float(np.abs(theirs).max()))
        errors[name] = QUADRATURE_TIGHT.error(ours[0].numpy(), theirs, size)

    def number(name: str, ours: torch.Tensor, theirs: float, scale: float) -> None:
        errors[name] = QUADRATURE_TIGHT.error(float(ours), theirs, scale)

    zero = np.zeros(case.dim - e)
    base_velocity = (mean - at[:e]) / (1 - t)
    vector("velocity of the base", problem.base_field(point, t), base_velocity, rest, 1.0)
    score = (t * mean - at[:e]) / (1 - t) ** 2
    rest_score = (t * (at[e:] + (1 - t) * rest) - at[e:]) / (1 - t) ** 2
    vector("score", problem.base_field.score(point, t), score, rest_score, 1 / (1 - t))
    number("m_t", fields.mean(point, t), reward, spread)
    errors["posterior covariance"] = QUADRATURE_TIGHT.error(
        case.frame[:, :e].T
        @ (problem.base_field.posterior_covariance(point, t)[0].numpy() @ case.frame[:, :e]),
        covariance,
        float(np.trace(covariance)),
    )
    for n in range(1, MAX_ORDER + 1):
        kappa = cumulants[n] / (1 - t)
        vector(f"cumulant {n}", fields.mixed_cumulant(n, point, t), kappa, zero, spread**n)
    for name, field, factor in (
        ("NFT v*, nft_beta = 0.7", problem.nft_field(0.7), 2 / 0.7),
        ("NFT v*+", problem.nft_perturbation(1), 2.0),
        ("NFT v*-", problem.nft_perturbation(-1), -2.0),
    ):
        size = 1.0 + abs(factor) * spread
        vector(name, field(point, t), base_velocity + factor * cumulants[1] / (1 - t), rest, size)
    for wrapper, (log_z, tilted_mean) in zip(wrappers, tilts, strict=True):
        number(f"log Z of {type(wrapper).__name__}", problem.tilt(wrapper).log_z, log_z, 1.0)
        velocity = (tilted_mean - at[:e]) / (1 - t)
        tilted = problem.tilted_field(wrapper)(point, t)
        vector(f"velocity of {type(wrapper).__name__}", tilted, velocity, rest, 1.0)
    return errors


def _by_quadrature(
    case: PlaneProblem, law: oracle.Density, at: Array, t: float, wrappers: list[Wrapper]
) -> tuple[float, tuple[Array, Array, float, list[Array]], list[tuple[float, Array]]]:
    """The spread of r; mean, covariance, E[r | x] and cumulants of X_1 with 0 to MAX_ORDER copies
    of r, given x; and (log Z, posterior mean) of every tilt."""
    e, phis = case.plane_dim, [plain(w) for w in wrappers]

    def first(y: Array) -> Array:
        r = case.reward(y)
        columns = [y, r[:, None]]
        for phi in phis:
            columns += [phi(r)[:, None], phi(r)[:, None] * y]
        return np.concatenate(columns, axis=1)

    got = oracle.posterior_expectation(law, first, at, t, 1 - t).value
    mean, reward = got[:e], float(got[e])
    means = [
        got[e + 2 + k * (e + 1) : e + 2 + k * (e + 1) + e] / got[e + 1 + k * (e + 1)]
        for k in range(len(phis))
    ]

    def second(y: Array) -> Array:
        offset, gap = y - mean, case.reward(y) - reward
        powers = np.stack([gap**n for n in range(MAX_ORDER + 1)], axis=1)
        with_offset = offset[:, :, None] * powers[:, None, :]
        square = offset[:, :, None] * offset[:, None, :]
        return np.concatenate(
            [powers, with_offset.reshape(len(y), -1), square.reshape(len(y), -1)], axis=1
        )

    got = oracle.posterior_expectation(law, second, at, t, 1 - t).value
    r = got[: MAX_ORDER + 1]
    xr = got[MAX_ORDER + 1 :][: e * (MAX_ORDER + 1)].reshape(e, MAX_ORDER + 1)
    covariance = got[(MAX_ORDER + 1) * (e + 1) :].reshape(e, e)
    # Joint cumulants from central moments (Leonov and Shiryaev), X_1 once and r n times.
    cumulants = [mean, xr[:, 1], xr[:, 2], xr[:, 3] - 3 * xr[:, 1] * r[2]]
    cumulants.append(xr[:, 4] - 6 * xr[:, 2] * r[2] - 4 * xr[:, 1] * r[3])

    def unconditional(y: Array) -> Array:
        value = case.reward(y)
        return np.stack([value, value**2, *(phi(value) for phi in phis)], axis=1)

    total = oracle.expectation(law, unconditional).value
    spread = math.sqrt(max(total[1] - total[0] ** 2, 0.0))
    tilts = list(zip([math.log(z) for z in total[2:]], means, strict=True))
    return spread, (mean, covariance, reward, cumulants), tilts


def _rest_velocity(case: PlaneProblem, at: Array, t: float) -> Array:
    """The base's velocity along the independent directions, one at a time."""
    s = case.rest_std
    law = oracle.Density(
        lambda y: -0.5 * (y[:, 0] / s) ** 2,
        oracle.Region(np.array([-12 * s]), np.array([12 * s]), np.zeros((1, 1))),
    )
    rows = [oracle.velocity(law, np.array([place]), t, 1 - t, 1.0, -1.0).value for place in at]
    return np.concatenate(rows) if rows else np.zeros(0)
