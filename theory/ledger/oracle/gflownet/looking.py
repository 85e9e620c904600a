r"""What is left of a residual flow's score after looking ahead, by adaptive quadrature.

g_k(x) = grad log Ft_k(x) - power gamma grad_x log R(xhat(x)), where xhat is the mean of the data
(of: "data", E[X_1 | X_k = x]) or of the last state ("last", E[X_T | X_k = x]) under the pretrained
chain; at k = T it is x. Its Jacobian is never written down: log R at the mean of a moved x is
differentiated as it stands.
"""

from __future__ import annotations

import math

import numpy as np

from theory.ledger.oracle.gflownet.flows import places, residual_score, slopes_at, stencilled
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.oracle.gflownet.numbers import FlowNumbers, shifts
from theory.ledger.oracle.integrals import Array, Law, slope, steps

OF = ("data", "last")
_FAINT = 40.0  # e-folds below its peak at which a law is left out


def prediction(n: FlowNumbers, k: int, x: Array, of: str = "data") -> Array:
    """xhat(x) in the plane, (e,)."""
    if k == n.steps:
        return np.asarray(places(n, k, x)[0][1])
    law = _law(n, k, x, of)[0]
    level = law.charts[0].centre
    return np.asarray(level + law.mean(lambda y: y - level).value)


def looking_score(n: FlowNumbers, k: int, x: Array, of: str = "data") -> Array:
    """power grad_x log R(xhat(x)), (d,). Raises ValueError for an R that varies outside the plane
    or an unknown `of`."""
    if math.isfinite(n.reward_std):
        raise ValueError("R must not vary outside the plane")
    e, along = n.case.plane_dim, np.zeros(n.case.dim)
    if k == n.steps:
        along[:e] = slopes_at(n.log_reward, places(n, k, x)[0][1], n.parts[0].width)
    else:
        along[:e] = _gradient(n, k, x, of)
    return np.asarray(n.power * n.case.frame @ along)


def left_over(n: FlowNumbers, k: int, x: Array, gamma: float, of: str = "data") -> Array:
    """g_k(x), (d,)."""
    return residual_score(n, k, x) - gamma * looking_score(n, k, x, of)


def left_share(line: Line, k: int, gamma: float, of: str = "data") -> float:
    """rms of g_k over rms of the score of Ft_k on the line, x by the tuned chain's law F_k: sums
    over tables, 0 < k < T. Raises ValueError for another k or an unknown `of`."""
    if not 0 < k < line.n.steps:
        raise ValueError(f"k must be 1 to {line.n.steps - 1}, got {k}")
    if of not in OF:
        raise ValueError(f"of must be one of {OF}, got {of!r}")
    n, base = line.n, line.n.without_reward()
    rho, tau = n.noising(k) if of == "last" else (float(n.alpha[k]), float(n.sigma[k]))
    x, y = line.axes[k], line.axes[-1]
    density = (n.last if of == "last" else n.case).log_density(y[:, None])
    law = line.log_flow(n, k, x)
    kept = law > law.max() - _FAINT
    x, law = x[kept], np.exp(law[kept] - law.max())
    radius = tau / 4
    flows, ahead = [], []
    for z in (x + s for s in steps(radius)):
        logs = density - 0.5 * ((z[:, None] - rho * y) / tau) ** 2
        shares = np.exp(logs - logs.max(axis=1, keepdims=True))
        flows.append(line.log_flow(n, k, z) - line.log_flow(base, k, z))
        ahead.append(line.log_reward(shares @ y / shares.sum(axis=1)))
    score = slope(np.array(flows), radius)
    left = score - gamma * slope(np.array(ahead), radius)
    return float(np.sqrt((law @ left**2) / (law @ score**2)))


def _law(n: FlowNumbers, k: int, x: Array, of: str) -> tuple[Law, Array, float, float]:
    """What xhat is the mean of, x in the plane, and the kernel's rho and tau."""
    if of not in OF:
        raise ValueError(f"of must be one of {OF}, got {of!r}")
    at = places(n, k, x)[0][1]
    if of == "data":
        rho, tau, density = float(n.alpha[k]), float(n.sigma[k]), n.case.density()
    else:
        (rho, tau), density = n.noising(k), n.last.density()
    return Law(density, None, at, rho, tau), at, rho, tau


def _gradient(n: FlowNumbers, k: int, x: Array, of: str) -> Array:
    law, at, rho, tau = _law(n, k, x, of)
    level = law.charts[0].centre

    radii, _, means = stencilled(law, shifts(at, rho, tau), tau, lambda y: y - level)
    values = [n.log_reward(level + mean) for mean in means]
    return np.array([float(slope(v, r)) for v, r in zip(values, radii, strict=True)])
