"""Random numbers for several networks trained as one: every network has its own generator.

Rows come in equal blocks, one a network. Block i is drawn from generator i alone, so that what a
network sees does not depend on which others train beside it, and a run can be resumed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from theory.common.checks import check_order


class Draws:
    """Random numbers for len(generators) blocks of rows, in one dtype.

    Every method takes n, the rows of one block, and returns (blocks * n, ...).
    """

    def __init__(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> None:
        if not generators:
            raise ValueError("generators must hold at least one torch.Generator, got []")
        self.generators, self.dtype = list(generators), dtype
        self.device = self.generators[0].device

    @classmethod
    def seeded(
        cls,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Draws:
        """One generator for each seed (whole numbers from 0 to 2^63 - 1)."""
        for seed in seeds:
            check_order("seed", seed, 0, 2**63 - 1)
        return cls([torch.Generator(device).manual_seed(s) for s in seeds], dtype)

    @property
    def blocks(self) -> int:
        return len(self.generators)

    def per_block(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """draw(generator) of every block, one under the other."""
        if len(self.generators) == 1:
            return draw(self.generators[0])
        return torch.cat([draw(g) for g in self.generators])

    def uniform(self, n: int, *shape: int) -> Tensor:
        """Uniform on [0, 1), (blocks * n, *shape)."""
        return self.per_block(
            lambda g: torch.rand(n, *shape, dtype=self.dtype, device=self.device, generator=g)
        )

    def normal(self, n: int, *shape: int) -> Tensor:
        """N(0, 1), (blocks * n, *shape)."""
        return self.per_block(
            lambda g: torch.randn(n, *shape, dtype=self.dtype, device=self.device, generator=g)
        )

    def among(self, n: int, size: int) -> Tensor:
        """Rows of a pool that holds `size` rows a block, uniformly, each block's from its own."""
        which = (self.uniform(n) * size).long().clamp_max(size - 1)
        blocks = torch.arange(len(which) // n, device=which.device)
        return blocks.repeat_interleave(n) * size + which

    # --- state, for runs that resume exactly

    def states(self) -> list[Tensor]:
        """The state of every generator, a tensor of bytes each."""
        return [g.get_state() for g in self.generators]

    def restore(self, states: Sequence[Tensor]) -> None:
        """Go on from states that `states` returned.

        Raises:
            ValueError: not one state a generator.
        """
        if len(states) != self.blocks:
            raise ValueError(f"states must be one a generator, {self.blocks}, got {len(states)}")
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
