"""domingo, D8, D9, D14: the optimal control at points, and the velocity that it leads to."""

from __future__ import annotations

import numpy as np
import torch

from theory.ledger.core import Array, Identity, row
from theory.ledger.domingo.points import ANY_PATH, SMOOTH_PATHS, _optimum, path_size
from theory.ledger.oracle import conditional
from theory.ledger.oracle.control import values as oracle
from theory.ledger.settings.problems import Setting


def control(s: Setting) -> Array:
    """-g grad V by theory."""
    return row(_optimum(s).control(s.point, s.t))


def control_from_velocities(s: Setting, factor: float = 2.0, power: int = -1) -> Array:
    """factor g^power (v* - v) by theory."""
    g = float(torch.sqrt(2 * s.route_path.eta(s.time)))
    gap = _optimum(s).velocity(s.point, s.t) - s.problem.base_field(s.point, s.t)
    return row(factor * g**power * gap)


def control_by_drifts(s: Setting) -> Array:
    """(b* - b)/g of the two generative SDEs, by quadrature: velocities and scores of both laws."""
    g = oracle.memoryless_noise(s.at)

    def phi(r: Array) -> Array:
        return np.asarray(np.exp(s.a * r))

    drifts = [
        conditional.velocity(s.case, s.x, s.at, p)
        + 0.5 * g**2 * conditional.score(s.case, s.x, s.at, p)
        for p in (phi, None)
    ]
    return (drifts[0] - drifts[1]) / g


def _control_size(s: Setting) -> float:
    g = oracle.memoryless_noise(s.at)
    return g * abs(s.a) * s.spread + path_size(s) / g


D9_PARTS = (
    Identity(
        "u* = (2/g)(v_finetuned - v_base), g² = 2 eta",
        SMOOTH_PATHS,
        control_from_velocities,
        lambda s: -oracle.memoryless_noise(s.at) * oracle.value_gradient(s.case, s.x, s.at, s.a),
        {
            "1/g": lambda s: control_from_velocities(s, 1.0),
            "2 g": lambda s: control_from_velocities(s, 2.0, 1),
            "sign": lambda s: control_from_velocities(s, -2.0),
            "2/g²": lambda s: control_from_velocities(s, 2.0, -2),
        },
        _control_size,
    ),
)


def terminal_control(s: Setting, factor: float = 1.0) -> Array:
    """u*/g at t = 1, -grad V(x, 1), by theory's field at t = 1 itself."""
    return row(-factor * _optimum(s).gradient(s.point, 1.0))


def terminal_gradient(s: Setting) -> Array:
    """-grad c = a grad r by central differences of order 8 of the plain numpy reward."""
    weights = np.array([4 / 5, -1 / 5, 4 / 105, -1 / 280])
    frame, e = s.case.frame, s.case.plane_dim
    plane = (frame.T @ s.x)[:e]
    h = 4e-3
    slopes = np.zeros(e)
    for i in range(e):
        for k, w in enumerate(weights, start=1):
            move = np.zeros(e)
            move[i] = k * h
            pair = s.case.reward(np.stack([plane + move, plane - move]))
            slopes[i] += w * (pair[0] - pair[1]) / h
    return s.a * frame[:, :e] @ slopes


D14_POINTS = (
    Identity(
        "u* = (b* - b)/g is -g grad V",
        SMOOTH_PATHS,
        control,
        control_by_drifts,
        {
            "g² grad V": lambda s: oracle.memoryless_noise(s.at) * control(s),
            "sign": lambda s: -control(s),
            "grad V": lambda s: control(s) / oracle.memoryless_noise(s.at),
        },
        _control_size,
    ),
    Identity(
        "u*(x, t)/g(t) at t = 1 is -grad c(x)",
        ANY_PATH,
        terminal_control,
        terminal_gradient,
        {
            "sign": lambda s: terminal_control(s, -1.0),
            "half": lambda s: terminal_control(s, 0.5),
            "at t = 0.9": lambda s: row(-_optimum(s).gradient(s.point, 0.9)),
        },
        lambda s: abs(s.a) * s.spread,
    ),
)


def finetuned_velocity(s: Setting, factor: float = 0.5) -> Array:
    """v + factor g u*, by theory."""
    g = torch.sqrt(2 * s.route_path.eta(s.time))
    return row(s.problem.base_field(s.point, s.t) + factor * g * _optimum(s).control(s.point, s.t))


D8_POINTS = (
    Identity(
        "v_base + (g/2) u* is the velocity of base exp(a r)/Z (g² = 2 eta)",
        SMOOTH_PATHS,
        finetuned_velocity,
        lambda s: conditional.velocity(s.case, s.x, s.at, lambda r: np.exp(s.a * r)),
        {
            "v + g u": lambda s: finetuned_velocity(s, 1.0),
            "v - (g/2) u": lambda s: finetuned_velocity(s, -0.5),
            "v alone": lambda s: finetuned_velocity(s, 0.0),
        },
        path_size,
    ),
)
