"""Why do v+ and v- look the same?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import BLUE, VERMILION, subplots
from theory.ledger.liu.laws import PROBLEMS
from theory.ledger.released.cancel_given import sizes
from theory.methods.matching.reward_mapping import SPREAD
from theory.problems.problem import load_problem

QUESTION = "Why do v+ and v- look the same?"
GIVEN = frozenset({"spread"})
DRAWS = 2048


def measure() -> dict[str, Any]:
    """What the released mapping lets move, on every named problem that has closed moments."""
    found = [(problem, sizes(problem, DRAWS).fall) for problem in map(load_problem, PROBLEMS)]
    rows = [
        {"problem": problem.name, "dim": f"{problem.dim}", "fall": fall, "apart": 4 * fall}
        for problem, fall in found
    ]
    return {"spread": 1 / SPREAD, "draws": DRAWS, "rows": rows}


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = numbers["rows"]
    table = "\n".join(
        f"| {r['problem']} | {r['dim']} | {100 * r['fall']:.3f} % | {100 * r['apart']:.3f} % |"
        for r in rows
    )
    most = max(rows, key=lambda r: r["fall"])
    spread = numbers["spread"]
    return f"""
Because they nearly are, also when training works. With the released mapping (standard deviation of
r about {spread:g}) the mean loss falls by {100 * most["fall"]:.2f} % of its value at the most on
the way to its optimum, over {len(rows)} problems, and |v+ - v-|² there is
{100 * most["apart"]:.1f} % of the loss: the rest is the spread of X1 - X0 given X_t, which no
student can predict.

Both branches have the same mean squared error at every student:
`E|v+ - Y|² = E|v- - Y|² = tr Cov(Y|X_t) + beta² |v - v_old|²` with `Y = X1 - X0`; the reward enters
through the pairing of r with the sign alone. With `C = Cov(r, Y | X_t)` the mean loss is
`tr Cov(Y|X_t)` at v_old and `tr Cov(Y|X_t) - 4 |C|²` at its optimum, where the branches lie
`4 |C|` apart, whatever beta is (ledger N2). And `|C|² <= Var(r|X_t) tr Cov(Y|X_t)`: with a
conditional standard deviation of {spread:g}, no more than {100 * 4 * spread**2:.0f} % could
move, in any dimension.

One epoch, data predictions weighted over t as the released loss weighs them, exact posterior
moments on {numbers["draws"]:,} draws a time:

| problem | dimension | the loss falls by | distance of the branches, as a share of the loss |
|---|---|---|---|
{table}

So look at the reward of fresh samples, not at the loss. The values of the two branches' losses are
equal in the mean; their difference weighted by 2r - 1 is what is trained.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Both shares by problem, on a log axis."""
    rows = sorted(numbers["rows"], key=lambda r: r["fall"])
    figure, axes = subplots(figsize=(6.8, 3.8))
    place = np.arange(len(rows))
    for key, color, marker, label in (
        ("fall", BLUE, "o", "what the loss falls by"),
        ("apart", VERMILION, "s", "|v+ - v-|² at the optimum"),
    ):
        axes.plot([100 * r[key] for r in rows], place, marker, color=color, label=label)
    axes.set_xscale("log")
    axes.axvline(100, color="0.6", lw=0.9, ls=":")
    axes.text(94, 0.0, "the loss itself", fontsize=7, color="0.4", ha="right", va="center")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.12)
    axes.set_yticks(place, [f"{r['problem']} (d = {r['dim']})" for r in rows])
    axes.set(
        xlabel="% of the loss's value", xlim=(None, 140),
        title="what the reward can move in the released loss, one epoch",
    )  # fmt: skip
    axes.legend(fontsize=8, loc="center right", bbox_to_anchor=(0.92, 0.5))
    return figure
