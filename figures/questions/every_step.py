"""What if the old copy is replaced after every step?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, VERMILION, subplots
from theory.ledger.liu.laws import PROBLEMS
from theory.ledger.released.cancel import PREFACTOR, gradient
from theory.ledger.released.every_step import directions, upside_down
from theory.ledger.settings.lemma import LemmaSetting
from theory.methods.matching.reward_mapping import SPREAD
from theory.problems.problem import load_problem
from theory.tilts.moments import reward_moments

QUESTION = "What if the old copy is replaced after every step?"
GIVEN = frozenset({"advantage", "nft_beta", "steps", "rate", "x", "t"})
PROBLEM, T, PLACES = "note_1d", 0.5, (1.0, -0.6)
ADVANTAGES, BETAS = (-5.0, -1.0, 0.5, 2.0), (0.1, 1.0, 10.0)
RATE, STEPS = 0.02, 120
DRAWS = 4096


def _sample(advantage: float, nft_beta: float) -> LemmaSetting:
    """One sample in d = 1: student and old copy at 0, data at 1."""
    zero, one = np.zeros(1), np.ones(1)
    return LemmaSetting(zero, one, zero, zero, 0.5 + advantage / SPREAD, nft_beta)


def _followed(x: float) -> dict[str, Any]:
    """Mean velocity at (x, T) over gradient steps on fixed samples, less v_0, in units of 2 C, the
    step of nft_beta = 1: with the old copy kept, and with it replaced after every step."""
    problem = load_problem(PROBLEM)
    mean, std = reward_moments(problem.base, problem.moments)
    place = torch.tensor([[x]], dtype=torch.float64)
    m = 0.5 + float(problem.conditional_reward.mean(place, T)[0] - mean) / std / SPREAD
    kept, replaced = [0.0], [0.0]
    for _ in range(STEPS):
        # (5/b) d/dv of the loss with the old copy kept, at b = 1; 5 d/dv E[(2r - 1)|v - Y|^2 | x].
        kept.append(kept[-1] - RATE * 2 * PREFACTOR * (kept[-1] - 1))
        replaced.append(replaced[-1] - RATE * 2 * PREFACTOR * ((2 * m - 1) * replaced[-1] - 1))
    return {"x": x, "mean_r": m, "kept": kept, "replaced": replaced}


def measure() -> dict[str, Any]:
    """Gradients of one sample by advantage and nft_beta; steps on fixed samples; where the weighted
    loss has no minimum; how the normaliser turns it."""
    rows = [
        {
            "advantage": a,
            "gradients": [
                float(gradient(_sample(a, b), 0.5 + a / SPREAD, "off")[0]) for b in BETAS
            ],
            "weighted": 2 * a * (0.0 - 1.0),  # A d/dv |v - 1|^2 at v = 0
        }
        for a in ADVANTAGES
    ]
    return {
        "problem": PROBLEM, "t": T, "nft_beta": list(BETAS), "rows": rows, "steps": STEPS,
        "rate": RATE, "places": [_followed(x) for x in PLACES],
        "upside_down": {n: upside_down(load_problem(n), DRAWS) for n in PROBLEMS},
        "cosines": {n: directions(load_problem(n)) for n in ("note_1d", "quadratic_1d")},
    }  # fmt: skip


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    betas = numbers["nft_beta"]
    table = "\n".join(
        f"| {r['advantage']:+g} | "
        + " | ".join(f"{g:+g}" for g in r["gradients"])
        + f" | {r['weighted']:+g} |"
        for r in numbers["rows"]
    )
    least, most = (100 * end(numbers["upside_down"].values()) for end in (min, max))
    high, low = numbers["places"]
    cosines = "; ".join(
        f"`{n}` {v['mapped']:.3f}, and {v['mean 0.6']:.3f} if the mean of r is 0.6"
        for n, v in numbers["cosines"].items()
    )
    return f"""
Then beta does nothing, and the loss is flow matching weighted by the signed advantage: the
gradient of a sample is A times that of |v - (X1 - X0)|², exactly, with the normaliser off. What is
lost is the minimum: on fixed samples such a loss is upside down on {100 * least:.0f} to {
        100
        * most:.0f} % of the path, so it needs fresh samples and small steps to stay in its place.

With student and old copy one and the same at every step, `x1+-` are both the student's prediction
and only the slopes differ:
`(c/beta) d/dv [r |v+ - Y|² + (1 - r)|v- - Y|²] = c (2r - 1) d/dv |v - Y|²`, and `c (2r - 1)` is
the advantage, clipped at c = adv_clip_max (ledger N8: steps of the method, old copy and all,
against steps of the weighted loss in exact rationals). One sample in d = 1, student 0, data 1,
gradients by autograd:

| A | {" | ".join(f"beta = {b:g}" for b in betas)} | A times that of flow matching |
|---|{"---|" * len(betas)}---|
{table}

With the old copy kept for an epoch the loss given X_t is curved by 2 beta², whatever r is, and
ends at `v_old + (2/beta) Cov(r, Y | X_t)`. Weighted by A it is curved by `2 E[2r - 1 | X_t]` (both
before the factor). At X_t = {high["x"]:g}, t = {numbers["t"]:g} of `{numbers["problem"]}` E[r |
X_t] is {high["mean_r"]:.3f}, and {numbers["steps"]} steps on fixed samples go
{high["replaced"][-1]:.1f} times as far as the epoch of beta = 1 would; at X_t = {low["x"]:g} it is
{low["mean_r"]:.3f}, and they have gone {low["replaced"][-1]:.1f} times as far and are speeding up.
The first step is the same everywhere. So the number of steps on one batch takes beta's place:
learning rate times steps is the tilt.

The adaptive normaliser divides each sample's gradient by its own mean error. In d = 1 that turns
the mean field (cosine to the one without it: {cosines}); in the dimensions of images the errors of
one time are all of one size ([what does the adaptive weight change?](adaptive.md)).

VRL's trainer refreshes its previous policy like that, after every optimiser step (with its
weight_copy_decay of 0), and verl-omni does with old_policy_decay_schedule=copy and
old_policy_update_interval=1; DiffusionNFT's own code follows once an epoch. Where it is done,
`old_deviate` or `prediction_deviation` is logged as 0 and the loss's value holds no reward ([does
the reward cancel?](cancel.md)): only rewards of fresh samples show that it trains.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """The mean velocity over steps on fixed samples, and where there is no minimum."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6), width_ratios=(3, 2))
    steps = np.arange(numbers["steps"] + 1)
    left.plot(steps, numbers["places"][0]["kept"], color=BLACK, lw=1.5,
              label="old copy kept, beta = 1 (any $X_t$)")  # fmt: skip
    for place, color, dash in zip(numbers["places"], (BLUE, VERMILION), ("--", "-."), strict=True):
        left.plot(
            steps, place["replaced"], color=color, ls=dash, lw=1.5,
            label=f"replaced every step, E[r | $X_t$ = {place['x']:g}] = {place['mean_r']:.3f}",
        )  # fmt: skip
    left.set_yscale("symlog", linthresh=1.0)
    left.set(
        ylim=(-0.15, 3e3),
        xlabel="gradient steps on fixed samples",
        ylabel="$(v - v_0)$ / (2 Cov(r, Y | $X_t$))",
        title="how far one batch can be followed",
    )
    left.legend(fontsize=8, loc="upper left")
    names = list(numbers["upside_down"])[::-1]
    right.barh(names, [100 * numbers["upside_down"][n] for n in names], color=VERMILION, height=0.6)
    right.set(xlabel="% of the path where E[r | $X_t$] < 1/2", xlim=(0, 100),
              title="no minimum there")  # fmt: skip
    return figure
