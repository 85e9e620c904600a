"""Does the reward cancel when old = new?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, subplots
from theory.ledger.released.cancel import gradient, value
from theory.ledger.settings.lemma import LemmaSetting

QUESTION = "Does the reward cancel when old = new?"
GIVEN = frozenset({"reward", "student"})
REWARDS = (0.0, 0.25, 0.5, 0.75, 1.0)
STUDENTS = tuple(np.linspace(-0.5, 1.0, 31).tolist())
STYLES = (
    (BLUE, "-"), (GREEN, (0, (5, 1))), (BLACK, "--"), (ORANGE, "-."), (VERMILION, (0, (3, 1, 1, 1)))
)  # fmt: skip


def _at(student: float, reward: float) -> LemmaSetting:
    """One sample in d = 1: old copy at 0, data at 1, nft_beta = 1."""
    return LemmaSetting(np.zeros(1), np.ones(1), np.full(1, student), np.zeros(1), reward, 1.0)


def measure() -> dict[str, Any]:
    """The released loss of one sample along a line of students, by theory.methods' own code."""
    rows = [
        {
            "reward": r,
            "value": float(value(_at(0.0, r), r, "off")),
            "gradient": float(gradient(_at(0.0, r), r, "off")[0]),
            "normalised_gradient": float(gradient(_at(0.0, r), r, "x1")[0]),
            "along": [float(value(_at(s, r), r, "off", 1.0)) for s in STUDENTS],
        }
        for r in REWARDS
    ]
    return {"student": list(STUDENTS), "rows": rows}


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = numbers["rows"]
    table = "\n".join(
        f"| {r['reward']:g} | {r['value']:g} | {r['gradient']:+g} | {r['normalised_gradient']:+g} |"
        for r in rows
    )
    least, most = rows[0], rows[-1]
    return f"""
Of the loss's value, yes; of its gradient, no, and the gradient is what trains. For a sample whose
old prediction is off by one, the value is {least["value"]:g} for every r from 0 to 1, and the
gradient runs from {least["gradient"]:+g} at r = 0 to {most["gradient"]:+g} at r = 1.

With student = old copy both branches are the old prediction, so
`r |x1+ - x1|^2 + (1 - r)|x1- - x1|^2 = |x1_old - x1|^2`, without r. But one branch moves with
the student and the other against it: the gradient is `10 (2r - 1)(x1_old - x1)` per sample
(the released loss's factor 5/beta cancels beta), and its mean given X_t is the covariance of r
with the velocity (ledger N2, L1). The adaptive normaliser divides both by the same number there.

One sample in d = 1, old prediction 0, data 1, nft_beta = 1, by the loss of
`theory/methods/matching/nft.py` and its autograd:

| r | value | gradient | gradient, adaptive normaliser |
|---|---|---|---|
{table}

Trainers log how far the two are apart, the mean of |v - v_old|², as `old_deviate` (DiffusionNFT's
own code, FastVideo, verl-omni: `actor/old_deviate`) or `prediction_deviation` (UniRL). What this
page says is of a step where that number is 0: the first one of an epoch, or every one where the old
copy is replaced after each ([what then?](every_step.md)).

So a first logged loss of every epoch that ignores the reward is as it should be, and so is one
that hardly falls: see [why v+ and v- look the same](branches.md). A gradient that is zero at the
first step means rewards of exactly one half (a constant reward, say), not old = new.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """The loss against the student, by reward: one value and five slopes at the old copy."""
    figure, axes = subplots(figsize=(6.4, 3.8))
    for row, (color, dash) in zip(numbers["rows"], STYLES, strict=True):
        axes.plot(
            numbers["student"], row["along"], color=color, ls=dash, lw=1.5,
            label=f"r = {row['reward']:g}",
        )  # fmt: skip
    axes.plot([0], [numbers["rows"][0]["value"]], "o", color=PURPLE, ms=6, zorder=5)
    axes.axvline(0, color="0.7", lw=0.8, ls=":")
    axes.annotate(
        "student = old copy:\none value, another slope for each r",
        (0, numbers["rows"][0]["value"]), (-0.25, 3.3 * numbers["rows"][0]["value"]), fontsize=8,
        arrowprops={"arrowstyle": "-", "color": "0.5", "lw": 0.8},
    )  # fmt: skip
    axes.set(
        xlabel="the student's prediction (old copy 0, data 1)", ylabel="released loss",
        title="loss of one sample by reward, nft_beta = 1",
    )  # fmt: skip
    axes.legend(fontsize=8, ncols=1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
