r"""What (20) as printed, without the flow of x_t, leaves at its best, at the last step on the line.

(log P(x' | x) - log P#(x' | x) - log R^beta(x'))^2 with P normalised given x. Let M(x) be the mass
int P#(x' | x) R^beta(x') dx' = Ft(x). Over all policies, whatever their class:

    everywhere   the least largest error over x' is |log M|: an error that stays below it in size
                 everywhere gives P another mass than 1
    base data    averaged over P#, the least is positive for M > 1 (solved here), and for M <= 1 it
                 is 0, which is not reached: the missing mass fits where P# hardly ever looks
    own data     averaged over P itself, the least is (log M)^2 for M <= 1, and 0 for M > 1, reached
                 by policies that are P# R^beta on a set of mass 1 and nothing elsewhere

so that P = P# R^beta and 0 for every transition need M = 1 at every x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw, logsumexp

from theory.ledger.oracle.gflownet.line import Factor, Line
from theory.ledger.oracle.integrals import Array


class Least(NamedTuple):
    """At every x (m,): log M, and the least errors over all policies."""

    log_mass: Array
    everywhere: Array
    base_data: Array
    own_data: Array


def least_errors(line: Line, factor: Factor, x: Array) -> Least:
    """Of the last step, from x (m,) at T - 1; factor: the pretrained kernel's log."""
    k, ends = line.n.steps - 1, line.axes[-1]
    shares = np.exp(factor(k, x, ends)) * line.spacing(k + 1)
    wanted = line.log_reward(ends)
    log_mass = np.log(shares @ np.exp(wanted - wanted.max())) + wanted.max()
    base = np.array([least_under_base(p, wanted) for p in shares])
    own = np.where(log_mass <= 0, log_mass**2, 0.0)
    return Least(log_mass, np.abs(log_mass), base, own)


def least_under_base(shares: Array, wanted: Array) -> float:
    """The infimum of sum_j p_j (l_j - wanted_j)^2 over l with sum_j p_j exp(l_j) = 1, of continuous
    laws that p (n,) is a fine table of. With l = wanted - d the stationary points have
    d exp(d) = c exp(wanted), c > 0 where the mass of exp(wanted) is above 1: a convex problem."""
    held = shares > 0
    p, w = shares[held] / shares[held].sum(), wanted[held]
    log_p = np.log(p)
    if logsumexp(w + log_p) <= 0:
        return 0.0

    def drop(log_c: float) -> Array:
        return _log_lambert(log_c + w)

    def excess(log_c: float) -> float:
        return float(logsumexp(w - drop(log_c) + log_p))

    high = 1.0 - float(w.max())
    while excess(high) > 0:
        high += 2.0
    low = high - 2.0
    while excess(low) < 0:
        low -= 2.0
    return float(p @ drop(brentq(excess, low, high, xtol=1e-13)) ** 2)


def _log_lambert(log_z: Array) -> Array:
    """The d > 0 with d exp(d) = exp(log_z), also where that overflows."""
    small = np.minimum(log_z, 500.0)
    found = np.real(lambertw(np.exp(small)))
    for _ in range(3):  # Newton on d + log d = log_z
        big = log_z > 500.0
        found = np.where(big, found - (found + np.log(found) - log_z) / (1 + 1 / found), found)
    return np.asarray(found)
