"""Prompts, embedded when they are needed. Conditions are indices into them; index 0 is always the
empty prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from theory.common.checks import check_text

# What the embeddings that are held may take; those of Stable Diffusion 1.5 in float32 are 236 kB a
# prompt, of Stable Diffusion 3 in bfloat16 2.7 MB.
MOST_BYTES = 2**30


class Prompts:
    """P texts and what the network takes for each.

    texts: P strings, the first empty.
    embed: a text's embeddings by the name of the network's argument, each (1, ...):
        encoder_hidden_states (1, L, D), and pooled_projections (1, D') for SD3.
    most_bytes: embeddings are held up to this size; those that were asked for longest ago go first.

    Every text is embedded by itself, so that its embedding does not depend, in the last bit either,
    on which others were asked for, and in what order.
    """

    def __init__(
        self,
        texts: Sequence[str],
        embed: Callable[[str], Mapping[str, Tensor]],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        if not texts or texts[0]:
            raise ValueError(f"texts must begin with the empty prompt, '', got {texts[:1]}")
        self.texts, self.most_bytes = tuple(texts), most_bytes
        self._embed = embed
        self._held: OrderedDict[int, Mapping[str, Tensor]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """The network's keyword arguments for prompt indices (rows,), each (rows, ...).

        Raises:
            TypeError: the indices are not whole numbers.
            ValueError: an index is outside [0, P).
        """
        if index.dtype != torch.long:
            raise TypeError(f"cond must be torch.long, got {index.dtype}")
        asked = index.tolist()
        if asked and (min(asked) < 0 or max(asked) >= len(self)):
            raise ValueError(
                f"cond must be prompt indices from 0 (the empty prompt) to {len(self) - 1}, got "
                f"{min(asked)} to {max(asked)}"
            )
        different = {number: place for place, number in enumerate(dict.fromkeys(asked))}
        found = [self._one(number) for number in different or (0,)]
        place = torch.tensor([different[number] for number in asked], dtype=torch.long)
        return {
            name: torch.cat([one[name] for one in found]).index_select(0, place.to(value.device))
            for name, value in found[0].items()
        }

    @torch.no_grad()
    def _one(self, number: int) -> Mapping[str, Tensor]:
        """One text's embeddings, from what is held or anew."""
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        found = self._held[number] = {
            name: value.clone() for name, value in self._embed(self.texts[number]).items()
        }
        self._bytes += _size(found)
        while self._bytes > self.most_bytes and len(self._held) > 1:
            self._bytes -= _size(self._held.popitem(last=False)[1])
        return found


def _size(embeddings: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in embeddings.values())


def prompts_of(pipe: Any, family: str, texts: Sequence[str], device: torch.device) -> Prompts:
    """The empty prompt and `texts`, each to be embedded as the pipeline itself embeds it.

    Raises:
        ValueError: `texts` is one string, or holds something else than strings.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a sequence of strings, got {texts!r}")
    for number, text in enumerate(texts):
        check_text(f"texts[{number}]", text)

    def embed(text: str) -> dict[str, Tensor]:
        pair = [text, ""]  # products with one row alone may depend on where in memory they lie
        if family == "sd15":
            states, _ = pipe.encode_prompt(pair, device, 1, False)
            return {"encoder_hidden_states": states[:1]}
        states, _, pooled, _ = pipe.encode_prompt(
            pair, None, None, device=device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": states[:1], "pooled_projections": pooled[:1]}

    return Prompts(("", *texts), embed)
