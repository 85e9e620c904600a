"""domingo, Gaussian processes: D4 (Girsanov), D5, D6, D12 and D15 in any dimension.

First routes are Riccati and moment equations (`theory.control.linear`); the second writes a path as
one big Gaussian vector and tilts it by dense linear algebra, step sizes extrapolated to 0
(`theory.ledger.oracle.control.linear`). For mixtures D4 compares two integrals.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from theory import Diffusion, GaussianSum, MemorylessOptimum, Problem, quadratic_reward
from theory.common.tolerances import QUADRATURE
from theory.control.linear import LinearQuadratic, of_gaussian
from theory.ledger.core import Array, Identity
from theory.ledger.oracle.control import limits as dense
from theory.ledger.settings.linear import LinearProblems, LinearSetting
from theory.ledger.settings.problems import Problems, Setting

LINEAR = LinearProblems()
# A tilt's KL on the line, by integrals over time and space.
LINE = Problems(max_condition=100.0)
DIMS = (1, 2)


def _flat(moments: tuple[Array, Array]) -> Array:
    return np.concatenate([moments[0], moments[1].ravel()])


def _share(problem: LinearQuadratic, t: float, share: float) -> tuple[Array, Array]:
    P, p, _ = problem.coefficients(t)
    return share * P, share * p


# --- D4: KL of path measures


def _energy_under_base(s: LinearSetting) -> float:
    """int E|u|^2/2 along the uncontrolled process: the KL the other way round."""
    problem = s.problem
    return replace(
        problem,
        matrix=lambda t: problem.matrix(t) + problem.noise(t) ** 2 * s.feedback(t)[0],
        shift=lambda t: problem.shift(t) + problem.noise(t) ** 2 * s.feedback(t)[1],
    ).control_energy(s.feedback)


GIRSANOV = Identity(
    "KL of path measures = E int |u|²/2 dt, linear SDEs, any linear u",
    LINEAR,
    lambda s: np.array(s.problem.control_energy(s.feedback)),
    lambda s: dense.path_kl(s.numbers(True), s.numbers()),
    {
        "without 1/2": lambda s: np.array(2 * s.problem.control_energy(s.feedback)),
        "expectation under the base process": lambda s: np.array(_energy_under_base(s)),
    },
    tier=QUADRATURE,
    dims=DIMS,
)


def _energies(s: Setting) -> tuple[float, float]:
    """int E|u*|^2/2 dt under X_t's law of the target and of the base: |u*|^2/2 = eta |grad V|^2."""
    problem, path = s.problem, s.problem.path
    optimum = MemorylessOptimum(problem, s.a)
    target = optimum.target.law
    assert target is not None
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = np.zeros(2)
    for t, w in zip(0.5 * (nodes + 1), 0.5 * weights, strict=True):
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = path.alpha(time), path.sigma(time)
        for i, law in enumerate((target, problem.base)):
            heavy = law.log_abs > law.log_abs.max() - 40
            std = (alpha**2 * law.cov[heavy, 0, 0] + sigma**2).sqrt()
            middle = alpha * law.mean[heavy, 0]
            low, high = float((middle - 9 * std).min()), float((middle + 9 * std).max())
            count = int((high - low) / float(std.min()) * 12) + 2
            x = torch.linspace(low, high, count, dtype=torch.float64)[:, None]
            rate = path.eta(time) * (optimum.gradient(x, float(t)) ** 2).sum(-1)
            log_p = law.noised(x, alpha, sigma).log_abs
            total[i] += w * float(torch.trapezoid(rate * log_p.exp(), x[:, 0]))
    return float(total[0]), float(total[1])


GIRSANOV_OPTIMAL = Identity(
    "at u*, memoryless: E int |u*|²/2 dt = KL(base exp(a r)/Z | base), mixtures",
    LINE,
    lambda s: np.array(_energies(s)[0]),
    lambda s: dense.tilt_kl(s.case, s.a),
    {
        "without 1/2": lambda s: np.array(2 * _energies(s)[0]),
        "expectation under the base process": lambda s: np.array(_energies(s)[1]),
    },
    lambda s: (s.a * s.spread) ** 2,
    tier=QUADRATURE,
    dims=(1,),
)
D4_PARTS = (GIRSANOV, GIRSANOV_OPTIMAL)


# --- D5: the optimal path measure


def _start_tilted(s: LinearSetting) -> tuple[Array, Array]:
    """(X_0, X_1) from X_0 ~ N(m, S) exp(-V(x, 0)): a tilt with one Z for all X_0."""
    problem = s.problem
    P, p, _ = problem.coefficients(0.0)
    precision = np.linalg.inv(problem.cov)
    cov = np.linalg.inv(precision + P)
    mean = cov @ (precision @ problem.mean - p)
    return replace(problem, mean=mean, cov=0.5 * (cov + cov.T)).law()


TILTED_PATHS = Identity(
    "(X_0, X_1) under u* is that of P exp(-int f - c)/Z(X_0)",
    LINEAR,
    lambda s: _flat(s.problem.law()),
    lambda s: dense.tilted_moments(s.numbers()),
    {
        "base process": lambda s: _flat(s.problem.steered(lambda t: _share(s.problem, t, 0.0))),
        "half of u*": lambda s: _flat(s.problem.steered(lambda t: _share(s.problem, t, 0.5))),
        "X_0 tilted too": lambda s: _flat(_start_tilted(s)),
    },
    tier=QUADRATURE,
    dims=DIMS,
)


def _from_x(s: LinearSetting) -> LinearQuadratic:
    """The problem from X_0 = x."""
    return replace(s.problem, mean=s.x, cov=0 * s.cov)


def _quiet(s: LinearSetting) -> LinearQuadratic:
    return replace(s.problem, running_matrix=0 * s.F, running_vector=0 * s.f)


NORMALISER = Identity(
    "Z(x_0) = exp(-V(x_0, 0))",
    LINEAR,
    lambda s: s.problem.value(s.x[None], 0.0),
    lambda s: dense.normaliser_value(s.numbers(), s.x),
    {
        "V of f = 0": lambda s: _quiet(s).value(s.x[None], 0.0),
        "V at t = 0.01": lambda s: s.problem.value(s.x[None], 0.01),
        "cost of the mean path": lambda s: np.array(
            _from_x(s).cost(lambda t: _share(s.problem, t, 0.0))
        ),
    },
    tier=QUADRATURE,
    dims=DIMS,
)
D5_LINEAR = (TILTED_PATHS, NORMALISER)


# --- D6: fine-tuning one Gaussian


def _gaussian_problem(s: LinearSetting) -> Problem:
    """The setting's N(mean, cov) as a base, -Q and -q as the reward."""
    base = GaussianSum.mixture([1.0], s.mean[None].tolist(), covs=s.cov[None].tolist())
    return Problem("one Gaussian", base, quadratic_reward((-s.Q).tolist(), (-s.q).tolist()), 1.0)


def _fine_tuned(s: LinearSetting, schedule: Diffusion) -> Array:
    """Mean and covariance of X_1 under the optimum."""
    mean, cov = of_gaussian(_gaussian_problem(s), 1.0, schedule).law()
    return _flat((mean[s.dim :], cov[s.dim :, s.dim :]))


def _tilt(s: LinearSetting) -> Array:
    law = MemorylessOptimum(_gaussian_problem(s), 1.0).target.law
    assert law is not None
    return _flat((law.mean[0].numpy(), law.cov[0].numpy()))


START = 3e-4  # of the memoryless schedule; what is wrong there is forgotten like its square

MEMORYLESS = Identity(
    "the memoryless optimum samples base exp(-c)/Z, Gaussians",
    LINEAR,
    lambda s: _fine_tuned(s, Diffusion.of_memoryless(1.0, START)),
    lambda s: dense.gaussian_tilt(s.mean, s.cov, s.Q, s.q),
    {
        "g = 1": lambda s: _fine_tuned(s, Diffusion.of_constant(1.0)),
        "g = 0.2": lambda s: _fine_tuned(s, Diffusion.of_constant(0.2)),
    },
    tier=QUADRATURE,
    dims=DIMS,
    share=0.4,
)
WITH_MEMORY = Identity(
    "at a constant g it samples base exp(-c) E[exp V(X_0, 0) | X_1], Gaussians",
    LINEAR,
    lambda s: _fine_tuned(s, Diffusion.of_constant(s.g0)),
    lambda s: dense.gaussian_with_memory(s.mean, s.cov, s.Q, s.q, s.g0),
    {"the tilt": _tilt, "2 g": lambda s: _fine_tuned(s, Diffusion.of_constant(2 * s.g0))},
    tier=QUADRATURE,
    dims=DIMS,
    share=0.4,
)
D6_LINEAR = (MEMORYLESS, WITH_MEMORY)


# --- D15


LEAST_COST = Identity(
    "J(u*) = V(x_0, 0): control, running and final costs by moments",
    LINEAR,
    lambda s: np.array(_from_x(s).cost(lambda t: _share(s.problem, t, 1.0))),
    lambda s: dense.normaliser_value(s.numbers(), s.x),
    {
        "J(u*/2)": lambda s: np.array(_from_x(s).cost(lambda t: _share(s.problem, t, 0.5))),
        "J without its KL term": lambda s: np.array(
            _from_x(s).cost(lambda t: _share(s.problem, t, 1.0))
            - _from_x(s).control_energy(lambda t: _share(s.problem, t, 1.0))
        ),
    },
    tier=QUADRATURE,
    dims=DIMS,
)


EXCESS = Identity(
    "J(u) - E V(X_0, 0) = KL(P^u | P exp(-int f - c)/Z(X_0)), any linear u",
    LINEAR,
    lambda s: np.array(s.problem.cost(s.feedback) - s.problem.expected_value()),
    lambda s: dense.kl_to_tilted(s.numbers(True), s.numbers()),
    {
        "V at the mean of X_0": lambda s: np.array(
            s.problem.cost(s.feedback) - s.problem.value(s.mean[None], 0.0)[0]
        ),
        "KL to the base": lambda s: np.array(s.problem.control_energy(s.feedback)),
    },
    tier=QUADRATURE,
    dims=DIMS,
)
FIXED_POINT = Identity(
    "u* = -g E[a(t; X^u*) | X_t], linear-quadratic",
    LINEAR,
    lambda s: s.problem.control(s.x[None], s.t)[0],
    lambda s: dense.mean_adjoint_control(s.numbers(), s.x, s.t),
    {
        "sign": lambda s: -s.problem.control(s.x[None], s.t)[0],
        "without g": lambda s: -s.problem.gradient(s.x[None], s.t)[0],
        "f = 0": lambda s: _quiet(s).control(s.x[None], s.t)[0],
    },
    tier=QUADRATURE,
    dims=DIMS,
)
D15_PARTS = (LEAST_COST, EXCESS, FIXED_POINT)


# --- D12


def _gradient(problem: LinearQuadratic, s: LinearSetting) -> Array:
    return problem.gradient(s.x[None], s.t)[0]


LEAN_MEAN = Identity(
    "E[lean adjoint | X_t] = grad V at u*, as the full adjoint's, linear-quadratic",
    LINEAR,
    lambda s: _gradient(s.problem, s),
    lambda s: dense.mean_lean_adjoint(s.numbers(), s.x, s.t),
    {
        "along the base process": lambda s: _gradient(replace(s.problem, noise=lambda t: 1e-6), s),
        "sign": lambda s: -_gradient(s.problem, s),
        "of f = 0": lambda s: _gradient(_quiet(s), s),
    },
    tier=QUADRATURE,
    dims=DIMS,
)
