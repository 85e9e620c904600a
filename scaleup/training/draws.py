"""Random numbers for processes that train together: each sees its rows of one common batch.

Every process draws the whole batch from the same generator and keeps its own rows. What is drawn
then depends on the batch and not on how many processes share it, and any process's generator
resumes all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from theory.common.checks import check_order
from theory.methods import Draws


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


def generator_of(purpose: str, seed: int) -> torch.Generator:
    """A generator of the CPU for one purpose of a run.

    torch's CPU generator looks at 32 bits of its seed only: a sum of a large offset and a seed
    would be the seed. So the two are hashed into 32 bits.
    """
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def noise_of_seed(seed: int, shape: tuple[int, ...]) -> Tensor:
    """N(0, 1) of one sample, (*shape), float32: the same wherever it is drawn; seed < 2^63.

    By numpy's Philox, which looks at all of the seed.
    """
    bits = np.random.Philox(key=seed)
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, np.float32))
