"""EMA or copy?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.ledger.released.schedule import trained_gap
from theory.released.mapping import ideal_tilt
from theory.released.schedule import SCHEDULES, partial_gain, schedule

QUESTION = "EMA or copy?"
GIVEN = frozenset({"epochs", "decay", "reach"})
EPOCHS = (20, 50, 100, 200, 500)
LAST = 500
TEXTS = {
    "none": "hard copy",
    "half": "min(0.001 k, 0.5)",
    "late": "0, after step 75 min(0.0075 (k - 75), 0.999)",
    "0.9": "constant 0.9",
}
COLORS = (BLACK, BLUE, VERMILION, GREEN)
DASHES = ("-", "--", "-.", (0, (3, 1, 1, 1)))
REACHES = (1.0, 0.5, 0.1, 0.02)


def measure() -> dict[str, Any]:
    """Full updates by epochs, one optimiser step an epoch as the step counter of the schedules."""
    rows = [
        {
            "name": name,
            "updates": [rule.full_updates(k) for k in EPOCHS],
            "along": np.cumsum(1 - rule.decays(LAST)).tolist()[::5],
        }
        for name, rule in {**SCHEDULES, "0.9": schedule("constant", 0.9)}.items()
    ]
    partial = [
        {"reach": r, "copy": partial_gain(0.0, r), "half": partial_gain(0.5, r),
         "slow": partial_gain(0.9, r)}
        for r in REACHES
    ]  # fmt: skip
    return {
        "epochs": list(EPOCHS),
        "rows": rows,
        "partial": partial,
        "gaps": {n: trained_gap(SCHEDULES[n], 200)["of the whole way"] for n in ("half", "late")},
    }


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    epochs, rows = numbers["epochs"], {r["name"]: r for r in numbers["rows"]}
    table = "\n".join(
        f"| {TEXTS[n]} | " + " | ".join(f"{v:.1f}" for v in r["updates"]) + " |"
        for n, r in rows.items()
    )
    partial = "\n".join(
        f"| {100 * p['reach']:g} % | {p['copy']:.3f} | {p['half']:.3f} | {p['slow']:.3f} |"
        for p in numbers["partial"]
    )
    late, half, copied = (rows[n]["updates"][epochs.index(200)] for n in ("late", "half", "none"))
    small = numbers["partial"][-1]
    return f"""
An EMA of decay d makes 1 - d of an update an epoch: it slows the tilt and does not anchor it. Of
{copied:.0f} epochs, the released schedule min(0.001 k, 0.5) makes {half:.0f} full updates, and the
one that begins after step 75 and ends at 0.999 makes {late:.0f}: it all but stops.

Where every epoch is trained to its optimum, the student is the old copy plus one tilt of 0.2/beta
standard deviations, and `old <- d old + (1-d) student` moves the old copy by (1-d) of that: after
K epochs by the sum of 1 - d (ledger N4, Z7). Without a KL anchor nothing is forgotten, so a lagging
old copy reaches the same laws later. Full updates after K epochs of one optimiser step each (k = K;
with more steps an epoch the schedules run through sooner):

| decay of the old copy | {" | ".join(f"K = {k}" for k in epochs)} |
|---|{"---|" * len(epochs)}
{table}

Times {ideal_tilt(1.0):g}/beta, that is the tilt in standard deviations, to first order.

If an epoch goes only part of the way to its optimum and the student is carried on, the lag costs
less, because the student keeps what the old copy has not taken yet. Tilt per epoch in the long
run, in units of a full one:

| way to the optimum in an epoch | hard copy | d = 0.5 | d = 0.9 |
|---|---|---|---|
{partial}

At {100 * small["reach"]:g} % of the way d = 0.5 loses only
{100 * (1 - small["half"] / small["copy"]):.0f} %. What an EMA does buy is less noise in the old
copy, which is what its samples and targets are made of; that is not in these figures.

Averaging LoRA's factors A and B is not averaging their product: the gap is
`d (1-d) (B_new - B_old)(A_new - A_old)`, of second order in the step. For an adapter trained for
200 epochs it ends at {100 * numbers["gaps"]["half"]:.2g} % of the whole way with
min(0.001 k, 0.5) and {100 * numbers["gaps"]["late"]:.2g} % with the late schedule.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Full updates against epochs, and the tilt per epoch against how far an epoch goes."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.7))
    for row, color, dash in zip(numbers["rows"], COLORS, DASHES, strict=True):
        epochs = 1 + 5 * np.arange(len(row["along"]))
        left.plot(epochs, row["along"], color=color, ls=dash, lw=1.4, label=TEXTS[row["name"]])
    left.set(xlabel="epochs", ylabel="full updates", title="what the old copy has moved")
    left.legend(fontsize=7.5, loc="upper left")
    reach = [p["reach"] for p in numbers["partial"]]
    for key, color, marker, label in (
        ("copy", BLACK, "o", "hard copy"), ("half", BLUE, "s", "d = 0.5"),
        ("slow", ORANGE, "^", "d = 0.9"),
    ):  # fmt: skip
        right.loglog(
            reach, [p[key] for p in numbers["partial"]], color=color, marker=marker, lw=1.3,
            label=label,
        )  # fmt: skip
    right.set(
        xlabel="share of the way to its optimum that an epoch goes",
        ylabel="tilt per epoch, in full ones", title="an epoch that is not trained to its end",
    )  # fmt: skip
    right.set_xticks(reach, [f"{r:g}" for r in reach])
    right.minorticks_off()
    right.legend(fontsize=8)
    return figure
