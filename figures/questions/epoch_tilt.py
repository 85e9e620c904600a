"""How much does one epoch tilt, in standard deviations of my reward?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.evaluation.grids import flow_on_grid, make_grid
from theory.problems.problem import load_problem
from theory.released.exact import Epoch, carry_epochs
from theory.released.mapping import MappedRewards, Rewards, gaussian_batch_share, ideal_tilt
from theory.tilts.moments import reward_moments

QUESTION = "How much does one epoch tilt, in standard deviations of my reward?"
GIVEN = frozenset({"nft_beta", "group", "prompts", "epochs"})
PROBLEMS = ("note_1d", "linear_1d", "bumps_1d")
COLORS, MARKERS = (BLUE, VERMILION, GREEN), ("o", "s", "^")
BETAS = (2.0, 1.0, 0.5, 0.2, 0.1)
GROUP, PROMPTS, EPOCHS = 24, 48, 10
# One sample in fifty is far better than the rest: a skewed reward, which the clip cuts.
SKEWED = Rewards(np.array([0.98, 0.02]), np.array([0.0, 8.0]), np.array([1.0, 1.0]))


def measure() -> dict[str, Any]:
    """Gains of exact laws after an epoch and along ten, and the factors of finite batches."""
    gains = {}
    for name in PROBLEMS:
        problem = load_problem(name)
        mean, std = reward_moments(problem.base, problem.moments)
        gains[name] = [_gain(name, 2 / beta / (10 * std), mean, std) for beta in BETAS]
    whole = MappedRewards(SKEWED, SKEWED.std, None, clip=1e6).effective_tilt(1.0)
    return {
        "rows": [{"nft_beta": b, "tilt": ideal_tilt(b)} for b in BETAS],
        "gains": gains,
        "factors": [
            {"group": group, "prompts": PROMPTS, "factor": gaussian_batch_share(group, PROMPTS)}
            for group in (2, 4, 8, GROUP)
        ],
        "clipped": MappedRewards(SKEWED, SKEWED.std, None).effective_tilt(1.0) / whole,
        "epochs": EPOCHS,
        "along": _along(PROBLEMS[0]),
    }


def _gain(name: str, scale: float, mean: float, std: float) -> float:
    """(E R after - E R before) / std R of one epoch whose first-order tilt is `scale`."""
    problem = load_problem(name)
    field = problem.nft_field(2 / scale)
    axes = make_grid(problem, field, {})
    reward = problem.reward(torch.as_tensor(axes[0])[:, None]).numpy()
    return (flow_on_grid(field, axes).integrate(reward) - mean) / std


def _along(name: str) -> dict[str, list[float]]:
    """Mean and standard deviation of R over epochs, in the base's units, nft_beta = 1."""
    problem = load_problem(name)
    mean, std = reward_moments(problem.base, problem.moments)
    run = carry_epochs(
        problem, lambda epoch, centre, spread: Epoch(ideal_tilt(1.0) / spread), EPOCHS,
        ideal_tilt(1.0) * EPOCHS / std, grid=600,
    )  # fmt: skip
    means = np.array([law.integrate(run.rewards) for law in run.laws])
    squares = np.array([law.integrate(run.rewards**2) for law in run.laws])
    return {
        "gain": ((means - mean) / std).tolist(),
        "std": (np.sqrt(squares - means**2) / std).tolist(),
    }


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    one = next(i for i, r in enumerate(numbers["rows"]) if r["nft_beta"] == 1)
    names = list(numbers["gains"])
    table = "\n".join(
        f"| {r['nft_beta']:g} | {r['tilt']:.2f} | "
        + " | ".join(f"{numbers['gains'][n][i]:.3f}" for n in names)
        + " |"
        for i, r in enumerate(numbers["rows"])
    )
    ones = [numbers["gains"][n][one] for n in names]
    factors = ", ".join(f"{f['factor']:.3f} for {f['group']}" for f in numbers["factors"])
    along, last = numbers["along"], numbers["epochs"]
    return f"""
With the released code's rewards, 0.2/beta standard deviations: {numbers["rows"][one]["tilt"]:.2f}
at beta = 1, where exact laws of three problems gain {min(ones):.2f} to {max(ones):.2f}. One whole
standard deviation takes about {1 / numbers["rows"][one]["tilt"]:.0f} epochs at beta = 1, each
trained to its optimum.

The code maps a raw reward R to `r = 1/2 + clip(A, ±5)/10`, `A = (R - mean)/(std + 1e-4)`, so r has
a standard deviation of 1/10, and the epoch's optimum is the first order of the tilt by
`exp((2/beta) r) = exp((0.2/beta) A)` (ledger N1). To first order such a tilt raises the mean of A
by 0.2/beta. Beyond first order the shape of the reward counts:

| nft_beta | 0.2/beta | {" | ".join(names)} |
|---|---|{"---|" * len(names)}
{table}

What changes the figure:

- A prompt's mean is taken over its own {GROUP} samples, which holds each sample back a little, and
  the batch's standard deviation is an estimate: the factor for groups of several sizes is
  {factors} (equal Gaussian prompts, {PROMPTS} of them in the batch).
- The standard deviation is the whole batch's. A prompt whose rewards spread less than that is
  tilted less, in its own units: [global or per-prompt std?](prompt_std.md)
- The clip at 5 standard deviations is idle for Gaussian rewards; where one sample in fifty lies
  eight deviations above the rest it leaves {100 * numbers["clipped"]:.0f} % of the tilt.
- Later epochs start from a law whose standard deviation has changed, and the mapping divides by
  the new one: after {last} epochs at beta = 1 the mean has risen by {along["gain"][-1]:.2f} of the
  base's standard deviations (0.2 an epoch would be {0.2 * last:.0f}), and the law's own standard
  deviation is {along["std"][-1]:.2f} of the base's.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Gain by 0.2/beta, and along epochs."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    tilt = [row["tilt"] for row in numbers["rows"]]
    for (name, gains), color, marker in zip(numbers["gains"].items(), COLORS, MARKERS, strict=True):
        left.loglog(tilt, gains, color=color, marker=marker, lw=1.2, label=name)
    left.loglog(tilt, tilt, color=BLACK, ls=":", lw=1, label="0.2/beta")
    left.set_xticks(tilt, [f"{t:g}" for t in tilt])
    left.minorticks_off()
    left.set(
        xlabel="0.2/beta", ylabel="gain in standard deviations of R", title="one epoch, exact laws"
    )
    left.legend(fontsize=8)
    along = numbers["along"]
    epochs = np.arange(len(along["gain"]))
    right.plot(epochs, along["gain"], color=BLUE, marker="o", ms=3, label="mean of R, gained")
    right.plot(epochs, along["std"], color=ORANGE, ls="--", marker="s", ms=3, label="std of R")
    right.plot(epochs, 0.2 * epochs, color=BLACK, ls=":", lw=1, label="0.2 an epoch")
    right.set(
        xlabel="epoch", ylabel="in the base's standard deviations",
        title=f"{next(iter(numbers['gains']))}, beta = 1, exact",
        ylim=(0, 1.5 * max(along["gain"])), xticks=range(0, len(epochs), 2),
    )  # fmt: skip
    right.legend(fontsize=8, loc="upper right")
    return figure
