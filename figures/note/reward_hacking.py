"""Reward hacking: online NFT over epochs, with an EMA, and anchored to the base or the guided base.

Lines: exact, the recursion of theory.recursion carried on a grid in the form that training has
(v_old is the last student, data are its samples). Dots: networks trained by the same methods,
the exact law of what each samples after every epoch. The anchors are penalties on velocities; they
stop the tilt near 2 nft_beta / kl_weight (exactly, with m_t frozen: theory.recursion.spec), and
the guided reference moves the law that it stops at (claim Z10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from figures.shared.result import Result
from theory.evaluation.draw import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    legend_below,
    subplots,
)
from theory.laws.distances import Array
from theory.methods.matching.nft import NFT
from theory.problems.problem import Problem, load_problem
from theory.recursion import Recursion, carry
from toys.evaluation.online import Trajectory, statistics_of
from toys.experiments.presets import ONLINE, ONLINE_EPOCHS, ONLINE_PROBLEM, online
from toys.training.config import RunConfig

NODES = {"full": 512, "small": 400}
STYLES = ((VERMILION, "-"), (ORANGE, "--"), (BLUE, (0, (1, 1))), (GREEN, "-."),
          (PURPLE, (0, (5, 1, 1, 1, 1, 1))))  # fmt: skip
PANELS = {
    "reward": "mean reward",
    "std": "diversity: standard deviation",
    "kl_to_base": "KL to the base (nats)",
}
WINDOW = (-3.2, 4.2)


def recursion_of(method: NFT, problem: Problem) -> Recursion:
    """What the method's epochs are, each trained to its optimum."""
    return Recursion(
        method.nft_beta,
        "student",
        ema=method.old_decay,
        kl_weight=method.kl_weight,
        reference=problem.guided_field if method.anchor == "guided" else None,
    )


def exact(config: RunConfig, setting: str) -> Trajectory:
    """The laws after 0 to ONLINE_EPOCHS epochs."""
    problem, method = load_problem(ONLINE_PROBLEM), config.parsed
    assert isinstance(method, NFT)
    run = carry(problem, recursion_of(method, problem), ONLINE_EPOCHS, grid=NODES[setting])
    densities = np.stack([law.density for law in run.laws])
    return Trajectory(run.axes[0], densities, statistics_of(densities, run.axes[0], problem))


def make(setting: str, trained: Mapping[str, Trajectory] | None) -> Result:
    """Laws after the last epoch, and reward, diversity and KL along the way."""
    figure, panels = subplots(2, 2, figsize=(10.0, 6.4))
    law_axes, *others = panels.ravel()
    problem = load_problem(ONLINE_PROBLEM)
    numbers: dict[str, Any] = {"epochs": ONLINE_EPOCHS, "exact": {}}
    shown: dict[str, dict[str, Any]] = {}
    epochs = np.arange(ONLINE_EPOCHS + 1)
    for name, config, (color, dash) in zip(ONLINE, online(), STYLES, strict=True):
        truth = exact(config, setting)
        if not numbers["exact"]:
            law_axes.fill_between(truth.axis, truth.densities[0], color="0.85", label="base p(x|c)")
            reward = law_axes.twinx()
            values = problem.reward(torch.as_tensor(truth.axis)[:, None]).numpy()
            reward.plot(truth.axis, values, color=BLACK, lw=0.9, ls=":")
            reward.set(ylim=(0, 2.6), yticks=(0.5, 1.0), ylabel="reward (dotted)")
            reward.yaxis.set_label_coords(1.09, 0.29)
        law_axes.plot(truth.axis, truth.densities[-1], color=color, ls=dash, label=name)
        for axes, key in zip(others, PANELS, strict=True):
            axes.plot(epochs, truth.statistics[key], color=color, ls=dash, lw=1.4)
        numbers["exact"][name] = {k: v.tolist() for k, v in truth.statistics.items()}
        if trained is None:
            continue
        found = trained[config.method_label]
        for axes, key in zip(others, PANELS, strict=True):
            axes.plot(epochs[1:], found.statistics[key], "o", ms=3, color=color, alpha=0.8)
        law_axes.plot(found.axis[::12], found.densities[-1][::12], "o", ms=2.5, color=color)
        shown[config.method_label] = {
            "learning_share": _share(truth, found),
            **{k: found.statistics[k].tolist() for k in PANELS},
        }
    law_axes.set(
        xlim=WINDOW,
        ylim=(0, None),
        xlabel="x",
        ylabel="density",
        title=f"laws after {ONLINE_EPOCHS} epochs",
    )
    for axes, (key, title) in zip(others, PANELS.items(), strict=True):
        axes.set(
            xlabel="epoch",
            ylabel=title,
            xlim=(0, ONLINE_EPOCHS + 0.4),
            ylim=(0.5, 1.0) if key == "reward" else (0, None),
        )
    dots = "" if trained is None else ", dots: trained networks"
    legend_below(figure, law_axes, 6, f"lines: exact recursion{dots}")
    return Result(figure, numbers, shown)


def _share(truth: Trajectory, found: Trajectory) -> float:
    """W1 of the last trained law to the exact one, as a share of the base's."""
    last = np.interp(found.axis, truth.axis, truth.densities[-1])
    base = np.interp(found.axis, truth.axis, truth.densities[0])
    step = found.axis[1] - found.axis[0]

    def w1(p: Array, q: Array) -> float:
        return float(np.abs(np.cumsum(p - q) * step).sum() * step)

    return w1(found.densities[-1], last) / w1(base, last)
