r"""The base reweighted by a fitted ratio: how many samples that leaves, and how far the tilt goes.

Weights of a prompt's base rows, w_i = Phi(r_i)/sum Phi, are its tilted law. Kish's effective size
(sum w)^2 / sum w^2, added over prompts, says how many base samples the reweighted base is worth.

KL(tuned || base) >= KL of the rewards' laws >= E_tuned[f] - log E_base[exp f] for any f of the
reward (data processing; Donsker and Varadhan 1983): a lower bound, reached by f = log Phi where
the tilt by Phi is all that was done. Mean over tuned samples, in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.audit.samples import Array, Pooled, Whole
from theory.audit.tilt import LEAST_CLUSTERS, Interval


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


def kl_bound(log_ratio: Array, pooled: Pooled) -> Interval:
    """The lower bound of KL(tuned || base) through the reward, of f = log Phi (N,).

    log E_base[exp f] is less its bias -var/(2 n mean^2). The interval's units are as in the tilt's.
    """
    logs, prompt = _base(log_ratio, pooled)
    top = np.full(pooled.count, -np.inf)
    np.maximum.at(top, prompt, logs)
    parts = np.exp(logs - top[prompt])
    mean = np.bincount(prompt, parts) / pooled.n0
    unit = parts / mean[prompt]
    noise = np.bincount(prompt, (unit - 1) ** 2) / np.maximum(pooled.n0 * (pooled.n0 - 1), 1)
    log_z = top + np.log(mean) + noise / 2
    tuned = ~pooled.is_base
    own = log_ratio[tuned] - log_z[pooled.prompt[tuned]]
    value = float(own.mean())
    share = pooled.n1 / pooled.n1.sum()
    by_prompt = np.bincount(pooled.prompt[tuned], own) / pooled.n1
    if pooled.count >= LEAST_CLUSTERS:
        rest = share * (by_prompt - value)
        count = pooled.count
        error = math.sqrt(float((rest**2).sum()) * count / (count - 1))
        return Interval.of(value, error, count - 1)
    of_tuned = np.bincount(pooled.prompt[tuned], (own - by_prompt[pooled.prompt[tuned]]) ** 2)
    variance = share**2 * (of_tuned / pooled.n1 / np.maximum(pooled.n1 - 1, 1) + noise)
    return Interval.of(value, math.sqrt(float(variance.sum())))
