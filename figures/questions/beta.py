"""What does beta do?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.evaluation.grids import flow_on_grid, make_grid, mixture_on_grid, tilt_on_grid
from theory.laws.distances import grid_distances
from theory.problems.problem import load_problem
from theory.tilts.moments import reward_moments
from theory.tilts.wrappers import Exponential

QUESTION = "What does beta do?"
GIVEN = frozenset({"nft_beta", "scale"})
PROBLEM = "note_1d"
BETAS = (4.0, 2.0, 1.0, 0.5)
COLORS = (GREEN, BLUE, ORANGE, VERMILION)
SHOWN = slice(None, None, 6)
HEAD = (
    "| nft_beta | claimed tilt exp(a r), a | mean reward | claimed | gain in standard deviations | "
    "std of x | TV to the base | TV to the claimed target |\n|---|---|---|---|---|---|---|---|"
)


def measure() -> dict[str, Any]:
    """The law of one epoch's optimum at each nft_beta, and its claimed target's."""
    problem = load_problem(PROBLEM)
    mean, std = reward_moments(problem.base, problem.moments)
    targets = {"exp": problem.tilt(Exponential(2 / BETAS[-1]))}
    axes = make_grid(problem, problem.nft_field(BETAS[-1]), targets)
    reward = problem.reward(torch.as_tensor(axes[0])[:, None]).numpy()
    base = mixture_on_grid(problem.base, axes)
    keep = (axes[0] > -4) & (axes[0] < 4.5)
    rows = []
    for beta in BETAS:
        law = flow_on_grid(problem.nft_field(beta), axes)
        claimed = tilt_on_grid(problem.tilt(Exponential(2 / beta)), axes)
        first = law.integrate(reward)
        rows.append(
            {
                "nft_beta": beta,
                "scale": 2 / beta,
                "reward": first,
                "claimed_reward": claimed.integrate(reward),
                "gain": (first - mean) / std,
                "std": float(law.moments()[1][0, 0] ** 0.5),
                "tv_to_claimed": grid_distances(law, claimed)["TV"].value,
                "tv_to_base": grid_distances(law, base)["TV"].value,
                "density": law.density[keep][SHOWN].tolist(),
            }
        )
    return {
        "problem": PROBLEM,
        "base_reward": mean,
        "reward_std": std,
        "x": axes[0][keep][SHOWN].tolist(),
        "base": base.density[keep][SHOWN].tolist(),
        "branch_reward": flow_on_grid(problem.nft_perturbation(1), axes).integrate(reward),
        "rows": rows,
    }


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = numbers["rows"]
    table = "\n".join(
        f"| {r['nft_beta']:g} | {r['scale']:g} | {r['reward']:.3f} | {r['claimed_reward']:.3f} | "
        f"{r['gain']:+.2f} | {r['std']:.3f} | {r['tv_to_base']:.3f} | {r['tv_to_claimed']:.3f} |"
        for r in rows
    )
    one = next(r for r in rows if r["nft_beta"] == 1)
    return f"""
It sets how far one epoch tilts, and nothing else: the optimum is
`v_old + (2/beta) Cov(X1 - X0, r | X_t)`, the first-order approximation of the tilt by
`exp((2/beta) r)`. Half the beta is twice the tilt, and a worse approximation of it.

A smaller beta is no stronger contrast of the two branches: at the optimum the branches
`v+- = v_old +- beta (v - v_old)` are `v_old +- 2 Cov(X1 - X0, r | X_t)`, whatever beta is (liu,
Theorem 1.1; ledger L1, L6). On problem `{numbers["problem"]}` the law of the positive branch has a
mean reward of {numbers["branch_reward"]:.3f} at every beta, which is what the student has at
beta = 1 ({one["reward"]:.3f}).

One epoch, trained to its optimum, exact laws; the base's mean reward is
{numbers["base_reward"]:.3f}, its standard deviation {numbers["reward_std"]:.3f}:

{HEAD}
{table}

The distance to the claimed target grows with the tilt: it is of second order in 2/beta (ledger
L8). With the released reward mapping, r has a standard deviation of about 0.1, so an epoch at
beta = 1 tilts by 0.2 of a standard deviation of the reward and not by 2.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Laws by beta, and gain and distance against 2/beta."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    left.fill_between(numbers["x"], numbers["base"], color="0.88", label="base")
    for row, color in zip(numbers["rows"], COLORS, strict=True):
        left.plot(
            numbers["x"], row["density"], color=color, lw=1.4, label=f"beta = {row['nft_beta']:g}"
        )
    left.set(xlabel="x", ylabel="density", title="one epoch of NFT, exact laws", ylim=(0, None))
    left.legend(fontsize=8)
    scale = np.array([row["scale"] for row in numbers["rows"]])
    for key, color, marker, label in (
        ("tv_to_base", BLUE, "o", "to the base (how far it moves)"),
        ("tv_to_claimed", VERMILION, "s", "to the claimed target (how wrong it is)"),
    ):
        right.loglog(
            scale, [row[key] for row in numbers["rows"]], color=color, marker=marker, lw=1.3,
            label=label,
        )  # fmt: skip
    guide = numbers["rows"][0]["tv_to_claimed"] * (scale / scale[0]) ** 2
    right.loglog(scale, guide, color=BLACK, ls=":", lw=0.9, label="slope 2")
    right.set(xlabel="2 / beta", ylabel="total variation", title="distance, one epoch")
    right.set_xticks(scale, [f"{s:g}" for s in scale])
    right.minorticks_off()
    right.legend(fontsize=8)
    return figure
