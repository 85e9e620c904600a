"""What the audit's rooms share."""

from __future__ import annotations

import numpy as np

from tests.theory.audit.synthetic import data_of

ZERO = np.zeros(1)


def times(T):
    return lambda theta: (theta[0] * T, T[:, None])


def small(seed=0):
    rng = np.random.default_rng(seed)
    sizes = [(3, 2), (2, 5), (4, 1)]
    return data_of(
        [rng.normal(size=n) for n, _ in sizes], [0.7 + rng.normal(size=m) for _, m in sizes]
    )
