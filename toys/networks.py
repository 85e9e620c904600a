"""Small velocity networks, several as one: parameters are stacked, one graph and one optimiser.

Network i sees block i of the rows only. A plain loop over networks spends most of its time in
launching small kernels and in Adam; `python -m toys bench` measures what stacking saves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from theory.checks import check_order
from theory.methods.contract import Draws


class StackedMLP(nn.Module):
    """`blocks` perceptrons (x, t) -> (rows, outputs), `depth` hidden layers of `width`, SiLU.

    x (rows, dim), t (rows,), rows = blocks * n. Parameters: weight.k (blocks, fan_in, fan_out) and
    bias.k (blocks, 1, fan_out), uniform in +-1/sqrt(fan_in) from each block's own generator.
    """

    def __init__(self, dim: int, outputs: int, width: int, depth: int, draws: Draws) -> None:
        super().__init__()
        for name, value in {"dim": dim, "outputs": outputs, "width": width, "depth": depth}.items():
            check_order(name, value, 1)
        self.blocks, self.dim = draws.blocks, dim
        sizes = [dim + 1, *[width] * depth, outputs]
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            layer = draws.uniform(fan_in + 1, fan_out).reshape(self.blocks, fan_in + 1, fan_out)
            layer = bound * (2 * layer - 1)
            self.weight.append(nn.Parameter(layer[:, :-1].clone()))
            self.bias.append(nn.Parameter(layer[:, -1:].clone()))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        h = torch.cat([x, t[:, None]], -1).reshape(self.blocks, -1, self.dim + 1)
        if h.requires_grad or h.device.type != "cpu":
            h = self._batched(h)
        else:
            h = _OneByOne.apply(h, *self.weight, *self.bias)
        return h.reshape(len(x), -1)

    def _batched(self, h: Tensor) -> Tensor:
        """Layer by layer, all networks in one product; differentiable in the input too."""
        for k, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if k + 1 < len(self.weight):
                h = nn.functional.silu(h)
        return h

    def member(self, block: int) -> dict[str, Tensor]:
        """The parameters of one network, without the block axis, on the CPU."""
        return {k: v[block].detach().cpu().contiguous() for k, v in self.state_dict().items()}

    def load_members(self, members: list[Mapping[str, Tensor]]) -> None:
        """Set every block from parameters as `member` gives them."""
        stacked = {k: torch.stack([m[k] for m in members]) for k in members[0]}
        self.load_state_dict(stacked)


class _OneByOne(torch.autograd.Function):
    """The same on a CPU, network by network: one network's layers stay in cache.

    Arithmetic on arrays that have left the cache costs three times as much. One node of the graph
    and results written in place keep the loop's overhead to a few per cent. Not differentiable in
    the input, once in the parameters.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], parameters[layers:]
        before = [x.new_empty(*x.shape[:2], w.shape[2]) for w in weights]
        after = [x, *(torch.empty_like(z) for z in before[:-1])]
        for i in range(len(x)):
            for k in range(layers):
                z = before[k][i]
                torch.addmm(biases[k][i], after[k][i], weights[k][i], out=z)
                if k + 1 < layers:
                    torch.ops.aten.silu.out(z, out=after[k + 1][i])
        ctx.save_for_backward(*weights, *after, *before[:-1])
        ctx.layers = layers
        return before[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        layers, saved = ctx.layers, ctx.saved_tensors
        weights, after, before = saved[:layers], saved[layers : 2 * layers], saved[2 * layers :]
        by_weight = [torch.empty_like(w) for w in weights]
        by_bias = [slope.new_empty(len(slope), 1, w.shape[2]) for w in weights]
        rows = slope.shape[1]
        ones = slope.new_ones(1, rows)
        passed = [slope.new_empty(rows, w.shape[1]) for w in weights]
        for i in reversed(range(len(slope))):  # the last ones are still in cache
            s = slope[i]
            for k in range(layers - 1, -1, -1):
                torch.mm(after[k][i].t(), s, out=by_weight[k][i])
                torch.mm(ones, s, out=by_bias[k][i])
                if k:
                    below = torch.mm(s, weights[k][i].t(), out=passed[k])
                    s = torch.ops.aten.silu_backward.grad_input(
                        below, before[k - 1][i], grad_input=below
                    )
        return None, *by_weight, *by_bias


def single(member: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> StackedMLP:
    """One network from its parameters, for evaluation: frozen, in the dtype asked for."""
    first, last = member["weight.0"], member[f"weight.{len(member) // 2 - 1}"]
    sizes = {"dim": first.shape[0] - 1, "outputs": last.shape[1], "width": first.shape[1]}
    network = StackedMLP(**sizes, depth=len(member) // 2 - 1, draws=Draws.seeded([0]))
    network.load_members([member])
    return network.to(dtype).requires_grad_(False)
