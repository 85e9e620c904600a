"""Questions that people who train with DiffusionNFT ask, each answered on a page with a figure.

One module a question, in the order of `PAGES`. A module has

    QUESTION: str                               the page's title
    GIVEN: frozenset[str]                       keys of the numbers that were chosen, not measured
    measure() -> dict[str, Any]                 the numbers, as plain data (the slow part)
    answer(numbers) -> str                      the page's text in Markdown; the first paragraph is
                                                the answer in short
    draw(numbers) -> matplotlib Figure          the picture

`python -m figures questions` measures, and writes docs/questions/; `--check` tells whether the
committed pages are what the committed numbers give (quick), and `--check --measure` whether the
numbers are today's.
"""

from __future__ import annotations

PAGES = (
    "beta",
    "epoch_tilt",
    "one_half",
    "kl_weight",
    "advantage",
    "modes",
    "prompt_std",
    "cancel",
    "every_step",
    "branches",
    "adaptive",
    "ema",
    "exact_tilt",
    "learned",
    "pictures_needed",
)
