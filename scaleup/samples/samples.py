"""Samples of one model, with all that was recorded of them; and pairs of two models' samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SampleSet:
    """n samples, by rising index.

    index, seed, prompt_index: (n,) int64. rewards: (n,) float64 by label. images: (n, 3, h, w)
    uint8. x1: (n, *event), what the model sampled (latents, or pixels in [-1, 1]), as it was
    given. features: (n, d) float32. prompts: all of the run's. made_by: the run, the code and the
    weights that drew them (`drawing`). None: not recorded, or not read.
    """

    which: str
    prompts: tuple[str, ...]
    index: Tensor
    seed: Tensor
    prompt_index: Tensor
    rewards: dict[str, Tensor]
    images: Tensor | None = None
    x1: Tensor | None = None
    features: Tensor | None = None
    made_by: str = ""

    def __len__(self) -> int:
        return len(self.index)

    def prompt(self, row: int) -> str:
        """The prompt of a row."""
        return self.prompts[int(self.prompt_index[row])]

    def take(self, rows: Tensor) -> SampleSet:
        """These rows (m,), in this order."""
        picked: dict[str, Any] = {
            name: values[rows] for name, values in vars(self).items() if isinstance(values, Tensor)
        }
        rewards = {label: values[rows] for label, values in self.rewards.items()}
        return replace(self, rewards=rewards, **picked)


def paired(base: SampleSet, tuned: SampleSet) -> tuple[SampleSet, SampleSet]:
    """The samples of both with the same index, row by row the same seed and prompt.

    Raises:
        ValueError: no index in common, or seed or prompt differ at one: not the same draws.
    """
    common = base.index[torch.isin(base.index, tuned.index)]
    if not len(common):
        raise ValueError(
            f"{base.which} and {tuned.which} must be drawn with the same indices and seeds, and "
            "have no sample index in common"
        )
    first = base.take(torch.isin(base.index, common).nonzero()[:, 0])
    second = tuned.take(torch.isin(tuned.index, common).nonzero()[:, 0])
    for row in range(len(common)):
        ours = (int(first.seed[row]), first.prompt(row))
        theirs = (int(second.seed[row]), second.prompt(row))
        if ours != theirs:
            raise ValueError(
                f"sample {int(common[row])} must have one seed and prompt, got {ours} in "
                f"{base.which}, {theirs} in {tuned.which}"
            )
    return first, second
