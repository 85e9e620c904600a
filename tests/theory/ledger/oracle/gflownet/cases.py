"""Chains whose flows are worked out by hand, and small ones for brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from tests.theory.ledger.oracle.cases import OneGaussian, mixture
from theory.ledger.oracle.gflownet.numbers import FlowNumbers, levels

POWER = 1.3


def numbers(case, path="rectified_flow", steps=3, sigma_end=0.2, first_time=0.0, **options):
    return FlowNumbers(case, *levels(path, steps, sigma_end, first_time), **options)


def line_mixture(kind="bumps", **options):
    """d = 1, two components, R two bumps or exp of a parabola."""
    power = 2.0 if options.get("form") == "plain" else POWER
    return numbers(mixture(1, kind), power=power, **options)


class Hand:
    """One Gaussian with a linear r: W = R^power p_T is a Gaussian times a number."""

    def __init__(self, e, dim, path="rectified_flow", steps=4, sigma_end=0.15, first_time=0.0):
        one = OneGaussian(e, dim)
        self.one = one
        self.n = numbers(one.case, path, steps, sigma_end, first_time, power=POWER)
        self.dim, self.w = dim, POWER * one.w
        self.end = one.cov + sigma_end**2 * np.eye(dim)  # at alpha_T = 1
        self.mean = one.mean + self.end @ self.w
        self.log_z = POWER * one.constant + self.w @ one.mean + self.w @ self.end @ self.w / 2

    def joint(self, k, j, tilted=True):
        """Mean and covariance of (X_k, X_j), k < j, from X = alpha X_1 + sigma X_0 at j and one
        noise kernel after another down to k."""
        eye, mean = np.eye(self.dim), self.mean if tilted else self.one.mean
        slope, noise = 1.0, 0.0
        chain = [(slope, noise)]  # from X_T
        for i in range(self.n.steps - 1, -1, -1):
            c = self.n.alpha[i] / self.n.alpha[i + 1]
            add = self.n.sigma[i] ** 2 - c**2 * self.n.sigma[i + 1] ** 2
            slope, noise = c * slope, c**2 * noise + add
            chain.insert(0, (slope, noise))
        (a, p), (b, q) = chain[k], chain[j]
        cross = a * b * self.end + (a / b * q if b else 0.0) * eye
        top = np.hstack([a * a * self.end + p * eye, cross])
        low = np.hstack([cross.T, b * b * self.end + q * eye])
        return np.concatenate([a * mean, b * mean]), np.vstack([top, low])

    def states(self, seed=0):
        """A path from the far end back, (T + 1, d)."""
        rng, found = np.random.default_rng(seed), [self.mean + 0.7]
        for i in range(self.n.steps - 1, -1, -1):
            c, add = self.n.ratio[i], self.n.forward[i]
            found.insert(0, c * found[0] + np.sqrt(add) * rng.normal(size=self.dim))
        return np.array(found)

    def log_flow(self, k, x):
        mean, cov = self.joint(k, self.n.steps)
        d = self.dim
        return self.log_z + stats.multivariate_normal(mean[:d], cov[:d, :d]).logpdf(x)

    def flow_score(self, k, x):
        mean, cov = self.joint(k, self.n.steps)
        d = self.dim
        return -np.linalg.solve(cov[:d, :d], x - mean[:d])

    def forward(self, k, tilted=True):
        """(gain, offset, cov) of X_{k+1} given X_k by regression."""
        (mean, cov), d = self.joint(k, k + 1, tilted), self.dim
        gain = np.linalg.solve(cov[:d, :d], cov[:d, d:]).T
        return gain, mean[d:] - gain @ mean[:d], cov[d:, d:] - gain @ cov[:d, d:]

    def log_forward(self, k, x, x_next, tilted=True):
        gain, offset, cov = self.forward(k, tilted)
        return stats.multivariate_normal(gain @ x + offset, cov).logpdf(x_next)

    def residual_score(self, k, x):
        base = self.joint(k, self.n.steps, tilted=False)
        d = self.dim
        return self.flow_score(k, x) + np.linalg.solve(base[1][:d, :d], x - base[0][:d])


def integrable(e=1, dim=1, **options):
    """R two bumps that decay along every axis, W = R^2."""
    case = replace(mixture(e, "bumps", dim=dim))
    return numbers(case, power=2.0, form="plain", prior=False, reward_std=1.1, **options)
