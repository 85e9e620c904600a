"""note_1d's chain in plain numpy: DDPM's kernels by Bayes' rule, laws by a transition matrix."""

from __future__ import annotations

import numpy as np

from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, state_axes
from theory.tilts.wrappers import Exponential

NOTE = load_problem("note_1d")
WEIGHTS, MEANS, STDS = np.array([0.65, 0.35]), np.array([-1.2, 1.1]), np.array([0.6, 0.9])
SHORT = Chain(5, 0.12)
SCALE = 2.0


def posterior_mean(x, alpha, sigma):
    """E[X_1 | alpha X_1 + sigma X_0 = x] under note_1d's base, (n,)."""
    variance = alpha**2 * STDS**2 + sigma**2
    gap = x[:, None] - alpha * MEANS
    share = WEIGHTS * np.exp(-0.5 * gap**2 / variance) / np.sqrt(variance)
    share = share / share.sum(1, keepdims=True)
    return (share * (MEANS + alpha * STDS**2 / variance * gap)).sum(1)


def bayes_kernel(chain, k, x):
    """(mean (n,), std) of X_{k+1} given X_k = x and X_1 = its posterior mean: the noising kernel
    X_k | X_{k+1} times the law of X_{k+1} given X_1, normalised."""
    most = (chain.steps - 1) / chain.steps if chain.last_time is None else chain.last_time
    t, after = np.append(np.linspace(0, most, chain.steps), 1.0)[k : k + 2]
    alpha, sigma = t, 1 - t
    alpha_next, sigma_next = (after, 1 - after) if k + 1 < chain.steps else (1.0, chain.sigma_end)
    ratio = alpha / alpha_next
    noising = sigma**2 - ratio**2 * sigma_next**2
    variance = 1 / (1 / sigma_next**2 + ratio**2 / noising)
    data = posterior_mean(x, alpha, sigma)
    return variance * (alpha_next * data / sigma_next**2 + ratio * x / noising), variance**0.5


def normal(x, mean, std):
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def bump(x):
    return np.exp(-0.5 * (x - 2.0) ** 2)


def matrix_law(chain, x):
    """The density of X_T on the uniform grid x by a transition matrix a step."""
    density = normal(x, 0.0, 1.0)
    for k in range(chain.steps):
        mean, std = bayes_kernel(chain, k, x)
        density = (normal(x[:, None], mean, std) * (x[1] - x[0])) @ density
    return density


def note_axes(chain, spacing=0.25):
    return state_axes(chain, [NOTE.base, NOTE.tilt(Exponential(SCALE)).law], spacing)
