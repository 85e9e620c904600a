"""What the lean adjoint drops, along drawn trajectories, by autograd: D12 in d = 1 and 2.

In the plane the problem is a product of two lines, turned by an angle: its chain's optimum is known
(both coordinates' own), and no coordinate that a trajectory is given in knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.control.adjoints import Process, full_adjoint, lean_adjoint, rollout
from theory.laws.distances import Array
from theory.ledger.domingo.line_chain import Adjoint, LineChain, Spline

ANGLE = 0.7


class _Known(torch.autograd.Function):
    """A function's values, its own derivative as gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, of: Callable[[Array], Array], slope: Callable[[Array], Array]
    ) -> Tensor:
        at = x.detach().numpy()
        ctx.slope = torch.as_tensor(slope(at))
        return torch.as_tensor(of(at))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.slope, None, None


def product_process(lines: Sequence[LineChain], means: Sequence[Array]) -> tuple[Process, Tensor]:
    """The product of lines of equal s_k under policies (T, N), turned; and the frame (d, d).

    Raises:
        ValueError: lines whose kernels differ in width.
    """
    if any(not np.array_equal(line.std, lines[0].std) for line in lines):
        raise ValueError("lines must be of one chain, got different s_k")
    T, s = lines[0].steps, lines[0].std
    dt, c, n = 1 / T, math.cos(ANGLE), math.sin(ANGLE)
    frame = torch.tensor([[c, -n], [n, c]] if len(lines) == 2 else [[1.0]], dtype=torch.float64)
    base = [[Spline(line.axis, row) for row in line.base] for line in lines]
    moves = [
        [Spline(line.axis, row) for row in line.controls(m)]
        for line, m in zip(lines, means, strict=True)
    ]

    def read(tables: list[list[Spline]], k: int, y: Tensor) -> Tensor:
        known = [table[k] for table in tables]
        return torch.stack([_Known.apply(y[:, i], f, f.slope) for i, f in enumerate(known)], 1)

    def drift(x: Tensor, t: float) -> Tensor:
        y = x @ frame
        return ((read(base, round(t * T), y) - y) / dt) @ frame.T

    def control(x: Tensor, t: float) -> Tensor:
        return (read(moves, round(t * T), x @ frame) / math.sqrt(dt)) @ frame.T

    def final(x: Tensor) -> Tensor:
        y = x @ frame
        costs = [_Known.apply(y[:, i], c.final, c.final_slope) for i, c in enumerate(lines)]
        return torch.stack(costs).sum(0)

    return Process(drift, control, lambda t: float(s[round(t * T)]) / math.sqrt(dt), final), frame


def dropped_terms(
    lines: Sequence[LineChain],
    means: Sequence[Array],
    adjoint: Adjoint,
    n: int,
    rng: np.random.Generator,
) -> Array:
    """z of E[(grad u)'(g a_{k+1} + u) psi(X_k)] = 0 for every k, coordinate and feature psi.

    a: the full or the lean adjoint of each trajectory under the same policy.
    """
    process, _ = product_process(lines, means)
    T, d = lines[0].steps, len(lines)
    start = lines[0].start_std * torch.as_tensor(rng.normal(size=(n, d)))
    noise = torch.as_tensor(rng.normal(size=(n, T, d)))
    times = torch.arange(T + 1, dtype=torch.float64) / T
    states = rollout(process, times, start, noise)
    solve = full_adjoint if adjoint == "full" else lean_adjoint
    a = solve(process, times, states)
    found = []
    for k in range(T):
        t = float(times[k])
        x = states[:, k].detach().requires_grad_(True)
        u = process.control(x, t)
        gap = (u + process.noise(t) * a[:, k + 1]).detach()
        (drop,) = torch.autograd.grad((u * gap).sum(), x)
        y = x.detach()
        psi = torch.cat([torch.ones(n, 1, dtype=y.dtype), y, torch.sin(2 * y), torch.cos(y)], 1)
        products = (drop[:, :, None] * psi[:, None, :]).flatten(1)
        found.append((products.mean(0) / (products.std(0) / math.sqrt(n))).numpy())
    return np.concatenate(found)
