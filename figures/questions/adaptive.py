"""What does the adaptive weight change at my dimension?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import BLUE, GREEN, ORANGE, PURPLE, VERMILION, subplots
from theory.ledger.liu.adaptive import DIMS, drift, drift_table
from theory.ledger.released.normaliser_times import time_weights

QUESTION = "What does the adaptive weight change at my dimension?"
GIVEN = frozenset({"dims", "times"})
TIMES = np.linspace(0.05, 0.95, 10)
STYLES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (ORANGE, "D"), (PURPLE, "v"))
DASHES = ("-", "--", "-.", ":")


def measure() -> dict[str, Any]:
    """Distance of the stationary field from v*, over the step |v* - v_0|; weights over time."""
    return {
        "dims": list(DIMS),
        "drift": drift_table(),
        "quiet": drift(256, rest_std=1e-4),
        "loud": drift(256),
        "times": TIMES.tolist(),
        "weights": {k: v.tolist() for k, v in time_weights(TIMES).items()},
    }


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    dims, table = numbers["dims"], numbers["drift"]
    shown = [i for i, d in enumerate(dims) if d in (1, 4, 16, 64, 256, 1024, 4096)]
    lines = "\n".join(
        f"| {name} | " + " | ".join(_percent(row[i]) for i in shown) + " |"
        for name, row in table.items()
    )
    first = next(iter(table.values()))
    weights = "\n".join(
        f"| {name} | {row[0] / row[-1]:.3g} |" for name, row in numbers["weights"].items()
    )
    return f"""
In d = 1 it moves what is learned by {_percent(first[0])} of the step for r in [0, 1] (and by more
than the step itself for some rewards); at the size of image latents nothing is left of that:
{_percent(first[-1])} at d = {dims[-1]}. What it does change at any size is how much each time t
counts.

The released code divides each branch's squared error by its own mean absolute value, held fixed.
The zero of that semi-gradient is not NFT's optimum: in d = 1, where an error over its own size is a
sign, it is a median with odds r : 1 - r in place of a mean (ledger L13). With d independent
coordinates of like size the mean absolute error is nearly the same for every sample, so it cancels,
and the drift falls like 1/d. Distance of the stationary field from v*, as a share of the step that
v* makes from v_old; the note's toy in one coordinate, N(0, 1) in the others:

| range of r | {" | ".join(f"d = {dims[i]}" for i in shown)} |
|---|{"---|" * len(shown)}
{lines}

What counts is how many coordinates have errors of one size. At d = 256 with the other coordinates
almost constant (standard deviation 1e-4) the drift is {_percent(numbers["quiet"])}, not
{_percent(numbers["loud"])}. nft_beta divides drift and step alike.

Acting on the x1-prediction or on the velocity, the stationary field is one and the same (ledger
N5), but not the weight of times. What a squared error of the velocity counts at t = {TIMES[0]:g}
over t = {TIMES[-1]:g}, d = 1:

| normaliser | weight of t = {TIMES[0]:g} over t = {TIMES[-1]:g} |
|---|---|
{weights}

For a network that cannot fit every t, that decides where it errs; for the exact optimum at each t
it does not matter.
"""


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Drift against the dimension, weights against time."""
    figure, (left, right) = subplots(1, 2, figsize=(9.8, 3.8))
    for (name, row), (color, marker) in zip(numbers["drift"].items(), STYLES, strict=False):
        left.loglog(numbers["dims"], row, color=color, marker=marker, ms=4, lw=1.2,
                    label=f"r in {name}")  # fmt: skip
    left.set(
        xlabel="dimension", ylabel="distance from v* / step of v*",
        title="the adaptive normaliser's drift, the note's toy",
    )  # fmt: skip
    left.legend(fontsize=8)
    for (name, row), (color, _), dash in zip(
        numbers["weights"].items(), STYLES, DASHES, strict=False
    ):
        right.semilogy(numbers["times"], row, color=color, ls=dash, lw=1.4, label=name)
    right.set(
        xlabel="t (0 noise, 1 data)", ylabel="weight of a squared velocity error (mean 1)",
        title="what each time counts",
    )  # fmt: skip
    right.legend(fontsize=8)
    return figure
