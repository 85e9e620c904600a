r"""The base reweighted by a fitted ratio: how many samples that leaves, and how far the tilt goes.

Weights of a prompt's base rows, w_i = Phi(r_i)/sum Phi, are its tilted law. Kish's effective size
(sum w)^2 / sum w^2, added over prompts, says how many base samples the reweighted base is worth.

KL(tuned || base) >= KL of the rewards' laws >= E_tuned[f] - log E_base[exp f] for any f of the
reward (data processing; Donsker and Varadhan 1983): a lower bound, reached by f = log Phi where
the tilt by Phi is all that was done. Mean over tuned samples, in nats. Where no tilt is told from
none, the bound is of second order in it, KL = a^2 Var(r)/2, and can only be said to be small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from theory.audit.data.samples import Array, Pooled, Whole
from theory.audit.estimators import sign_flips
from theory.audit.estimators.tilt import CONFIDENCE, Interval, like_these
from theory.audit.fit.inclusion import TINY

# The bias of log E_base[exp f] before it is taken off, at most, of KL or of its error; and what
# then stays of it, about (bias)^2, of the error.
MOST_BIAS, MOST_LEFT = 0.25, 1 / 3
LARGEST = 300.0  # logarithm of a ratio whose square float64 holds
SMALL = 1.0  # deviations of the reward, to which KL is of second order in the tilt


@dataclass(frozen=True, eq=False)
class Reweighted:
    """weights (n0,) of the pooled rows that are base, adding up to 1 in every prompt; effective: of
    each prompt (P,); largest: the largest weight's share of its prompt's."""

    weights: Array
    effective: Array
    largest: float

    @property
    def total(self) -> float:
        """Effective samples of all prompts."""
        return float(self.effective.sum())


def _base(values: Array, pooled: Pooled) -> tuple[Array, Whole]:
    """(values of the base rows, their prompts)."""
    rows = pooled.is_base
    return values[rows], pooled.prompt[rows]


def reweighted(log_ratio: Array, pooled: Pooled) -> Reweighted:
    """Of log Phi at the pooled rows (N,)."""
    logs, prompt = _base(log_ratio, pooled)
    top = np.full(pooled.count, -np.inf)
    np.maximum.at(top, prompt, logs)
    parts = np.exp(logs - top[prompt])
    w = parts / np.bincount(prompt, parts)[prompt]
    return Reweighted(w, 1 / np.bincount(prompt, w**2), float(w.max()))


def kl_bound(log_ratio: Array, pooled: Pooled) -> Interval | None:
    """The lower bound of KL(tuned || base) through the reward, of f = log Phi (N,).

    The mean over tuned samples of a prompt's f less log E_base[exp f], whose bias is taken off by
    the jackknife. None: prompts have too few base rows for that, of which none can be said.
    The interval is for prompts like these where they are a sample of prompts, else for these.
    """
    logs, prompt = _base(log_ratio, pooled)
    top = np.full(pooled.count, -np.inf)
    np.maximum.at(top, prompt, logs)
    parts = np.exp(logs - top[prompt])
    total = np.bincount(prompt, parts)
    n0, n1 = pooled.n0, pooled.n1
    plain = np.log(total / n0)
    without = np.maximum(total[prompt] - parts, TINY) / np.maximum(n0 - 1, 1)[prompt]
    jackknife = n0 * plain - (n0 - 1) * np.bincount(prompt, np.log(without)) / n0
    log_z = top + jackknife
    tuned = ~pooled.is_base
    mean = np.bincount(pooled.prompt[tuned], log_ratio[tuned]) / n1
    share, own = n1 / n1.sum(), mean - log_z
    value = float(share @ own)
    # Var_base(exp f / Z)/n0, by the rows of both sides: base rows alone rarely show the large ones.
    ratio = np.exp(np.minimum(log_ratio - pooled.over_rows(log_z), LARGEST))
    odds = pooled.over_rows(n0) + pooled.over_rows(n1) * ratio
    noise = np.maximum(pooled.sums(ratio / odds * ratio) - 1, 0.0) / n0
    if like_these(pooled.sizes):
        away = share * (own - value)
        step = 2 * float(np.linalg.norm(away))
        low, high = sign_flips.interval(
            lambda x: away - share * x, share, 1 - CONFIDENCE, step, math.inf
        )
        error = (high - low) / 2 / float(norm.ppf(0.5 + CONFIDENCE / 2))
        found = Interval(value, value + low, value + high, error)
    else:
        rest = np.square(log_ratio[tuned] - mean[pooled.prompt[tuned]])
        of_tuned = np.bincount(pooled.prompt[tuned], rest) / n1 / np.maximum(n1 - 1, 1)
        found = Interval.of(value, math.sqrt(float(share**2 @ (of_tuned + noise))))
    bias, left = float(share @ noise) / 2, float(share @ noise**2) / 4
    few = bias > MOST_BIAS * max(abs(value), found.error) or left > MOST_LEFT * found.error
    return None if few else found


def kl_at_most(tilt: Interval, pooled: Pooled) -> float | None:
    """What KL through the reward is at most, with CONFIDENCE, where the tilt's interval holds 0.

    a^2 s^2/2 at the end that is farther from zero, s the base's deviation within prompts: KL to
    second order in the tilt. None: the interval reaches so far that this is no approximation.
    """
    z, prompt = _base(pooled.z, pooled)
    means = np.bincount(prompt, z) / pooled.n0
    freedom = float((pooled.n0 - 1).sum())
    if freedom == 0:
        return None
    s = math.sqrt(float(np.square(z - means[prompt]).sum()) / freedom) * pooled.spread
    far = max(abs(tilt.low), abs(tilt.high)) * s
    return far**2 / 2 if far <= SMALL else None
