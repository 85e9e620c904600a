"""The exact law of an SDE that carries a field, d = 1, on a grid.

    dX = (v + g^2/2 s) dt + g dB,   s the score that the field implies,

has the ODE's law at every g only if s is the score of X_t's own law: for the exact field of a
density. For NFT's optimum it is not, and the law depends on g. Its density solves

    p_t = -(b p)_y + (g^2/2) p_yy,   b = v + g^2/2 s,

here with 8th-order central differences (mass is kept) and the implicit Radau method.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.sparse import diags_array

from theory.common.checks import check_dim
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import ExactField
from theory.laws.distances import Array, GridLaw

FIRST = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
SECOND = (8 / 5, -1 / 5, 8 / 315, -1 / 560)
SECOND_CENTRE = -205 / 72
LEAST_POINTS = 16  # the stencils span 9
MOST_EVALUATIONS = 40_000
SOON = 2000  # after so many, what would take more than the most at this pace is given up


def sde_law(
    field: ExactField,
    diffusion: Diffusion,
    grid: Array,
    rtol: float = 1e-9,
    atol: float = 1e-11,
    watch: Callable[[float], None] = lambda share: None,
) -> GridLaw:
    """The density at t = 1 on a uniform grid that holds all the mass.

    watch: told the share of the work that is done, now and then.

    Raises:
        ValueError: d is not 1, the grid is not LEAST_POINTS or more in equal steps, it lost mass or
            is too coarse (the density went below -1e-6 of its peak), or the noise is too strong to
            be followed: the message says what would do.
    """
    check_dim("sde_law", field.dim)
    grid = np.asarray(grid, dtype=np.float64)
    n, h = _check_grid(grid)
    points = torch.as_tensor(grid, dtype=torch.float64)[:, None]
    first, second = _stencils(n, h)
    drifts: dict[float, tuple[Array, float]] = {}

    def coefficients(t: float) -> tuple[Array, float]:
        if t not in drifts:
            if len(drifts) > 8:
                drifts.clear()
            time = torch.tensor(t, dtype=torch.float64)
            g2 = diffusion.squared(field.path, time)
            drift = field.path.sde_drift(field(points, time), field.score(points, time), g2.sqrt())
            drifts[t] = drift[:, 0].numpy(), float(g2)
        return drifts[t]

    evaluations = 0

    def rate(t: float, p: Array) -> Array:
        nonlocal evaluations
        evaluations += 1
        share = (t - diffusion.start) / (1 - diffusion.start)
        if evaluations > SOON and share * MOST_EVALUATIONS < evaluations:
            raise ValueError(
                f"the density is at t = {t:.3g} after {evaluations} evaluations: {diffusion.label} "
                f"changes it too fast to be followed to {rtol:g}; diffusion coefficients must be "
                "up to about 100 times the law's width"
            )
        watch(share)
        drift, g2 = coefficients(t)
        return -(first @ (drift * p)) + 0.5 * g2 * (second @ p)

    def jacobian(t: float, p: Array) -> object:
        drift, g2 = coefficients(t)
        return (-(first @ diags_array(drift)) + 0.5 * g2 * second).tocsc()

    zero = torch.tensor(diffusion.start, dtype=torch.float64)
    std = float(field.path.sigma(torch.zeros_like(zero)))
    initial = np.exp(-0.5 * (grid / std) ** 2) / (std * math.sqrt(2 * math.pi))
    if not abs(initial.sum() * h - 1) <= 1e-6:
        raise ValueError(
            f"grid on [{grid[0]:g}, {grid[-1]:g}] in steps of {h:g} is too coarse or too short for "
            f"the start law N(0, {std:g}^2): it must hold a mass of 1, got "
            f"{initial.sum() * h:.6f}; use a wider or finer grid"
        )
    solution = solve_ivp(
        rate, (diffusion.start, 1.0), initial, method="Radau", jac=jacobian, rtol=rtol, atol=atol
    )
    if not solution.success:
        raise ValueError(f"sde_law did not reach t = 1: {solution.message}")
    p = solution.y[:, -1]
    mass, low, edge = p.sum() * h, float(p.min()), max(abs(p[:5]).max(), abs(p[-5:]).max())
    if low < -1e-6 * p.max() or abs(mass - 1) > 1e-6 or edge > 1e-6 * p.max():
        raise ValueError(
            f"grid of {n} points on [{grid[0]:g}, {grid[-1]:g}] is too coarse or too short: mass "
            f"{mass:.8f}, least value {low:.1e}, edge value {edge:.1e}; try {2 * n} points, or a "
            "wider interval"
        )
    p = np.maximum(p, 0.0) / mass
    cdf = CubicSpline(grid, p).antiderivative()(grid)
    with np.errstate(divide="ignore"):
        return GridLaw((np.asarray(grid, dtype=np.float64),), np.log(p), cdf)


def _check_grid(grid: Array) -> tuple[int, float]:
    """(number of points, step) of a uniform, ascending grid."""
    if np.ndim(grid) != 1 or len(grid) < LEAST_POINTS:
        found = f"shape {np.shape(grid)}"
    else:
        steps = np.diff(grid)
        h = float(steps[0])
        if h > 0 and np.allclose(steps, h, rtol=1e-9, atol=0):
            return len(grid), h
        found = f"steps from {steps.min():.9g} to {steps.max():.9g}"
    raise ValueError(
        f"grid must be {LEAST_POINTS} points or more in ascending, equal steps, got {found}"
    )


def _stencils(n: int, h: float) -> tuple:
    offsets = (1, 2, 3, 4)
    ones = np.ones(n)
    first = diags_array(
        [c * ones[k:] for k, c in zip(offsets, FIRST, strict=True)]
        + [-c * ones[k:] for k, c in zip(offsets, FIRST, strict=True)],
        offsets=[*offsets, *(-k for k in offsets)],
    )
    second = diags_array(
        [SECOND_CENTRE * ones] + [c * ones[k:] for k, c in zip(offsets, SECOND, strict=True)] * 2,
        offsets=[0, *offsets, *(-k for k in offsets)],
    )
    return (first / h).tocsr(), (second / h**2).tocsr()
