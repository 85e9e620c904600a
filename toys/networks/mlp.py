"""Small velocity networks, several as one: parameters are stacked, products are batched.

Network i sees block i of the rows only. A plain loop over networks spends most of its time in
launching small kernels and in Adam; `python -m benchmarks toys` measures what stacking saves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from theory.common.checks import check_order
from theory.methods import Draws


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
        for k, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            h = torch.bmm(h, weight).add_(bias)  # in place: baddbmm would copy the bias out first
            if k + 1 < len(self.weight):
                h = nn.functional.silu(h)
        return h.reshape(len(x), -1)

    def zero_last(self) -> None:
        """The last layer to 0, and so what the networks return."""
        with torch.no_grad():
            self.weight[-1].zero_()
            self.bias[-1].zero_()

    def member(self, block: int) -> dict[str, Tensor]:
        """The parameters of one network, without the block axis, on the CPU."""
        return {k: v[block].detach().cpu().contiguous() for k, v in self.state_dict().items()}

    def load_members(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Set every block from parameters as `member` gives them."""
        self.load_state_dict({k: torch.stack([m[k] for m in members]) for k in members[0]})


def stacked(
    members: Sequence[Mapping[str, Tensor]], dtype: torch.dtype = torch.float64
) -> StackedMLP:
    """Networks of one size from their parameters, frozen, in the dtype asked for: to evaluate."""
    depth = len(members[0]) // 2 - 1
    first, last = members[0]["weight.0"], members[0][f"weight.{depth}"]
    sizes = {"dim": first.shape[0] - 1, "outputs": last.shape[1], "width": first.shape[1]}
    network = StackedMLP(**sizes, depth=depth, draws=Draws.seeded([0] * len(members)))
    network.load_members(members)
    return network.to(dtype).requires_grad_(False)


def single(member: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> StackedMLP:
    """One of them."""
    return stacked([member], dtype)
