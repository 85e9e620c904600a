"""What a pipeline's tokenizers make of prompts: how much they read, and which are one to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Stable Diffusion 3 gives T5 this many tokens (diffusers' own default of encode_prompt).
T5_LENGTH = 256
TEXTS_AT_ONCE = 1024


def check_tokenizers(pipe: Any, source: str) -> None:
    """Every tokenizer fits its text encoder; one that names no length, or a longer one, gets its
    encoder's (`model_max_length` is in tokenizer_config.json, and often missing there).

    Raises:
        ValueError: no token to pad with; tokens that the encoder does not know.
    """
    for name, tokenizer, encoder in _pairs(pipe):
        where = f"{source}, {name}"
        if tokenizer.pad_token is None:
            raise ValueError(
                f"{where}: pad_token must be a token of its vocabulary (Stable Diffusion 1.5 pads "
                "with '<|endoftext|>'), got None in tokenizer_config.json"
            )
        known = encoder.get_input_embeddings().num_embeddings
        if len(tokenizer) > known:
            raise ValueError(
                f"{where} must be the tokenizer that its text encoder was trained with: it has "
                f"{len(tokenizer)} tokens, the encoder knows {known}"
            )
        most = getattr(encoder.config, "max_position_embeddings", None)
        if most is not None and tokenizer.model_max_length > most:
            tokenizer.model_max_length = most
    if hasattr(pipe, "tokenizer_max_length"):  # Stable Diffusion 3 keeps the first one's
        pipe.tokenizer_max_length = pipe.tokenizer.model_max_length


@dataclass(frozen=True)
class Reading:
    """What the tokenizers make of n texts, one entry a text.

    key: a digest, the same for texts that are one to the model.  cut: whether the end of the text
    reaches no text encoder.  unknown: whether a sign of it is in no vocabulary.
    length: tokens that the longest-reading encoder takes.
    """

    key: list[bytes]
    cut: list[bool]
    unknown: list[bool]
    length: int


def read(pipe: Any, texts: Sequence[str]) -> Reading:
    """The texts as the pipeline's text encoders see them."""
    pairs = [
        (tokenizer, T5_LENGTH if name == "tokenizer_3" else tokenizer.model_max_length)
        for name, tokenizer, _ in _pairs(pipe)
    ]
    found = Reading([], [], [], max(length for _, length in pairs))
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = list(texts[start : start + TEXTS_AT_ONCE])
        tokens = [tokenizer(some, verbose=False)["input_ids"] for tokenizer, _ in pairs]
        for own in zip(*tokens, strict=True):
            seen = [ids[: length - 1] for ids, (_, length) in zip(own, pairs, strict=True)]
            found.key.append(hashlib.blake2b(repr(seen).encode(), digest_size=16).digest())
            found.cut.append(
                all(len(ids) > length for ids, (_, length) in zip(own, pairs, strict=True))
            )
            found.unknown.append(
                all(
                    tokenizer.unk_token_id in ids[:-1]
                    for ids, (tokenizer, _) in zip(own, pairs, strict=True)
                )
            )
    return found


def _pairs(pipe: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, tokenizer, text encoder) of the pipeline's."""
    for number in ("", "_2", "_3"):
        tokenizer = getattr(pipe, f"tokenizer{number}", None)
        if tokenizer is not None:
            yield f"tokenizer{number}", tokenizer, getattr(pipe, f"text_encoder{number}")
