"""The audit as one HTML page that stands by itself: words, figures, pictures, tables."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from scaleup.audit.gather import Gathered
from theory.audit.page import figures
from theory.audit.page.verdict import NAMES, by_prompt, p_words, verdict
from theory.audit.report import AuditReport
from theory.common.files import write_atomically

SHOWN = 12  # pictures of a side
SIDE = 96  # pixels, at which a picture is shown
MOST_SIDE = 256  # pixels, kept of a picture
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { background: #f3f6f9; border-left: 4px solid #0072B2; padding: .8rem 1.2rem; }
.none { border-color: #D55E00; }
table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .2rem .7rem;
        text-align: right; border-bottom: 1px solid #ddd; } td:first-child, th:first-child
        { text-align: left; }
table.validity td { text-align: left; vertical-align: top; }
.good td:first-child { color: #006b4f; }
.bad { background: #fdeee6; } .bad td:first-child { color: #b04400; font-weight: bold; }
figure { margin: 1rem 0; } figcaption, .note { font-size: .85rem; color: #444; }
img.plot { max-width: 100%; } .pictures { display: flex; flex-wrap: wrap; gap: .6rem; }
.pictures figure { width: 110px; margin: 0; font-size: .7rem; overflow-wrap: anywhere; }
.pictures img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; }
.scroll { max-height: 28rem; overflow: auto; }
"""


def write_page(path: Path, report: AuditReport, gathered: Gathered) -> None:
    """Write the page, atomically.

    Raises:
        ValueError: a picture cannot be read.
        OSError: the disk is full, or the folder cannot be written.
    """
    parts = [_words(report, gathered)]
    if report.conclusive:
        parts += [_rewards(report, gathered), _wrapper_table(report)]
    if len(report.data.prompts) > 1 and report.tilts is not None:
        parts.append(_prompts(report))
    if report.conditional is not None and gathered.pictures is not None:
        parts.append(_pictures(report, gathered))
    parts.append(_how(report))
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Audit of {html.escape(gathered.source)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    write_atomically(path, page.encode("utf-8"))


def _words(report: AuditReport, gathered: Gathered) -> str:
    data = report.data
    lines = "".join(f"<p>{html.escape(_capital(line))}.</p>" for line in verdict(report))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    plural = "s" if len(data.prompts) != 1 else ""
    return (
        "<h1>What does the tuned model sample?</h1>"
        f"<p class='note'>{html.escape(gathered.source)}; reward "
        f"<b>{html.escape(gathered.reward)}</b>; {len(data.base)} base and {len(data.tuned)} tuned "
        f"samples, {len(data.prompts)} prompt{plural}, {data.dim} features a sample</p>"
        f"{_validity(report)}"
        f"<div class='verdict{'' if report.conclusive else ' none'}'>{lines}</div>"
        + (f"<ul class='note'>{notes}</ul>" if notes else "")
    )


def _validity(report: AuditReport) -> str:
    """What was asked first: question, answer, whether it is what an audit wants."""
    marks = {True: ("good", "✓"), False: ("bad", "✗"), None: ("open", "–")}
    rows = "".join(
        f"<tr class='{marks[check.ok][0]}'><td>{marks[check.ok][1]}</td>"
        f"<td>{html.escape(check.question)}</td><td>{html.escape(_capital(check.answer))}</td></tr>"
        for check in report.validity
    )
    return f"<h2>Before any conclusion</h2><table class='validity'>{rows}</table><h2>Verdict</h2>"


def _capital(line: str) -> str:
    return line[:1].upper() + line[1:]


def _plot(figure: Any, caption: str) -> str:
    data = base64.b64encode(figures.png(figure)).decode("ascii")
    text = html.escape(caption)
    return (
        f"<figure><img class='plot' alt='{text}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{text}</figcaption></figure>"
    )


def _rewards(report: AuditReport, gathered: Gathered) -> str:
    return (
        "<h2>The reward</h2>"
        + _plot(
            figures.ratio(report, gathered.reward),
            "How many times as frequent tuned samples are as base samples of the same reward and "
            "prompts (logarithm), and what each fitted wrapper makes of the base there.",
        )
        + _plot(
            figures.histograms(report, gathered.reward),
            "Rewards of both sides, prompts in equal shares, and of the base reweighted by the "
            "wrapper that is best on held-out samples.",
        )
    )


def _wrapper_table(report: AuditReport) -> str:
    found = report.wrappers
    assert found is not None
    rows = [
        (
            c.fitted.label,
            p_words(c.p_value),
            f"{c.behind * found.held_out_rows:.1f} ± {c.error * found.held_out_rows:.1f}",
            "" if math.isnan(c.explained) else f"{100 * min(c.explained, 1.0):.0f} %",
        )
        for c in found.candidates
    ]
    refused = "".join(
        f"<li>{html.escape(NAMES[name])}: {html.escape(why)}</li>"
        for name, why in found.refused.items()
    )
    heads = (
        "wrapper",
        "goodness of fit",
        "behind the best, held-out nats",
        "of what a free curve gains",
    )
    return (
        "<h2>Which wrapper</h2>"
        + _table(heads, rows)
        + "<p class='note'>Goodness of fit: Neyman's smooth test against a free curve of the "
        "reward. Held out: log-likelihood of the labels of samples that the wrapper was not fitted "
        "to, all together.</p>" + (f"<ul class='note'>{refused}</ul>" if refused else "")
    )


def _prompts(report: AuditReport) -> str:
    figure = figures.prompts(report)
    drawn = (
        ""
        if figure is None
        else _plot(
            figure, "Each prompt's own tilt, and the variance it lost beyond what its tilt implies."
        )
    )
    rows = []
    for number, row in enumerate(by_prompt(report), 1):
        cells = [
            f"{number}. {row['prompt']}",
            row["base_samples"],
            row["tuned_samples"],
            f"{row['base_reward']:.4g}",
            f"{row['tuned_reward']:.4g}",
            _number(row["tilt"], 3),
            _number(row["effective_samples"], 3),
        ]
        if report.conditional is not None:
            cells.append(_number(row["conditional_p_value"], 2))
        if report.excess is not None:
            cells += [_percent(row["lost"]), _number(row["lost_p_value"], 2)]
        rows.append(tuple(map(str, cells)))
    heads = ["prompt", "base", "tuned", "base reward", "tuned reward", "tilt", "effective"]
    heads += ["p, given the reward"] if report.conditional is not None else []
    heads += ["lost", "p, lost"] if report.excess is not None else []
    return f"<h2>Prompts</h2>{drawn}<div class='scroll'>{_table(heads, rows)}</div>"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


# --- pictures


def _pictures(report: AuditReport, gathered: Gathered) -> str:
    assert report.conditional is not None
    few, many = report.conditional.witness
    # Base pictures where tuned ones are too few; tuned pictures where they are too many.
    under, over = _first(few), _first(-many)
    return (
        "<h2>Pictures, given their reward</h2>"
        "<p class='note'>Where features of tuned samples differ most from those of base samples "
        "of the same prompt and reward. If the test above found no difference, these are what "
        "chance puts first.</p>"
        f"<h3>Under-represented: base pictures that the tuned model makes too few of</h3>"
        f"{_gallery(gathered, 0, under, report)}"
        f"<h3>Over-represented: tuned pictures of which it makes too many</h3>"
        f"{_gallery(gathered, 1, over, report)}"
    )


def _first(values: np.ndarray) -> list[int]:
    known = np.flatnonzero(~np.isnan(values))
    return [int(i) for i in known[np.argsort(values[known], kind="stable")][:SHOWN]]


def _gallery(gathered: Gathered, side: int, rows: Sequence[int], report: AuditReport) -> str:
    assert gathered.pictures is not None
    samples = (report.data.base, report.data.tuned)[side]
    place = {int(row): i for i, row in enumerate(samples.row)}
    shown = []
    for row, picture in zip(rows, gathered.pictures(side, rows), strict=True):
        i = place[row]
        prompt = html.escape(report.data.prompts[int(samples.prompt[i])])
        shown.append(
            f"<figure><img alt='{prompt}' src='data:image/png;base64,{_encoded(picture)}'>"
            f"<div>{prompt}<br>{samples.reward[i]:.3g}</div></figure>"
        )
    return f"<div class='pictures'>{''.join(shown)}</div>"


def _encoded(picture: Tensor) -> str:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    if max(image.size) > MOST_SIDE:
        image.thumbnail((MOST_SIDE, MOST_SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode("ascii")


def _how(report: AuditReport) -> str:
    text = (
        "A tilt p Phi(r)/Z multiplies the law of the reward by Phi(r)/Z and leaves the law of "
        "everything else, given the reward, as it was. Tilt and wrappers: maximum likelihood from "
        "two samples, one normaliser a prompt. Given the reward: maximum mean discrepancy between "
        "tuned and reweighted base samples, labels permuted within prompt and narrow strata of the "
        "reward. A base file of another model than the tuned one came from looks like something "
        "besides a tilt. Formulas and sources: theory/audit."
    )
    rest = ""
    if report.conditional is not None:
        c = report.conditional
        rest = (
            f" The conditional test looked at {c.rows} samples, {c.permutations} permutations; its "
            f"strata hold the information of {c.informed:.0f} pairs."
        )
    if report.wrappers is not None:
        rest += f" Wrappers were ranked on {report.wrappers.held_out_rows} held-out samples."
    return f"<h2>How this was found</h2><p class='note'>{html.escape(text + rest)}</p>"
