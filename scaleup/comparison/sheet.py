"""Pictures for people: a grid of samples, and the sheet of a tuned model against its base."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from scaleup.comparison.comparison import Comparison, compare
from scaleup.rewards.contract import to_uint8
from scaleup.samples.samples import SampleSet, paired
from theory.common.checks import check_order
from theory.common.files import write_atomically
from theory.evaluation.draw import BLUE, VERMILION, png, use_style

# Inches: a picture's side, the gap between columns, a line of caption, margins.
SIDE, GAP, LINE, LEFT, TOP = 1.35, 0.14, 0.15, 0.75, 0.35
DPI = 110
CAPTION_LINES = 3
CAPTION_WIDTH = 22  # letters that fit over a picture at 7.5 points
PANEL = 3.0
LEAST_WIDTH = 11.5
COLUMNS = 8


def sample_grid(images: Tensor, captions: Sequence[str], path: Path, columns: int = 8) -> None:
    """A PNG of pictures (n, 3, h, w), numbers in [0, 1], each under its caption.

    Raises:
        ValueError: no pictures, not one caption a picture, or images are no pictures.
        OSError: the disk is full, or the folder cannot be written; names the path.
    """
    check_order("columns", columns, 1)
    pixels = to_uint8(images)
    if not len(pixels) or len(captions) != len(pixels):
        raise ValueError(
            f"captions must be one an image, of at least one image, got {len(captions)} for "
            f"{len(pixels)}"
        )
    columns = min(columns, len(pixels))
    texts = [_wrap(caption) for caption in captions]
    lines = max(text.count("\n") + 1 for text in texts)
    pitch = SIDE + lines * LINE + 2 * GAP
    page = _Page(columns * (SIDE + GAP) + GAP, math.ceil(len(pixels) / columns) * pitch + GAP)
    for place, (picture, text) in enumerate(zip(pixels, texts, strict=True)):
        row, column = divmod(place, columns)
        left, top = GAP + column * (SIDE + GAP), GAP + row * pitch + lines * LINE
        page.picture(left, top, picture)
        page.text(left + SIDE / 2, top - 0.04, text, va="bottom")
    write_atomically(path, png(page.figure, DPI))


def comparison_sheet(
    base: SampleSet,
    tuned: SampleSet,
    rows: int,
    path: Path,
    seed: int = 0,
) -> Comparison:
    """Base over tuned with the same seeds, rewards below each picture, and all measures.

    rows: how many pairs to show (a pair of every prompt before the second of any). path: of the
    PNG; its numbers go beside it, as .json and .md. All pairs are measured.

    Raises:
        ValueError: as `compare`; no pictures recorded; rows asks for none.
        OSError: the disk is full, or the folder cannot be written; names the path.
    """
    first, second = paired(base, tuned)
    if first.images is None or second.images is None:
        raise ValueError("the samples were recorded or read without images: nothing to show")
    chosen = _choose(first, rows)
    measured = compare(base, tuned, seed)
    with mpl.rc_context():
        use_style()
        _draw(first.take(chosen), second.take(chosen), first, second, measured, path)
    measured.write(path)
    return measured


def _choose(samples: SampleSet, rows: int) -> Tensor:
    """So many rows to show, a pair of every prompt before the second of any."""
    check_order("rows", rows, 1)
    seen: Counter[int] = Counter()
    turns = []
    for row, prompt in enumerate(samples.prompt_index.tolist()):
        turns.append((seen[prompt], row))
        seen[prompt] += 1
    return torch.tensor([row for _, row in sorted(turns)[:rows]])


# --- drawing


class _Page:
    """A figure whose parts are placed in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))

    def picture(self, left: float, top: float, pixels: Tensor, edge: str = "0.7") -> None:
        axes = self.axes(left, top, SIDE, SIDE)
        # Small pictures keep their pixels; large ones are averaged down.
        small = max(pixels.shape[1:]) <= SIDE * DPI
        axes.imshow(
            pixels.permute(1, 2, 0).numpy(), interpolation="nearest" if small else "antialiased"
        )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=edge, linewidth=1.2)

    def text(self, left: float, top: float, text: str, **style: object) -> None:
        look: dict = {"ha": "center", "va": "top", "fontsize": 7.5, "color": "black", **style}
        # A prompt may hold dollar signs: they are no formulas.
        self.figure.text(left / self.width, 1 - top / self.height, text, parse_math=False, **look)


def _draw(
    base: SampleSet,
    tuned: SampleSet,
    all_base: SampleSet,
    all_tuned: SampleSet,
    measured: Comparison,
    path: Path,
) -> None:
    labels = [label for label in base.rewards if label in tuned.rewards]
    columns = min(COLUMNS, len(base))
    captions = [_wrap(base.prompt(row)) for row in range(len(base))]
    lines = max(text.count("\n") + 1 for text in captions)
    below = len(labels[:3]) * LINE + 0.06
    pitch = (lines + 1) * LINE + 2 * (SIDE + below) + 0.2
    bands = math.ceil(len(base) / columns)
    table: list[tuple[str, ...]] = [("measure", "base", "tuned", "change")]
    table += [(_wrap_label(name, 32), *rest) for name, *rest in (r.words() for r in measured.rows)]
    notes = [textwrap.fill(note, 125) for note in measured.notes]
    heights = [0.1 + LINE * (1 + name.count("\n")) for name, *_ in table]
    heights += [0.2 + LINE * note.count("\n") for note in notes]
    panel = max(PANEL, sum(heights) + 0.5)
    width = max(LEAST_WIDTH, LEFT + columns * (SIDE + GAP) + GAP)
    page = _Page(width, TOP + bands * pitch + panel + 0.3)
    page.text(
        0.1,
        0.1,
        f"Base against tuned, same seeds: {len(base)} of {measured.n} pairs",
        ha="left",
        fontsize=11,
        weight="bold",
    )
    for row in range(len(base)):
        band, column = divmod(row, columns)
        left, top = LEFT + column * (SIDE + GAP), TOP + band * pitch + (lines + 1) * LINE
        page.text(left + SIDE / 2, top - 0.04, captions[row], va="bottom")
        for samples, name, color in ((base, "base", BLUE), (tuned, "tuned", VERMILION)):
            assert samples.images is not None
            if column == 0:
                page.text(
                    LEFT - 0.12,
                    top + SIDE / 2,
                    name,
                    ha="right",
                    va="center",
                    fontsize=10,
                    weight="bold",
                    color=color,
                )
            page.picture(left, top, samples.images[row], color)
            values = [f"{_short(label)} {samples.rewards[label][row]:.3g}" for label in labels[:3]]
            page.text(left + SIDE / 2, top + SIDE + 0.05, "\n".join(values), fontsize=7)
            top += SIDE + below
    top = TOP + bands * pitch + 0.1
    _draw_table(page, table, notes, top)
    if labels:
        _draw_histogram(page, labels[0], all_base, all_tuned, width, top)
    write_atomically(path, png(page.figure, DPI))


def _draw_table(
    page: _Page, table: Sequence[Sequence[str]], notes: Sequence[str], top: float
) -> None:
    places = (0.1, 2.35, 4.0, 5.65)
    for row, words in enumerate(table):
        for left, word in zip(places, words, strict=True):
            page.text(left, top, word, ha="left", fontsize=8, weight="normal" if row else "bold")
        top += 0.1 + LINE * (1 + words[0].count("\n"))
    top += 0.1
    for note in notes:
        page.text(0.1, top, note, ha="left", fontsize=7, color="0.25")
        top += 0.2 + LINE * note.count("\n")


def _draw_histogram(
    page: _Page, label: str, base: SampleSet, tuned: SampleSet, width: float, top: float
) -> None:
    axes = page.axes(8.1, top + 0.25, width - 8.3, PANEL - 0.95)
    values = [samples.rewards[label].numpy() for samples in (base, tuned)]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    if low == high:  # all rewards alike: one bar needs a width
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, 1 + int(np.clip(math.sqrt(len(base)), 8, 40))).tolist()
    axes.hist(values[0], bins, color=BLUE, alpha=0.35, label="base")
    axes.hist(values[1], bins, histtype="step", color=VERMILION, lw=1.8, label="tuned")
    for sample, color, dash in zip(values, (BLUE, VERMILION), ("-", "--"), strict=True):
        axes.axvline(float(sample.mean()), color=color, ls=dash, lw=1.2)
    axes.set_xlabel(f"reward {_wrap_label(label, 40)}", fontsize=8, parse_math=False)
    axes.set_ylabel("pictures", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        fontsize=8,
        title="vertical: means",
        title_fontsize=7,
    )


def _wrap(text: str, width: int = CAPTION_WIDTH) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=CAPTION_LINES, placeholder=" …"))


def _wrap_label(text: str, width: int) -> str:
    """A sum of rewards has no spaces; it breaks after a plus sign."""
    return _wrap(text.replace("+", "+ "), width).replace("+ ", "+")


def _short(label: str) -> str:
    """A reward's name, without options, where it stands under a picture."""
    name = label.split(":")[0].split("/")[-1]
    return name if len(name) <= 16 else "sum" if "*" in name else name[:15] + "…"
