"""What a model cannot tell of a user's prompts, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scaleup.adapter import ImageModel
from scaleup.builtin.shapes import COLOURS, SHAPES

SHOWN, WORDS_SHOWN = 64, 5


def distinct_prompts(model: ImageModel, prompts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the prompts that are different ones to the model, each as it came first; notes).

    Prompts that are one to it (they differ in capital letters, or beyond the length of its text
    encoder) are trained as one: as two, each would be compared with half of their samples.
    """
    texts = list(dict.fromkeys(prompts))
    reading = model.read(texts)
    first: dict[bytes, int] = {}
    twins = [
        (first[key], number)
        for number, key in enumerate(reading.key)
        if first.setdefault(key, number) != number
    ]
    notes = []
    if twins:
        one, other = (_quoted(texts[number]) for number in twins[0])
        notes.append(
            f"{_count(len(twins))} the same to the model as one before, and trained as that one: "
            f"{other} as {one}{_more(twins)}"
        )
    for flags, what in (
        (reading.cut, f"longer than the {reading.length} tokens that the model reads, and cut"),
        (reading.unknown, "written with signs that the model's vocabulary lacks"),
    ):
        found = [text for text, flag in zip(texts, flags, strict=True) if flag]
        if found:
            notes.append(f"{_count(len(found))} {what}: {_quoted(found[0])}{_more(found)}")
    return [texts[number] for number in first.values()], notes


def unseen_words(prompts: Sequence[str]) -> list[str]:
    """A note where prompts hold words that the built-in model was not trained on."""
    known = {"a", "an", *COLOURS, *SHAPES}
    words = [re.findall(r"\w+", prompt.lower()) for prompt in prompts]
    unseen = list(dict.fromkeys(word for found in words for word in found if word not in known))
    if not unseen:
        return []
    count = sum(not known.issuperset(found) for found in words)
    shown = ", ".join(unseen[:WORDS_SHOWN]) + (", ..." if len(unseen) > WORDS_SHOWN else "")
    note = (
        f"{_count(count)} in words that the built-in model has never seen ({shown}), and what it "
        f"draws for them means little; it knows {', '.join(sorted(known))}"
    )
    return [note]


def _count(count: int) -> str:
    return "1 prompt is" if count == 1 else f"{count} prompts are"


def _quoted(text: str) -> str:
    """A text, or its two ends: that is where prompts differ."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}")


def _more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
