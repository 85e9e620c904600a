"""Advantage or reward?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures.shared.paths import path_draws
from theory.evaluation.draw import BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.methods.matching.reward_mapping import SPREAD
from theory.problems.problem import load_problem
from theory.tilts.moments import reward_moments

QUESTION = "Advantage or reward?"
GIVEN = frozenset({"tilt"})
PROBLEM = "note_1d"
TILT = 0.2  # of an epoch, in standard deviations of the reward
DRAWS, SEED = 400_000, 6
HEAD = (
    "| r | mean | std | distance of the mean from 1/2, in std | beta for the same tilt | "
    "variance over squared signal |\n|---|---|---|---|---|---|"
)
COLORS = (BLUE, VERMILION, ORANGE, GREEN)


def measure() -> dict[str, Any]:
    """One tilt by four forms of r: the beta that each needs, its field's gap to the first form's,
    and the noise of a Newton step at v_old, (1/beta)(2r - 1)(v_old - Y), over the signal."""
    problem = load_problem(PROBLEM)
    mean, std = reward_moments(problem.base, problem.moments)
    x1, y, old, cov = path_draws(problem, DRAWS, SEED)
    raw = problem.reward(x1)
    forms = {
        "advantage, mapped: 1/2 + A/10": (0.5 + (raw - mean) / std / SPREAD, 1 / (SPREAD * std)),
        "advantage itself: A": ((raw - mean) / std, 1 / std),
        "reward in [0, 1]": (raw, 1.0),
        "reward in [0, 1] less its mean": (raw - mean, 1.0),
    }
    signal = float((TILT / std * cov).square().sum(-1).mean())
    rows = []
    for name, (r, unit) in forms.items():
        beta = 2 * unit * std / TILT
        step = (2 * r - 1)[:, None] * (y - old) / beta
        rows.append(
            {
                "form": name,
                "mean": float(r.mean()),
                "std": float(r.std()),
                "nft_beta": beta,
                "noise": float(step.square().sum(-1).mean()) / signal - 1,
                "field_gap": float(((2 / beta) * unit * cov - TILT / std * cov).abs().max()),
            }
        )
    return {"problem": PROBLEM, "tilt": TILT, "draws": DRAWS, "rows": rows}


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = numbers["rows"]
    table = "\n".join(
        f"| {r['form']} | {r['mean']:.2f} | {r['std']:.3f} | "
        f"{abs(r['mean'] - 0.5) / r['std']:.2f} | {r['nft_beta']:.2f} | "
        f"{r['noise']:.1f} |"
        for r in rows
    )
    mapped, advantage, raw, _ = rows
    least, most = min(r["noise"] for r in rows), max(r["noise"] for r in rows)
    return f"""
Either gives the same optimum, at a beta in proportion to the spread of r: {mapped["nft_beta"]:.1f}
for the released advantage 1/2 + A/10, {raw["nft_beta"]:.1f} for this problem's reward as it is,
{advantage["nft_beta"]:.0f} for A itself, all for a tilt of {numbers["tilt"]:g} standard deviations.
What differs is the noise, which grows with the distance of the mean of r from one half in units of
its spread: {least:.1f} to {most:.1f} times the signal here.

The optimum is `v_old + (2/beta) Cov(X1 - X0, r | X_t)`. A covariance does not see a constant, so
subtracting a mean (of all rewards, or of the prompt's) moves nothing, and dividing by a standard
deviation is dividing beta (ledger L1, N1). It holds for r outside [0, 1] too: the loss's curvature
is 2 beta² whatever r is. A sample's step is `(1/beta)(2r - 1)(X1 - X0 - v_old)`; at the beta that
one tilt takes, its part that does not know r is (1 - 2 E r)/beta, in proportion to |E r - 1/2|
over the spread of r.

Variance of one sample's step at v_old over the square of the mean step, along the path, problem
`{numbers["problem"]}`, {numbers["draws"]:,} draws:

{HEAD}
{table}

The form that is centred far from one half for its spread is the noisy one; a narrow reward at the
edge of [0, 1] is the bad case ([is r near one half a problem?](one_half.md)), and A itself, at a
beta ten times as large, is no noisier than the mapped one.

The advantage keeps one more promise: its spread is the same in every batch, so beta means the same
tilt for every reward and, as training narrows the law, in every epoch. The other side of it: a
spread that has fallen to noise is blown up again to 0.2/beta of a standard deviation.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """The noise by form."""
    rows = numbers["rows"][::-1]
    figure, axes = subplots(figsize=(7.2, 2.9))
    place = np.arange(len(rows))
    axes.barh(place, [r["noise"] for r in rows], color=COLORS[::-1], height=0.6)
    for i, row in enumerate(rows):
        axes.text(
            row["noise"] + 0.05, i, f"{row['noise']:.1f}  (beta {row['nft_beta']:.2f})",
            va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(place, [r["form"] for r in rows])
    axes.set(
        xlabel="variance of a sample's step / squared signal",
        xlim=(0, 1.35 * max(r["noise"] for r in rows)),
        title=f"four forms of r, one optimum (a tilt of {numbers['tilt']:g} standard deviations)",
    )  # fmt: skip
    return figure
