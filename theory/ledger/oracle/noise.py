r"""What an SDE of any noise makes of NFT's optimum for N(0, 1) and r = -x^2/2: its variance.

With S = t^2 + (1-t)^2 the score of X_t is -x/S and m_t(x) = -t^2 x^2/(2 S^2) + const, so that at
lambda = 2/nft_beta the optimum's velocity and the score that it implies are a x and s x,

    a = (2t - 1)/S - lambda t (1-t)/S^2,    s = -1/S - lambda t^2/S^2,

and V = Var X_t of dX = (a + g^2/2 s) X dt + g dB solves V' = 2 (a + g^2/2 s) V + g^2, V(0) = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.integrate import solve_ivp
from scipy.special import ndtr

RTOL, ATOL = 1e-12, 1e-14


def bowl_variance(
    scale: float, squared: Callable[[float], float], start: float = 0.0, implied: bool = True
) -> float:
    """Var X_1 for g^2(t) = squared(t) from t = start on, where the law is N(0, 1); implied: with
    the score that the velocity implies, else with that of the base's path.

    Raises RuntimeError if the solver gives up."""

    def rate(t: float, v: float) -> float:
        size, g2 = t**2 + (1 - t) ** 2, squared(t)
        a = (2 * t - 1) / size - scale * t * (1 - t) / size**2
        s = -1 / size - (scale if implied else 0.0) * t**2 / size**2
        return 2 * (a + 0.5 * g2 * s) * v + g2

    done = solve_ivp(rate, (start, 1.0), [1.0], method="LSODA", rtol=RTOL, atol=ATOL)
    if not done.success:
        raise RuntimeError(f"the variance could not be followed: {done.message}")
    return float(done.y[0, -1])


def variation_of_gaussians(one: float, other: float) -> float:
    """TV of N(0, one) and N(0, other), by the place where their densities cross."""
    low, high = sorted((one, other))
    if low == high:
        return 0.0
    cross = math.sqrt(math.log(high / low) / (1 / low - 1 / high))
    return float(2 * (ndtr(cross / math.sqrt(low)) - ndtr(cross / math.sqrt(high))))
