"""The figures of an audit's page."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from theory.audit.data.samples import Array, Pooled
from theory.audit.estimators.compare import Candidate
from theory.audit.estimators.reweighting import reweighted
from theory.audit.estimators.tilt import CONFIDENCE
from theory.audit.page.verdict import by_prompt, p_words
from theory.audit.report import AuditReport
from theory.evaluation.draw import BLUE, LINES, PURPLE, SKY, VERMILION, use_style

BINS, LEAST_IN_BIN = 24, 8
LINES_SHOWN = 4
MOST_PROMPTS = 30  # named one by one; of more, those at both ends
SIGMAS = 1.96
FONT = findfont("DejaVu Sans")  # matplotlib's own


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context():
        use_style()
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


# --- rewards


def _base_weights(pooled: Pooled) -> Array:
    """Of the base's rows: prompts in the tuned samples' shares, adding up to the tuned number."""
    return np.asarray((pooled.n1 / pooled.n0)[pooled.prompt[pooled.is_base]])


def _tilted_weights(candidate: Candidate, pooled: Pooled) -> Array:
    """The same, reweighted by the candidate's Phi in every prompt."""
    weights = reweighted(candidate.fitted.fit.log_ratio, pooled).weights
    return np.asarray(pooled.n1[pooled.prompt[pooled.is_base]] * weights)


def ratio(report: AuditReport, reward: str) -> Figure:
    """log(tuned/base) of the rewards' laws by bins, with what the fitted wrappers give there."""
    pooled, found = report.compared, report.wrappers
    assert found is not None
    assert pooled is not None
    base, tuned = pooled.reward[pooled.is_base], pooled.reward[~pooled.is_base]
    edges = _edges(base, tuned)
    place = 0.5 * (edges[1:] + edges[:-1])
    flat = _binned(base, edges, _base_weights(pooled))
    counts, _ = np.histogram(tuned, edges)
    of_base, _ = np.histogram(base, edges)
    good = (counts >= LEAST_IN_BIN) & (of_base >= LEAST_IN_BIN)
    place, flat, counts = place[good], flat[good], counts[good]
    figure, (axes,) = _figure(6.6, 4.0)
    axes.errorbar(
        place,
        np.log(counts / flat),
        SIGMAS * np.sqrt(1 / counts + 1 / of_base[good]),
        fmt="o",
        ms=4,
        color="black",
        lw=1,
        capsize=2,
        label="samples, 95 %",
        zorder=3,
    )
    for candidate, (color, dash) in zip(_shown(report), LINES, strict=False):
        tilted = _binned(base, edges, _tilted_weights(candidate, pooled))[good]
        label = f"{candidate.fitted.label}  ({p_words(candidate.p_value)})"
        with np.errstate(divide="ignore"):
            axes.plot(place, np.log(tilted / flat), color=color, ls=dash, lw=1.7, label=label)
    axes.axhline(0, color="0.7", lw=0.8, zorder=0)
    axes.set(xlabel=_label(reward), ylabel="log density ratio, tuned / base")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _shown(report: AuditReport) -> list[Candidate]:
    """exp(a r) first, then the best others."""
    assert report.wrappers is not None
    return sorted(report.wrappers.candidates, key=lambda c: c.name != "exponential")[:LINES_SHOWN]


def _edges(base: Array, tuned: Array) -> Array:
    both = np.concatenate([base, tuned])
    levels = np.unique(both)
    if len(levels) <= BINS:  # a bin a value
        step = np.diff(levels) / 2
        ends = (step[0], step[-1]) if len(step) else (0.5, 0.5)
        return np.concatenate([[levels[0] - ends[0]], levels[:-1] + step, [levels[-1] + ends[1]]])
    count = int(np.clip(min(len(base), len(tuned)) / (4 * LEAST_IN_BIN), 4, BINS))
    return np.asarray(np.unique(np.quantile(both, np.linspace(0, 1, count + 1))))


def _binned(values: Array, edges: Array, weights: Array) -> Array:
    return np.histogram(values, edges, weights=weights)[0].astype(np.float64)


def histograms(report: AuditReport, reward: str) -> Figure:
    """Rewards of base, tuned, and the base reweighted by the best wrapper."""
    pooled = report.pooled if report.compared is None else report.compared
    base, tuned = pooled.reward[pooled.is_base], pooled.reward[~pooled.is_base]
    if len(np.unique(pooled.reward)) <= BINS:
        edges = _edges(base, tuned)
    else:
        count = int(np.clip(math.sqrt(min(len(base), len(tuned))), 8, 60))
        edges = np.linspace(float(pooled.reward.min()), float(pooled.reward.max()), count + 1)
    figure, (axes,) = _figure(6.6, 3.4)

    def density(values: Array, weights: Array | None = None) -> Array:
        heights, _ = np.histogram(values, edges, weights=weights)
        return np.asarray(heights / max(float(heights.sum()), 1e-300) / np.diff(edges))

    axes.stairs(
        density(base, _base_weights(pooled)), edges, fill=True, color=SKY, alpha=0.5, label="base"
    )
    axes.stairs(density(tuned), edges, color=VERMILION, lw=2.0, label="tuned")
    if report.wrappers is not None:
        best = report.wrappers.best
        axes.stairs(
            density(base, _tilted_weights(best, pooled)),
            edges,
            color="black",
            lw=1.3,
            ls="--",
            label=f"base reweighted by {best.fitted.label}",
        )
    axes.set(xlabel=_label(reward), ylabel="density")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _label(reward: str) -> str:
    name = reward if len(reward) <= 60 else reward[:59] + "…"
    return ("reward" if name == "reward" else f"reward: {name}").replace("$", r"\$")


# --- prompts


def prompts(report: AuditReport) -> Figure | None:
    """Every prompt's tilt, and the variance it lost beyond the tilt; None where there is one."""
    rows = [
        {"number": i, **row}
        for i, row in enumerate(by_prompt(report), 1)
        if math.isfinite(row["tilt"])
    ]
    if len(rows) < 2:
        return None
    lost = report.excess is not None
    rows.sort(key=lambda row: -_finite(row["lost"] if lost else row["tilt"]))
    total, half = len(rows), MOST_PROMPTS // 2
    if total > MOST_PROMPTS:
        rows = [*rows[:half], *rows[-half:]]
    figure, axes = _figure(9.0 if lost else 6.2, 1.2 + 0.24 * len(rows), 1 + lost)
    y = np.arange(len(rows))[::-1]
    error = [SIGMAS * row["tilt_error"] for row in rows]
    axes[0].errorbar([row["tilt"] for row in rows], y, xerr=error, fmt="o", ms=4, color=BLUE, lw=1)
    if report.tilt is not None:
        axes[0].axvline(report.tilt.value, color="black", lw=1, ls="--")
        axes[0].axvspan(report.tilt.low, report.tilt.high, color="0.85", zorder=0)
    axes[0].set(xlabel=f"effective tilt ({100 * CONFIDENCE:.0f} %; dashed: all prompts)")
    axes[0].set_yticks(y, [_name(row) for row in rows], fontsize=8)
    if lost:
        share = [100 * _finite(row["lost"]) for row in rows]
        colors = [PURPLE if row["lost_p_value"] < 0.05 else "0.75" for row in rows]
        axes[1].barh(y, share, color=colors, height=0.7)
        axes[1].axvline(0, color="black", lw=0.8)
        axes[1].set(xlabel="variance lost beyond the tilt, %\n(negative: gained; purple: p < 0.05)")
        axes[1].set_yticks(y, [""] * len(rows))
    for one in axes:
        one.set_ylim(-0.7, len(rows) - 0.3)  # dots and bars of a prompt at one height
    if total > MOST_PROMPTS:
        most = "lost" if lost else "were tilted"
        figure.suptitle(
            f"{half} prompts that {most} most and {half} that {most} least, of {total}", fontsize=9
        )
    return figure


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0


def _name(row: dict[str, Any], most: int = 34) -> str:
    """A prompt's number in the page's table, and its text where the font has the letters."""
    text = row["prompt"]
    if not all(get_font(FONT).get_char_index(ord(letter)) for letter in text):
        return f"{row['number']}."
    short = text if len(text) <= most else text[: most - 1] + "…"
    return f"{row['number']}. {short}".replace("$", r"\$")
