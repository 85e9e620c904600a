"""What a balance loss teaches Gaussian kernels: its own fixed point, d = 1 and 2.

The policy's kernels are N(m_k(x), s_k^2 I), those of the prior chain N(m#_k(x), s_k^2 I), both of
one variance, to the power eta; u = (m - m#)/s^2, J_ij = dm_i/dx_j, J# that of m#. Trajectories come
from the policy, x' = m(x) + s xi, and are held fixed, so that a loss's expected gradient in a value
m_k(x) is a conditional expectation given X_k = x. With Gaussian kernels the conditions are not met
at every (x, x'): what is left of them has a mean, and a variance that the loss pays for too.

nabla-DB (`nabla_best`), h_k the flow's score. The residuals of the forward, reverse and terminal
conditions, weighted by f_k, b_k and w,

    F_k = (eta (x' - m#) - (x' - m))/s^2 - h_{k+1}(x'),     E[F_k | X_k = x] = eta u_k - A_k h_{k+1}
    R_k = J^T (x' - m)/s^2 - eta J#^T (x' - m#)/s^2 + h_k,  E[R_k | X_k = x] = h_k - eta J#^T u_k
    h_T - r,   r = grad beta log R,

with A_k g(x) = E[g(X_{k+1}) | X_k = x] and B_k g(x') = E[g(X_k) | X_{k+1} = x'], component by
component. Since the score of the policy's own law is grad log p_{k+1}(x') = -E[(x' - m)/s^2 |
X_{k+1} = x'], the expected gradients vanish, in m_k(x) and in h_k(x), where

    f_k (eta u_k - A_k h_{k+1}) + a_k u_k + S_k = 0                                             (1)
    f_{k-1} (h_k - eta B_{k-1} u_{k-1} - (1 - eta) grad log p_k) + b_k (h_k - eta J#^T u_k) = 0 (2)
    f_{T-1} (h_T - eta B_{T-1} u_{T-1} - (1 - eta) grad log p_T) + w (h_T - r) = 0              (3)

a_k = lambda s^4/Q^2 of a penalty lambda |v - v#|^2 on the velocity, m = P x + Q v. S_k = 0 where
the policy's score in R_k is held fixed; where it is trained through, Jacobian and all, in d = 1,

    S_k = -b_k J (h_k - eta J# u_k) - b_k s^2 (p_k (u_k' + (1 - eta) J#/s^2))'/p_k.

`held`: h_{k+1} in F_k and u_k in R_k are held fixed. Then the terms in f of (2) and (3) are not
there: u_k = A_k h_{k+1}/eta, h_k = eta J#^T u_k and h_T = r, which is the dynamic programming of
the KL-regularised optimum (`theory.control.chain_optimum`, the projection of the target's path law
on the class by reverse KL) at scale 1/eta: h_k is its value's gradient by the envelope theorem.

Otherwise (2) draws h_k to its own average B A h_k, and 1 - B A is of the order of s_k^2: of order 1
over all steps, however many there are. Nothing makes up for it: a flow that is inconsistent by d in
all, spread over T steps, costs T (d/T)^2. So with many steps too a part of the way is left: of the
base's W1 to the target, on note_1d at beta = 2, 0.38, 0.27 and 0.27 at 10, 50 and 100 steps
(detailed balance 0.35, 0.18, 0.16; the regularised optimum 0.29, 0.07, 0.03).

Detailed balance (`scalar_best`), f_k = log Ft_k, f_T = beta log R. The residual is

    rho_k = log N(x'; m, s^2 I) - eta log N(x'; m#, s^2 I) + f_k(x) - f_{k+1}(x'),

and E[rho_k xi | X_k = x] = 0 for m_k(x), E[rho_k | X_k = x] = E[rho_{k-1} | X_k = x] for f_k(x):

    (eta + a_k/s_k^2) u_k = A_k grad f_{k+1}                                                    (4)
    c_k + eta s^2 |u_k|^2/2 + f_k - A_k f_{k+1} = D_{k-1} + B_{k-1} f_{k-1} - f_k               (5)

with c_k = (eta - 1) d (1/2 + log(s_k sqrt(2 pi))) and D_{k-1}(x) the mean of rho_{k-1}'s
log-densities given X_k = x; at k = 0, or `held`, the right side is 0. Held, f_k is the value
function again.

The equations are linear in u and h, or in f, for given A, B, J and p. They are solved on a grid (a
block-tridiagonal system, `blocks`; functions go on straight beyond the grid's ends), the policy's
law is found again, and so on until it stays. Ancestral kernels, float64; S_k in d = 1 alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from theory.control.chain_optimum import Surface
from theory.gflownet.blocks import NotSettledError, Tridiagonal
from theory.gflownet.grids import Grid, Walk
from theory.gflownet.line import Line
from theory.laws.distances import Array

MOST_ROUNDS, SETTLED = 200, 1e-8
# Rounds before, that one is mixed of, where means move by less; of a state's highest density.
MIXED, NEAR, RARE = 20, 0.02, 1e-4
HALF = 0.5  # of a round's way: whole ones may go to and fro, farther each time

# Of a density's logarithm, and of what a mean moves by, in kernel widths: rounds lead farther off.
MOST_LOG, MOST_LEFT = 50.0, 1e6

Terminal = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ClassBest:
    """A fixed point: the kernels' shifts m - m#, one Surface a kernel, and the flows of states
    0 .. T: their scores h_k (nabla-DB), or logarithms f_k (detailed balance).

    left: how far the last round still moved a mean, in kernel widths.
    """

    shifts: list[Surface]
    flows: list[Surface]
    left: float


@dataclass(frozen=True, eq=False)
class Weights:
    """What a nabla-DB loss weighs: f and b, (T,) each, and w; a: (T,), the anchor's."""

    forward: Array
    backward: Array
    terminal: float
    anchor: Array


def nabla_best(
    grid: Grid,
    terminal: Terminal,
    weights: Weights,
    *,
    prior: float = 1.0,
    second_order: bool = False,
    held: bool = False,
    start: Array | None = None,
) -> ClassBest:
    """The fixed point of nabla-DB's expected semi-gradient.

    terminal: beta log R at points (n, d), (n,), differentiable.  start: u (T, d n) to begin from.

    Raises:
        ValueError: a weight b is 0, so that the flow's constants are anything, or second_order is
            asked for in d = 2.
        NotSettledError: the rounds do not settle.
    """
    if not bool((weights.backward > 0).all()):
        raise ValueError(
            "weights.backward must be > 0, else flows are known up to constants, got 0"
        )
    if second_order and not isinstance(grid, Line):
        raise ValueError("second_order must be False in the plane, got True")
    T, d, one, slope, pulls = grid.chain.steps, len(grid.axes), grid.one, grid.slope, grid.pulls
    end = _gradient(terminal, grid.points)

    values: list[Array] = []

    def solve(u: Array, walk: Walk) -> tuple[Array, list[Array]]:
        # Unknowns in the order u_0, h_1, u_1, .., h_T: each equation knows its two neighbours.
        nonlocal values
        system = grid.system(2 * T)
        for k in range(T):
            f, b = weights.forward[k], weights.backward[k]
            system.own[2 * k] = (prior * f + weights.anchor[k]) * one
            system.above[2 * k] = -f * walk.ahead[k]
            system.right[2 * k] = np.zeros_like(u[k])
            if isinstance(grid, Line) and second_order:
                _train_through(system, grid, k, b, prior, u[k], walk.log_p[k])
            taught = 0.0 if held else f * np.tile(walk.seen[k + 1], d)
            b = weights.terminal if k == T - 1 else weights.backward[k + 1]
            row = 2 * k + 1
            system.own[row] = (taught + b) * one
            system.below[row] = -taught * prior * walk.back[k]
            system.right[row] = taught * (1 - prior) * (slope @ walk.log_p[k + 1])
            if k == T - 1:
                system.right[row] += b * end
            else:
                system.above[row] = -b * prior * pulls[k + 1]
        values = system.solved(values)
        return np.array(values[0::2]), [prior * (pulls[0] @ values[0]), *values[1::2]]

    return _settled(grid, solve, prior, start)


def _train_through(
    system: Tridiagonal, line: Line, k: int, b: float, prior: float, u: Array, log_p: Array
) -> None:
    """S_k in the equation of u_k."""
    slope, base = line.slope, line.slopes[k]
    s2 = float(line.widths[k, 0]) ** 2
    log_slope = slope @ log_p
    density = slope @ slope + log_slope[:, None] * slope
    system.own[2 * k] = system.own[2 * k] - b * s2 * density
    system.right[2 * k] += b * (1 - prior) * (slope @ base + log_slope * base)
    if k:  # at k = 0 nothing else teaches h_0, and h_0 = eta J# u_0
        own = line.slopes_of(k, u)
        system.own[2 * k] = system.own[2 * k] + b * prior * np.diag(own * base)
        system.below[2 * k] = -b * np.diag(own)


def scalar_best(
    grid: Grid,
    terminal: Terminal,
    anchor: Array,
    *,
    prior: float = 1.0,
    held: bool = False,
    start: Array | None = None,
) -> ClassBest:
    """The fixed point of detailed balance's expected semi-gradient; anchor (T,): a of (4).

    Raises:
        NotSettledError: the rounds do not settle.
    """
    T, d, s, one = grid.chain.steps, len(grid.axes), grid.widths, grid.one
    with torch.no_grad():
        end = terminal(grid.points).numpy()
    constants = (prior - 1) * d * (0.5 + np.log(s * math.sqrt(2 * math.pi)))

    values: list[Array] = []

    def solve(u: Array, walk: Walk) -> tuple[Array, list[Array]]:
        nonlocal values
        costs = constants + 0.5 * prior * s**2 * (u.reshape(T, d, -1) ** 2).sum(1)
        system = grid.system(T)
        for k in range(T):
            system.own[k], system.right[k] = one, -costs[k]
            if k and not held:
                seen = walk.seen[k]
                system.own[k] = (1 + seen) * one
                system.right[k] = seen * walk.ratio(k - 1) - costs[k]
                system.below[k] = -seen * walk.back[k - 1]
            if k == T - 1:
                system.right[k] = system.right[k] + walk.ahead[k] @ end
            else:
                system.above[k] = -1.0 * walk.ahead[k]
        values = system.solved(values)
        flows = [*values, end]
        pulls = [A @ (grid.slope @ f) for A, f in zip(walk.ahead, flows[1:], strict=True)]
        return np.array(pulls) / (prior + anchor[:, None] / s**2), flows

    return _settled(grid, solve, prior, start)


Solve = Callable[[Array, Walk], tuple[Array, list[Array]]]


def _settled(grid: Grid, solve: Solve, prior: float, start: Array | None) -> ClassBest:
    """Rounds of solve(u, its law) -> (u, flows) until no mean moves, mixed by the rule of Anderson
    (1965): alone they gain as little as a tenth each."""
    s, d = grid.widths, len(grid.axes)
    u = np.zeros_like(grid.kernels[0]) if start is None else start
    left, told = math.inf, list[tuple[Array, Array]]()
    for _ in range(MOST_ROUNDS):
        walk = grid.walked(u, prior)
        if not walk.log_p.max() < MOST_LOG:
            break
        moved, flows = solve(u, walk)
        p = np.tile(np.exp(walk.log_p[:-1]), d)
        weight = s * np.sqrt(d * p / p.sum(1, keepdims=True))
        left = float(np.sqrt(((weight * (moved - u)) ** 2).sum(1)).max())
        if not left < MOST_LEFT:
            break
        if left < SETTLED:
            size = len(grid.points)
            shifts, scores = (
                [Surface(grid.axes, row.reshape(-1, size).T) for row in rows]
                for rows in (s**2 * moved, flows)
            )
            return ClassBest(shifts, scores, left)
        half = u + HALF * (moved - u)
        told = [*told[-MIXED:], (half, moved - u)] if left < NEAR else [(half, moved - u)]
        apart = [(h - half, r - (moved - u)) for h, r in told[:-1]]
        u = half
        if apart:
            table = np.stack([(weight * r).ravel() for _, r in apart], 1)
            shares = np.linalg.lstsq(table, (weight * told[-1][1]).ravel(), rcond=1e-10)[0]
            # Points that the policy all but never visits say nothing of the shares: rounds alone.
            visited = p / (p + RARE * p.max(1, keepdims=True))
            u = half - visited * sum(c * h for c, (h, _) in zip(shares, apart, strict=True))
    raise NotSettledError(
        f"the fixed point must settle in {MOST_ROUNDS} rounds, got a mean that still moves by "
        f"{left:.2g} kernel widths; use more steps or a smaller scale"
    )


def _gradient(function: Terminal, points: Tensor) -> Array:
    x = points.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope.numpy().T.ravel()
