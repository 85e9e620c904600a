"""Random numbers for processes that train together: each sees its rows of one common batch.

Every process draws the whole batch from the same generator and keeps its own rows. What is drawn
then depends on the batch and not on how many processes share it, and any process's generator
resumes all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from theory.checks import check_order
from theory.methods.contract import Draws


class ShardedDraws(Draws):
    """Draws for rows [rank n, (rank + 1) n) of batches of shards n rows.

    Numbers come from a generator of the CPU and move to `device`, so that a GPU sees the same.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        rank: int = 0,
        shards: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__([generator], dtype)
        check_order("shards", shards, 1)
        check_order("rank", rank, 0, shards - 1)
        self.rank, self.shards, self.device = rank, shards, torch.device(device)

    def uniform(self, n: int, *shape: int) -> Tensor:
        """Uniform on [0, 1), (n, *shape): this process's rows."""
        return self._own(torch.rand, n, shape)

    def normal(self, n: int, *shape: int) -> Tensor:
        """N(0, 1), (n, *shape): this process's rows."""
        return self._own(torch.randn, n, shape)

    def _own(self, draw: Callable[..., Tensor], n: int, shape: tuple[int, ...]) -> Tensor:
        (generator,) = self.generators
        whole = draw(n * self.shards, *shape, dtype=self.dtype, generator=generator)
        return whole[self.rank * n : (self.rank + 1) * n].to(self.device)


def noise_of_seed(seed: int, shape: tuple[int, ...]) -> Tensor:
    """N(0, 1) of one sample, (*shape), float32: the same wherever it is drawn."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
