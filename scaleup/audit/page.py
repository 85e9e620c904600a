"""The audit as one HTML page that stands by itself: words, figures, pictures, tables."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from scaleup.audit.gather import Gathered, Picture
from theory.audit.page import figures
from theory.audit.page.verdict import NAMES, by_prompt, p_words, verdict
from theory.audit.report import AuditReport
from theory.common.files import write_atomically
from theory.evaluation.draw import png

SHOWN = 12  # pictures of a side
MOST_SIDE = 256  # pixels, kept of a picture


def write_page(path: Path, report: AuditReport, gathered: Gathered) -> None:
    """Write the page, atomically.

    Raises:
        ValueError: a picture cannot be read.
        OSError: the disk is full, or the folder cannot be written.
    """
    galleries = []
    if report.conditional is not None and gathered.pictures is not None:
        few, many = report.conditional.witness
        # Base pictures where tuned ones are too few; tuned pictures where they are too many.
        galleries = [_gallery(report, gathered, 0, few), _gallery(report, gathered, 1, -many)]
    page = TEMPLATES.get_template("page.html.jinja").render(
        report=report,
        gathered=gathered,
        verdict=verdict(report),
        by_prompt=by_prompt(report),
        galleries=galleries,
        figures=figures,
        names=NAMES,
    )
    write_atomically(path, page.encode("utf-8"))


def _number(value: float, form: str) -> str:
    return form % value if math.isfinite(value) else ""


def _address(picture: bytes) -> str:
    """A PNG as what an img's src may be."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {
    "number": _number,
    "p_words": p_words,
    "png": lambda figure: _address(png(figure)),
}


def _gallery(
    report: AuditReport, gathered: Gathered, side: int, values: np.ndarray
) -> list[tuple[str, str, float]]:
    """(prompt, picture, reward) of the rows of a side at which values are lowest."""
    assert gathered.pictures is not None
    known = np.flatnonzero(~np.isnan(values))
    rows = known[np.argsort(values[known], kind="stable")][:SHOWN].tolist()
    samples = (report.data.base, report.data.tuned)[side]
    place = {int(row): i for i, row in enumerate(samples.row)}
    return [
        (
            report.data.prompts[samples.prompt[place[row]]],
            _address(encoded(picture)),
            samples.reward[place[row]],
        )
        for row, picture in zip(rows, gathered.pictures(side, rows), strict=True)
    ]


def encoded(picture: Picture) -> bytes:
    """As PNG, a large one made smaller."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
