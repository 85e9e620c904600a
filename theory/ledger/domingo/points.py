"""domingo, identities at one point and time: D1, D2, D3, D8, D9, D14.

First routes are theory's closed forms (`theory.fields.mixture`, `theory.control.value`); second
routes are integrals and their numerical derivatives (`theory.ledger.oracle.control.values`).
nft_beta of a setting, a positive number that these rows have no other use for, is the diffusion
coefficient g of D2.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from theory.control.value import MemorylessOptimum
from theory.fields.paths import PATHS
from theory.ledger.core import Array, Identity, row
from theory.ledger.oracle import conditional
from theory.ledger.oracle.control import values as oracle
from theory.ledger.settings.problems import Problems, Setting

ANY_PATH = Problems(paths=tuple(PATHS))
# sigma of the exploding path falls by 7 powers of 1 - t: second derivatives in x lose their digits.
SMOOTH_PATHS = Problems(paths=("rectified_flow", "trigonometric", "variance_preserving"))


def path_size(s: Setting) -> float:
    """Velocities are compared in |alpha'| + |sigma'| standard deviations."""
    return abs(s.at.dalpha) + abs(s.at.dsigma)


# --- D1: v = (alpha'/alpha) x + eta s


def velocity_from_score(s: Setting, eta_factor: float = 1.0, without_growth: bool = False) -> Array:
    """(alpha'/alpha) x + eta s by theory's score."""
    path, t = s.route_path, s.time
    growth = path.dalpha(t) / path.alpha(t)
    score = s.problem.base_field.score(s.point, s.t)
    return row((0.0 if without_growth else growth) * s.point + eta_factor * path.eta(t) * score)


def _velocity_size(s: Setting) -> float:
    return max(path_size(s), abs(s.at.dalpha / s.at.alpha) * float(np.abs(s.x).max()))


D1_PARTS = (
    Identity(
        "v = (alpha'/alpha) x + eta s",
        ANY_PATH,
        velocity_from_score,
        lambda s: conditional.velocity(s.case, s.x, s.at),
        {
            "eta's sign": lambda s: velocity_from_score(s, -1.0),
            "2 eta": lambda s: velocity_from_score(s, 2.0),
            "without (alpha'/alpha) x": lambda s: velocity_from_score(s, without_growth=True),
            "sigma^2 for eta": lambda s: velocity_from_score(
                s, float(s.at.sigma**2 / s.route_path.eta(s.time))
            ),
        },
        _velocity_size,
    ),
)


# --- D2: the SDE with any g keeps the marginals


def _base_terms(s: Setting) -> tuple[torch.Tensor, float, torch.Tensor, float]:
    """v, div v, score, lap log p by theory."""
    field = s.problem.base_field
    velocity, divergence = field.with_divergence(s.point, s.t)
    post = field.posterior(s.point, s.t)
    return velocity, float(divergence[0]), post.score, float(post.combine_divergence(0.0, -1.0)[0])


def density_rate(
    s: Setting, drift_factor: float = 1.0, noise_factor: float = 1.0, g_of: float | None = None
) -> Array:
    """d log p/dt that dX = (v + (g^2/2 eta)(v - (alpha'/alpha) x)) dt + g dB gives p, by the
    Fokker-Planck equation: (-div(b p) + (g^2/2) lap p)/p."""
    path, t = s.route_path, s.time
    velocity, divergence, score, bend = _base_terms(s)
    g = s.nft_beta if g_of is None else g_of
    eta, growth = float(path.eta(t)), float(path.dalpha(t) / path.alpha(t))
    half = 0.5 * g**2 * drift_factor
    drift = velocity + half / eta * (velocity - growth * s.point)
    drift_divergence = divergence + half / eta * (divergence - growth * s.dim)
    spread = 0.5 * g**2 * noise_factor * (bend + float((score**2).sum()))
    return np.array(-drift_divergence - float((drift * score).sum()) + spread)


def _rate_size(s: Setting) -> float:
    velocity, divergence, score, bend = _base_terms(s)
    squares = float((score**2).sum())
    flux = abs(divergence) + float(velocity.norm()) * math.sqrt(squares)
    return flux + 0.5 * s.nft_beta**2 * (abs(bend) + squares)


D2_PARTS = (
    Identity(
        "Fokker-Planck: the SDE with any g gives p_t its own rate of change",
        SMOOTH_PATHS,
        density_rate,
        lambda s: np.array(oracle.log_density_rates(s.case, s.x, s.path, s.t).rate),
        {
            "drift with g² for g²/2": lambda s: density_rate(s, 2.0),
            "drift without g": lambda s: density_rate(s, 0.0),
            "noise alone doubled": lambda s: density_rate(s, 1.0, 2.0),
            "score turned over": lambda s: density_rate(s, -1.0),
        },
        _rate_size,
    ),
)


# --- D3: the value function and its equation


def _optimum(s: Setting) -> MemorylessOptimum:
    return MemorylessOptimum(s.problem, s.a)


def value(s: Setting) -> Array:
    return _optimum(s).value(s.point, s.t).numpy()[0]


def _laplacian(s: Setting) -> float:
    """lap V by automatic differentiation of theory's gradient."""
    point = s.point.clone().requires_grad_(True)
    gradient = _optimum(s).gradient(point, s.t)
    total = 0.0
    for i in range(s.dim):
        (row,) = torch.autograd.grad(gradient[0, i], point, retain_graph=True)
        total += float(row[0, i])
    return total


def _hjb_terms(s: Setting) -> tuple[float, float, float, float]:
    """b . grad V, g^2/2, lap V, |grad V|^2 by theory, g^2 = 2 eta."""
    path, t = s.route_path, s.time
    field, half = s.problem.base_field, float(path.eta(t))
    drift = field(s.point, s.t) + half * field.score(s.point, s.t)
    slope = _optimum(s).gradient(s.point, s.t)
    return float((drift * slope).sum()), half, _laplacian(s), float((slope**2).sum())


def minus_value_rate(s: Setting, square: float = 1.0, bend: float = 1.0) -> Array:
    """b . grad V + (g^2/2)(lap V - |grad V|^2), which the equation says is -V_t."""
    along, half, lap, squares = _hjb_terms(s)
    return np.array(along + half * (bend * lap - square * squares))


def minus_value_rate_of_ode(s: Setting) -> Array:
    slope = _optimum(s).gradient(s.point, s.t)
    _, half, lap, squares = _hjb_terms(s)
    along = float((s.problem.base_field(s.point, s.t) * slope).sum())
    return np.array(along + half * (lap - squares))


def _hjb_size(s: Setting) -> float:
    along, half, lap, squares = _hjb_terms(s)
    return abs(along) + half * (abs(lap) + squares) + abs(s.a) * s.spread


D3_POINTS = (
    Identity(
        "V = -log E[exp(a r) | X_t = x] (f = 0, g² = 2 eta)",
        ANY_PATH,
        value,
        lambda s: np.array(oracle.value(s.case, s.x, s.at, s.a)),
        {
            "sign": lambda s: -value(s),
            "mean of the reward (Jensen)": lambda s: np.array(
                -s.a * float(s.problem.conditional_reward.mean(s.point, s.t)[0])
            ),
            "of the target's law without its normaliser": lambda s: (
                value(s) + float(_optimum(s).target.log_z)
            ),
        },
        lambda s: abs(s.a) * s.spread,
    ),
    Identity(
        "V_t + b . grad V + (g²/2) lap V - (g²/2)|grad V|² = 0 (g² = 2 eta)",
        SMOOTH_PATHS,
        minus_value_rate,
        lambda s: np.array(-oracle.value_rates(s.case, s.x, s.path, s.t, s.a).rate),
        {
            "without (g²/2)|grad V|²": lambda s: minus_value_rate(s, square=0.0),
            "g²|grad V|²": lambda s: minus_value_rate(s, square=2.0),
            "g² lap V": lambda s: minus_value_rate(s, bend=2.0),
            "the ODE's drift": minus_value_rate_of_ode,
        },
        _hjb_size,
    ),
)
