"""Prompts, embedded once. Conditions are indices into them; index 0 is always the empty prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

# Texts embedded at once: a T5 of SD3 takes 1 GB of activations for about as many.
TEXTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Prompts:
    """P texts and what the network takes for each.

    texts: P strings, the first empty.  embeddings: by the name of the network's argument, each
    (P, ...): encoder_hidden_states (P, L, D), and pooled_projections (P, D') for SD3.
    """

    texts: tuple[str, ...]
    embeddings: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = {name: tuple(e.shape) for name, e in self.embeddings.items()}
        if not self.texts or any(s[0] != len(self.texts) for s in shapes.values()):
            raise ValueError(
                f"{len(self.texts)} texts with embeddings {shapes}: allowed is at least one text "
                "and one row of every embedding for each"
            )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def device(self) -> torch.device:
        return next(iter(self.embeddings.values())).device

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """The network's keyword arguments for prompt indices (rows,), each (rows, ...).

        Raises:
            TypeError: the indices are not whole numbers.
            ValueError: an index is outside [0, P).
        """
        if index.dtype != torch.long:
            raise TypeError(f"cond has dtype {index.dtype}: allowed is torch.long")
        if index.numel():
            low, high = (int(end) for end in torch.aminmax(index))
            if low < 0 or high >= len(self):
                raise ValueError(
                    f"cond holds prompt indices from {low} to {high}: allowed are 0 (the empty "
                    f"prompt) to {len(self) - 1}"
                )
        index = index.to(self.device)
        return {name: e.index_select(0, index) for name, e in self.embeddings.items()}

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The same on another device or in another dtype."""
        moved = {name: e.to(device=device, dtype=dtype) for name, e in self.embeddings.items()}
        return type(self)(self.texts, moved)


@torch.no_grad()
def embed(pipe: Any, family: str, texts: Sequence[str], device: torch.device) -> Prompts:
    """The empty prompt and `texts`, embedded as the pipeline itself embeds them.

    Raises:
        ValueError: `texts` is one string, or holds something else than strings.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts = {texts!r}: allowed is a sequence of strings")
    everything = ("", *texts)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(everything), TEXTS_AT_ONCE):
        some = list(everything[start : start + TEXTS_AT_ONCE])
        if family == "sd15":
            states, _ = pipe.encode_prompt(some, device, 1, False)
            parts.append({"encoder_hidden_states": states})
        else:
            states, _, pooled, _ = pipe.encode_prompt(
                some, None, None, device=device, do_classifier_free_guidance=False
            )
            parts.append({"encoder_hidden_states": states, "pooled_projections": pooled})
    return Prompts(everything, {name: torch.cat([p[name] for p in parts]) for name in parts[0]})
