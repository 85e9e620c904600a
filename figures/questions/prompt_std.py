"""Global or per-prompt std?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from theory.evaluation.draw import BLUE, GREEN, VERMILION, subplots
from theory.released.mapping import MappedRewards, Rewards, batch_std, ideal_tilt

QUESTION = "Global or per-prompt std?"
GIVEN = frozenset({"stds", "means", "group"})
GROUP = 24
STDS = (0.25, 0.5, 1.0, 2.0)
CASES = {
    "batch's std, prompts of one mean": (0.0, 0.0, 0.0, 0.0),
    "batch's std, prompts of other means": (-3.0, -1.0, 1.0, 3.0),
}
STYLES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"))


def measure() -> dict[str, Any]:
    """Effective tilt of four prompts at nft_beta = 1, each in its own standard deviations."""
    cases = []
    for name, means in CASES.items():
        laws = [Rewards.gaussian(m, s) for m, s in zip(means, STDS, strict=True)]
        spread = batch_std(laws)
        tilts = [MappedRewards(law, spread, GROUP).effective_tilt(1.0) for law in laws]
        cases.append({"case": name, "means": list(means), "batch_std": spread, "tilts": tilts})
    own = [MappedRewards(Rewards.gaussian(0, s), s, GROUP).effective_tilt(1.0) for s in STDS]
    cases.append({"case": "each prompt's own std", "means": [0.0] * 4, "tilts": own})
    return {"stds": list(STDS), "group": GROUP, "ideal": ideal_tilt(1.0), "cases": cases}


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    same, other, own = numbers["cases"]
    stds = numbers["stds"]
    table = "\n".join(
        f"| {s:g} | " + " | ".join(f"{c['tilts'][i]:.4f}" for c in numbers["cases"]) + " |"
        for i, s in enumerate(stds)
    )
    raw = [t / s for t, s in zip(same["tilts"], stds, strict=True)]
    return f"""
They are two targets. The batch's std gives every prompt one tilt per unit of raw reward
({raw[0]:.3f} to {raw[-1]:.3f} here), each prompt's own std gives every prompt one tilt per standard
deviation ({min(own["tilts"]):.3f}). Choose the batch's where rewards of prompts are comparable,
and know that differences between the prompts' means then slow all of them down.

The released code subtracts each prompt's mean and divides by the std over the whole batch. What a
prompt feels is (0.2/beta)(1 - 1/n) std(R of the prompt) / std(batch) (ledger N1): a prompt whose
images all score alike is hardly trained, one with a wide spread takes most of the update. The
batch's variance also holds the variance between the prompts' means, although those means are
subtracted: with means {", ".join(f"{m:g}" for m in other["means"])} in place of equal ones the
batch's std is {other["batch_std"]:.2f} in place of {same["batch_std"]:.2f}, and every prompt's
tilt falls to {100 * other["tilts"][0] / same["tilts"][0]:.0f} %.

Effective tilt of one epoch at nft_beta = 1 in standard deviations of the prompt's own reward
(0.2/beta = {numbers["ideal"]:g}), four Gaussian prompts, groups of {numbers["group"]}:

| std of the prompt's rewards | {" | ".join(c["case"] for c in numbers["cases"])} |
|---|{"---|" * len(numbers["cases"])}
{table}

A global mean would be another matter: subtracting one mean for all leaves the prompt's own mean in
r, which changes nothing in the optimum given the prompt (a covariance does not see it) and adds
gradient noise: see [is r near one half a problem?](one_half.md)
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Tilt by the prompt's std, three normalisers."""
    figure, axes = subplots(figsize=(6.6, 3.7))
    for case, (color, marker) in zip(numbers["cases"], STYLES, strict=True):
        axes.loglog(
            numbers["stds"], case["tilts"], color=color, marker=marker, lw=1.3, label=case["case"]
        )
    axes.axhline(numbers["ideal"], color="0.5", lw=0.9, ls=":")
    axes.text(numbers["stds"][-1], 1.05 * numbers["ideal"], "0.2/beta", fontsize=7, color="0.4",
              ha="right")  # fmt: skip
    axes.set_xticks(numbers["stds"], [f"{s:g}" for s in numbers["stds"]])
    axes.set_yticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
    axes.minorticks_off()
    axes.set(
        xlabel="standard deviation of the prompt's rewards",
        ylabel="tilt of one epoch (its own std)", title="what a prompt is tilted by, beta = 1",
    )  # fmt: skip
    axes.legend(fontsize=8, loc="lower right")
    return figure
