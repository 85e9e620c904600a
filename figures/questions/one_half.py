"""Is r stuck near one half a problem?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from figures.shared.paths import path_draws
from theory.evaluation.draw import BLUE, ORANGE, VERMILION, subplots
from theory.problems.problem import load_problem
from theory.tilts.moments import reward_moments

QUESTION = "Is r stuck near one half a problem?"
GIVEN = frozenset({"means", "spread"})
PROBLEM = "note_1d"
MEANS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SPREADS = (0.1, 0.05)
DRAWS, SEED = 400_000, 5
HEAD = (
    "| mean of r | signal, spread 0.1 | second moment, spread 0.1 | samples for signal = noise, "
    "spread 0.1 | the same, spread 0.05 |\n|---|---|---|---|---|"
)


def measure() -> dict[str, Any]:
    """Signal and noise of NFT's gradient at v_old, for rewards of one shape moved and shrunk.

    A sample's gradient by v is 2 nft_beta (2 r - 1)(v_old - Y); its mean given X_t is
    -4 nft_beta Cov(Y, r | X_t). Times uniform, mean squares over the path, in units of 2 nft_beta.
    """
    problem = load_problem(PROBLEM)
    mean, std = reward_moments(problem.base, problem.moments)
    x1, y, old, cov = path_draws(problem, DRAWS, SEED)
    unit = (problem.reward(x1) - mean) / std
    rows = []
    for spread in SPREADS:
        signal = float((2 * spread / std * cov).square().sum(-1).mean())
        rewards = [centre + spread * unit for centre in MEANS]
        noise = [float(((2 * r - 1)[:, None] * (old - y)).square().sum(-1).mean()) for r in rewards]
        ratio = [(n - signal) / signal for n in noise]
        rows.append({"spread": spread, "signal": signal, "noise": noise, "draws_per_unit": ratio})
    return {"problem": PROBLEM, "means": list(MEANS), "rows": rows, "draws": DRAWS}


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    means = numbers["means"]
    wide, narrow = numbers["rows"]
    best, worst = min(wide["draws_per_unit"]), max(wide["draws_per_unit"])
    half, low = means.index(0.5), 0
    table = "\n".join(
        f"| {m:g} | {wide['signal']:.2e} | {wide['noise'][i]:.3f} | "
        f"{wide['draws_per_unit'][i]:.1f} | {narrow['draws_per_unit'][i]:.1f} |"
        for i, m in enumerate(means)
    )
    return f"""
No. Where the mean of r lies does not change what is learned, only the spread of r does; and one
half is about where the gradient has the least noise: {best:.1f} samples for a signal as large as
the noise, against up to {worst:.0f} for means between {means[low]:g} and {means[-1]:g} and the same
spread.

The optimum is `v_old + (2/beta) Cov(X1 - X0, r | X_t)`: adding a constant to r adds nothing to a
covariance. What one epoch tilts is (2/beta) times the standard deviation of r, in standard
deviations of the reward. The released mapping makes that about 0.1; a reward of the user's own
in [0, 1] whose values all lie within 0.05 of one half tilts half as far at the same beta, and a
beta half as large makes up for it exactly.

What the mean changes is the noise. At v = v_old a sample's gradient is
`2 beta (2r - 1)(v_old - (X1 - X0))`: the signal, its mean, is `-4 beta Cov(X1 - X0, r | X_t)`
whatever the mean of r, and the noise grows with `(2r - 1)^2`, which is smallest at one half.
The same shape of reward, moved; problem `{numbers["problem"]}`, {numbers["draws"]:,} draws, mean
squares over the path in units of (2 beta)^2:

{HEAD}
{table}

A smaller spread costs samples even at one half: the noise that is left there,
`(2r - 1)^2 |X1 - X0 - v_old|^2`, shrinks with the spread as the signal does, so the column at
{means[half]:g} hardly changes ({wide["draws_per_unit"][half]:.0f} and
{narrow["draws_per_unit"][half]:.0f}); away from one half it does not shrink, and the count
grows as 1/spread^2 ({wide["draws_per_unit"][low]:.0f} and {narrow["draws_per_unit"][low]:.0f} at
{means[low]:g}).
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Samples that a signal as large as the noise takes, against the mean of r."""
    figure, axes = subplots(figsize=(6.4, 3.6))
    for row, color, marker in zip(numbers["rows"], (BLUE, VERMILION), ("o", "s"), strict=True):
        axes.semilogy(
            numbers["means"], row["draws_per_unit"], color=color, marker=marker, lw=1.3,
            label=f"standard deviation of r {row['spread']:g}",
        )  # fmt: skip
    axes.axvline(0.5, color=ORANGE, lw=0.9, ls=":")
    axes.set(
        xlabel="mean of r", ylabel="samples for signal = noise",
        title="noise of NFT's gradient at v = v_old, by where r lies",
    )  # fmt: skip
    axes.legend(fontsize=8)
    return figure
