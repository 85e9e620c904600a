"""Figure 1 of the note (liu): base, reward, and what DiffusionNFT samples against three targets.

The histogram is of draws of a trained network; the law under it is exactly what the loss's
population optimum samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from figures.shared.laws import PLACES, compare, note_wrappers, overlay, sampled, window
from figures.shared.result import Result
from figures.shared.trained import Shown
from theory.evaluation.draw import BLACK, GREEN, ORANGE, PURPLE, subplots
from theory.problems.problem import load_problem

NFT_BETA = 1.0


def make(setting: str, trained: Mapping[str, Shown] | None) -> Result:
    """Panels a-c, the same in both settings; trained None: the exact law alone."""

    problem = load_problem("note_1d")
    scale = 2 / NFT_BETA
    found = compare(problem, problem.nft_field(NFT_BETA), scale)
    points = torch.as_tensor(found.axis)[:, None]
    base = problem.base.log_density(points).exp().numpy()
    goals = {name: law.density for name, law in found.targets.items()}

    figure, (left, middle, right) = subplots(1, 3, figsize=(10.5, 3.1), width_ratios=[1, 1, 1.5])
    limits = window(found.axis, [base, found.law.density, *goals.values()])
    left.fill_between(found.axis, base, color="0.8", lw=0)
    left.plot(found.axis, base, color=BLACK, lw=1.2)
    left.set(title="(a) base density π₁", ylabel="density")
    middle.plot(found.axis, problem.reward(points).numpy(), color=BLACK, lw=1.4)
    middle.set(title="(b) reward r", ylabel="r(x)", ylim=(0, 1.08))
    network = None if trained is None else trained["nft"]
    overlay(right, found.axis, found.law.density, network, f"NFT, nft_beta = {NFT_BETA:g}")
    styles = {"exp": (PURPLE, "-"), "order 1": (ORANGE, "--"), "order 2": (GREEN, ":")}
    for name, wrapper in note_wrappers(scale).items():
        color, dash = styles[name]
        label = f"π₁·({wrapper.label})/Z   TV {found.distances[name]['TV']:.3f}"
        right.plot(found.axis, goals[name], color=color, ls=dash, lw=1.6, label=label)
    top = 1.6 * max(found.law.density.max(), *(g.max() for g in goals.values()))
    right.set(title="(c) what NFT samples, and three targets", ylabel="density", ylim=(0, top))
    right.legend(fontsize=8, loc="upper left")
    for axes in (left, middle, right):
        axes.set(xlabel="x", xlim=limits)
    left.set_ylim(0, None)
    return Result(
        figure,
        {
            "distances": found.distances,
            "x": PLACES.tolist(),
            "law": sampled(found.axis, found.law.density),
            "targets": {name: sampled(found.axis, goal) for name, goal in goals.items()},
        },
        {} if network is None else {"nft": network.numbers},
    )
