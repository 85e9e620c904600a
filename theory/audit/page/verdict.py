"""An audit in words, and as plain data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.audit.estimators.compare import LEVEL, Candidate
from theory.audit.estimators.conditional import Conditional
from theory.audit.estimators.excess import Excess
from theory.audit.estimators.tilt import ONE_TILT, PROMPTS_LIKE, Interval, Tilt
from theory.audit.report import AuditReport

MOST_NAMED = 3  # prompts in a sentence
NAMES = {
    "exponential": "exp(a r)",
    "linear": "1 + a r",
    "truncated_2": "exp(a r) to order 2",
    "truncated_3": "exp(a r) to order 3",
    "power": "r^b",
    "clipped": "exp(a r) clipped",
    "best_of_n": "best of n",
    "rank": "exp(a F(r))",
}


def p_words(p: float, permutations: int | None = None) -> str:
    """p as a person would write it; a permutation test cannot say less than 1/(draws + 1)."""
    least = 1 / (permutations + 1) if permutations else 0.0
    if permutations and p <= least * 1.001:
        return f"p ≤ {least:.2g}"
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def verdict(report: AuditReport) -> list[str]:
    """Sentences, the most important first."""
    if not report.conclusive:
        what = "more cannot be concluded" if report.tilt_holds else "cannot conclude"
        lines = [f"{what}, because {doubt}" for doubt in report.doubts]
        if report.tilt_holds:
            return [_tilt_words(report), *lines]
        if report.tilt is not None:
            lines.append(f"for what it is worth, the likeliest tilt is {report.tilt}")
        return lines
    assert report.tilt is not None
    assert report.wrappers is not None
    lines = [_tilt_words(report), _wrapper_words(report)]
    if report.kl_at_most is not None:
        lines.append(
            f"KL to the base through the reward alone is at most {report.kl_at_most:.2g} nats, to "
            "second order in the tilt: nothing is said of what the reward does not show"
        )
    elif report.kl is not None and (report.tilt.low > 0 or report.tilt.high < 0):
        lines.append(f"KL to the base is at least {report.kl} nats, through the reward alone")
    if report.conditional is not None:
        lines.append(_conditional_words(report, report.conditional))
    if report.excess is not None:
        lines += _excess_words(report, report.excess)
    lines += [f"beyond the tilt: cannot conclude, because {why}" for why in report.beyond]
    return lines


def _tilt_words(report: AuditReport) -> str:
    tilt, (within, whose) = report.tilt, report.deviation
    assert tilt is not None
    text = (
        f"effective tilt {tilt} per unit of reward ({tilt.value * within:+.2f} per standard "
        f"deviation{whose} within prompts)"
    )
    if tilt.low <= 0 <= tilt.high:
        text += ": not told from no tilt"
    if report.pooled.count > 1:
        text += f"; {_scope_words(report, tilt)}"
    tilts = report.tilts
    if tilts is not None and tilts.p_value < LEVEL and report.pooled.count > 1:
        text += (
            f"; it varies between prompts, by a standard deviation of {tilts.spread:.2g} "
            f"({p_words(tilts.p_value)})"
        )
    return text


def _scope_words(report: AuditReport, tilt: Tilt) -> str:
    """What the interval is of."""
    mean = "the mean of their tilts, each weighted by what its samples say of it"
    if tilt.scope == ONE_TILT:
        return "if all prompts have one tilt, as was said"
    if tilt.scope == PROMPTS_LIKE:
        return f"of prompts like these, {mean}"
    text = f"of these prompts, {mean}"
    if tilt.alone is not None:
        share = report.pooled.sizes[tilt.alone] / len(report.pooled)
        name = report.data.prompts[int(report.prompts[tilt.alone])]
        text += (
            f": of prompts like these nothing is said, because {name!r} has {100 * share:.0f} % of "
            "the samples"
        )
    return text


def _wrapper_words(report: AuditReport) -> str:
    found = report.wrappers
    assert found is not None
    exponential = found.of("exponential")
    # exp(a r) first wherever it stands: it is what most methods claim.
    candidates = sorted(found.candidates, key=lambda c: c is not exponential)
    good = [c for c in candidates if c.explains][:MOST_NAMED]
    bad = [c for c in candidates if not c.explains][:MOST_NAMED]

    def words(c: Candidate) -> str:
        share = (
            ""
            if math.isnan(c.explained) or c.explains
            else f", {100 * min(max(c.explained, 0.0), 1.0):.0f} % of what a free curve explains"
        )
        return f"{c.fitted.label} ({p_words(c.p_value)}{share})"

    if good:
        text = f"explained by {_and(list(map(words, good)))}"
        rest = f", not by {_and(list(map(words, bad)))}" if bad else ""
        return text + (rest or "; these samples tell no wrapper from another")
    best = found.best
    return f"explained by no wrapper; nearest is {words(best)}" + (
        "" if best is exponential or exponential is None else f", then {words(exponential)}"
    )


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _conditional_words(report: AuditReport, found: Conditional) -> str:
    p = p_words(found.p_value, found.permutations)
    second = ""
    if found.accuracy is not None and found.c2st_p is not None:
        second = (
            f"; a classifier tells them apart {100 * found.accuracy:.1f} % of the time "
            f"({p_words(found.c2st_p, found.permutations)})"
        )
    if found.p_value < LEVEL:
        text = f"given prompt and reward, tuned samples are not the base's ({p}{second})"
        names = _worst(report, found.prompt_p)
        text += f", mostly in {names}" if names else ""
        return text + ": something besides a tilt, or base samples of another model"
    return f"given prompt and reward, tuned samples look like the base's ({p}{second})"


def _excess_words(report: AuditReport, found: Excess) -> list[str]:
    lost, implied = found.lost, 1 - found.implied / found.base
    word, sign = ("lost", 1) if lost.value >= 0 else ("gained", -1)
    ends = sorted((sign * lost.low, sign * lost.high))
    text = (
        f"diversity {word} beyond the tilt: {100 * abs(lost.value):.1f} % of the variance of "
        f"standardised features [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}] "
        f"({p_words(found.p_value)}); the "
        f"tilt itself {'takes' if implied >= 0 else 'adds'} {100 * abs(implied):.1f} %"
    )
    if found.p_value < LEVEL:
        names = _worst(report, found.by_prompt_p)
        text += f"; mostly in {names}" if names else ""
    return [
        text,
        (
            f"Frechet distance to the base {found.frechet_total:.3g}, of which the tilt implies "
            f"{found.frechet_implied:.3g}; tuned against reweighted base: "
            f"{found.frechet_excess:.3g} beyond a floor of {found.frechet_floor:.2g} "
            f"({p_words(found.frechet_p)})"
        ),
    ]


def _worst(report: AuditReport, p: np.ndarray) -> str:
    """Prompts that stand out after Holm's correction, by name."""
    known = np.flatnonzero(~np.isnan(p))
    if len(known) < 2:
        return ""
    order = known[np.argsort(p[known], kind="stable")]
    named = []
    for turn, index in enumerate(order):
        if p[index] * (len(known) - turn) >= LEVEL:
            break
        named.append(report.data.prompts[index])
    if not named:
        return ""
    shown, more = ", ".join(map(repr, named[:MOST_NAMED])), len(named) - MOST_NAMED
    return f"prompts {shown}" + (f" and {more} more" if more > 0 else "")


def validity(report: AuditReport) -> list[str]:
    """What was asked of the samples first, a line a question."""
    return [
        f"{check.question} {check.answer[:1].upper()}{check.answer[1:]}"
        for check in report.validity
    ]


# --- plain data


def as_json(report: AuditReport) -> dict[str, Any]:
    """Everything, as JSON takes it (nan becomes null)."""
    data = report.data
    found: dict[str, Any] = {
        "validity": [
            {"name": c.name, "question": c.question, "answer": c.answer, "ok": c.ok, **c.numbers}
            for c in report.validity
        ],
        "conclusive": report.conclusive,
        "verdict": verdict(report),
        "doubts": list(report.doubts),
        "beyond_doubts": list(report.beyond),
        "notes": list(report.notes),
        "base_samples": len(data.base),
        "tuned_samples": len(data.tuned),
        "prompts": len(data.prompts),
        "left_out": list(data.left_out),
        "features": data.dim,
        "tilt": report.tilt,
        "tilt_concluded": report.tilt_holds,
        "tilt_of": None if report.tilt is None else report.tilt.scope,
        "kl_at_least": report.kl,
        "kl_at_most": report.kl_at_most,
    }
    if report.reweighted is not None:
        found["effective_samples"] = report.reweighted.total
    if report.conclusive:
        found["std_within_prompts"], whose = report.deviation
        found["std_within_prompts_of"] = "both sides" if whose else "base"
    if report.wrappers is not None:
        found["wrappers"] = [
            {
                "name": c.name,
                "label": c.fitted.label,
                "parameters": c.fitted.parameters,
                "held_out": c.held_out,
                "behind_best": c.behind,
                "behind_error": c.error,
                "p_value": c.p_value,
                "explained": c.explained,
                "explains": c.explains,
                "as_good_as_best": c.as_good,
            }
            for c in report.wrappers.candidates
        ]
        found["wrappers_refused"] = report.wrappers.refused
        found["held_out_rows"] = report.wrappers.held_out_rows
    if report.tilts is not None:
        found["between_prompts"] = {"spread": report.tilts.spread, "p_value": report.tilts.p_value}
    if (c := report.conditional) is not None:
        found["conditional"] = {
            "p_value": c.p_value,
            "statistic": c.statistic,
            "accuracy": c.accuracy,
            "c2st_p_value": c.c2st_p,
            "informed": c.informed,
            "rows": c.rows,
            "permutations": c.permutations,
        }
    if (e := report.excess) is not None:
        found["excess"] = {
            "variance_base": e.base,
            "variance_implied": e.implied,
            "lost": e.lost,
            "p_value": e.p_value,
            "resampled": e.resampled,
            "frechet_total": e.frechet_total,
            "frechet_implied": e.frechet_implied,
            "frechet_excess": e.frechet_excess,
            "frechet_floor": e.frechet_floor,
            "frechet_p_value": e.frechet_p,
        }
    found["by_prompt"] = by_prompt(report) if len(data.prompts) > 1 else []
    return _plain(found)


def by_prompt(report: AuditReport) -> list[dict[str, Any]]:
    """A row a prompt: samples, rewards, tilt, what was lost."""
    data = report.data
    count = len(data.prompts)
    n = [np.bincount(side.prompt, minlength=count) for side in (data.base, data.tuned)]
    means = [
        np.bincount(side.prompt, side.reward, count) / np.maximum(sizes, 1)
        for side, sizes in zip((data.base, data.tuned), n, strict=True)
    ]
    tilts, errors, effective = (np.full(count, np.nan) for _ in range(3))
    # Prompts without a tilt of their own are not among the pooled rows.
    if report.tilts is not None and report.reweighted is not None:
        there = report.prompts
        tilts[there], errors[there] = report.tilts.tilt, report.tilts.error
        effective[there] = report.reweighted.effective
    columns: dict[str, Any] = {
        "prompt": data.prompts,
        "base_samples": n[0].tolist(),
        "tuned_samples": n[1].tolist(),
        "base_reward": means[0],
        "tuned_reward": means[1],
        "tilt": tilts,
        "tilt_error": errors,
        "effective_samples": effective,
    }
    if report.conditional is not None:
        columns["conditional_p_value"] = report.conditional.prompt_p
    if report.excess is not None:
        columns |= {"lost": report.excess.by_prompt, "lost_p_value": report.excess.by_prompt_p}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        value = {name: getattr(value, name) for name in ("value", "low", "high", "error")}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
