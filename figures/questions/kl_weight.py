"""Does a KL weight of 1e-4 hold anything back?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.released.penalty import Penalty, law_tilt

QUESTION = "Does a KL weight of 1e-4 hold anything back?"
GIVEN = frozenset({"weight", "epochs", "times", "nft_beta"})
WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1)
EPOCHS = (1, 20, 200, 2000)
TIMES = (0.0, 0.5, 0.9, 0.99)
GRID = np.linspace(0, 0.999, 200)
COLORS = (BLUE, GREEN, ORANGE, VERMILION)
DASHES = ("-", "--", "-.", (0, (3, 1, 1, 1)))


def measure() -> dict[str, Any]:
    """How much of the free tilt is left, at times and in the law, with the adaptive normaliser."""
    anchors = {weight: Penalty(1.0, weight, "x1") for weight in WEIGHTS}
    rows = [
        {
            "weight": weight,
            "kept": [law_tilt(partial(anchor.kept, epochs=k)) for k in EPOCHS],
            "limit": law_tilt(anchor.limit_per_std),
            "limits": anchor.limit_per_std(np.array(TIMES)).tolist(),
            "kept_200": anchor.kept(GRID, 200).tolist(),
        }
        for weight, anchor in anchors.items()
    ]
    return {
        "nft_beta": 1.0,
        "epochs": list(EPOCHS),
        "times": list(TIMES),
        "t": GRID.tolist(),
        "rows": rows,
        "plain_200": law_tilt(partial(Penalty(1.0, WEIGHTS[0], "off").kept, epochs=200)),
    }


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    first, strong = numbers["rows"][0], numbers["rows"][2]
    epochs, times = numbers["epochs"], numbers["times"]
    long = epochs.index(200)
    table = "\n".join(
        f"| {r['weight']:g} | "
        + " | ".join(f"{100 * v:.2f} %" for v in r["kept"])
        + " | "
        + " | ".join(f"{v:.3g}" for v in r["limits"])
        + " |"
        for r in numbers["rows"]
    )
    heads = " | ".join([f"after {k}" for k in epochs] + [f"limit, t = {t:g}" for t in times])
    return f"""
Hardly. At 1e-4 and beta = 1 the tilt after 200 epochs is
{100 * first["kept"][long]:.1f} % of what it is without the penalty
({100 * numbers["plain_200"]:.1f} % with the adaptive normaliser off). It is no anchor
at any length of training that is used; {strong["weight"]:g} is one, and keeps
{100 * strong["kept"][long]:.0f} %.

The term is `kl_weight |v - v_ref|²`, in velocities, beside a loss on x1-predictions, in which the
velocity counts `5 beta (1-t)² / w` times, w the adaptive normaliser. So one epoch's optimum keeps
`omega(t) = 1 / (1 + kl w / (5 beta (1-t)²))` of its step from the reference, and over epochs the
tilt at time t runs into the anchored limit `eta_0(t) = 10 (1-t)² / (w kl)`, in units of the mapped
reward (ledger N3, Z8, Z9). One weight is therefore no single KL strength: it is weakest at the
noise end and pins the field near the data, t -> 1, at any weight, where there is hardly any
tilting left to do. With the adaptive normaliser w falls like 1-t, which softens that.

Share of the unpenalised tilt that the law keeps (Gaussian data, reward along a line, beta = 1,
adaptive normaliser on), and the limit of the tilt by time, in standard deviations of the reward:

| kl_weight | {heads} |
|---|{"---|" * (len(epochs) + len(times))}
{table}

These are first-order tilts with every epoch trained to its optimum; where an epoch goes only part
of the way, or the old copy lags, both the tilt and the pull of the penalty are per update, and the
limit is the same.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Share of the tilt that is kept after 200 epochs, against t."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    for row, color, dash in zip(numbers["rows"], COLORS, DASHES, strict=True):
        label = f"kl_weight = {row['weight']:g}"
        left.plot(numbers["t"], row["kept_200"], color=color, ls=dash, lw=1.4, label=label)
        right.semilogx(numbers["epochs"], row["kept"], color=color, ls=dash, marker="o", ms=4,
                       lw=1.4, label=label)  # fmt: skip
    left.set(
        xlabel="t (0 noise, 1 data)", ylabel="share of the tilt that is kept", ylim=(0, 1.03),
        title="after 200 epochs, by time",
    )  # fmt: skip
    right.set(
        xlabel="epochs", ylabel="share of the tilt that is kept", ylim=(0, 1.03),
        title="in the law of the samples",
    )  # fmt: skip
    right.axhline(1, color=BLACK, lw=0.6, ls=":")
    right.legend(fontsize=8, loc="lower left")
    return figure
