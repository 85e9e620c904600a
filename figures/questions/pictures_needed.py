"""How many pictures must I draw for an audit?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.audit.data.inputs import audit_data
from theory.audit.estimators.compare import LEVEL
from theory.audit.estimators.curve import basis, goodness
from theory.audit.families.families import FAMILIES
from theory.audit.known_truth import Planted, alarm_rate, tilt_interval, tilted_rewards
from theory.evaluation.draw import BLUE, GREEN, VERMILION, subplots
from theory.problems.problem import load_problem

QUESTION = "How many pictures must I draw for an audit?"
GIVEN = frozenset({"sizes", "mode", "away", "dim", "repetitions", "scale", "stds", "halves"})
SIZES = (250, 500, 1000, 2000, 4000, 8000)
REPETITIONS, PERMUTATIONS = 40, 59
MODE_LOST = (1.0, 0.5)
PROBLEM, SCALE = "linear_1d", 1.0
ENOUGH = 0.8


def measure() -> dict[str, Any]:
    """Interval of the tilt, refusals of the wrong wrapper, collapses found, by pictures a side."""
    problem = load_problem(PROBLEM)
    widths, refused, spread = [], [], 0.0
    for n in SIZES:
        pairs = [tilted_rewards(problem, SCALE, n, seed) for seed in range(REPETITIONS)]
        spread = float(np.mean([base.std() for base, _ in pairs]))
        found = [tilt_interval(*pair) for pair in pairs]
        widths.append(float(np.mean([(f.high - f.low) / 2 for f in found])) * spread)
        refused.append(float(np.mean([_refused(*pair) for pair in pairs])))
    return {
        "sizes": list(SIZES), "repetitions": REPETITIONS, "scale": SCALE, "stds": SCALE * spread,
        "width": widths, "refused": refused,
        "found": [
            [alarm_rate(Planted(n, lost=lost), REPETITIONS, PERMUTATIONS) for n in SIZES]
            for lost in MODE_LOST
        ],
        "mode": 0.05, "away": 4.0, "dim": 16, "halves": list(MODE_LOST),
    }  # fmt: skip


def _refused(base: np.ndarray, tuned: np.ndarray) -> bool:
    """Whether 1 + a r, which is not what was done, is refused."""
    pooled = audit_data(base, tuned).pooled
    return goodness(FAMILIES["linear"].fit(pooled).fit, pooled, basis(pooled)).p_value < LEVEL


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    sizes = numbers["sizes"]
    rows = "\n".join(
        f"| {n} | ± {w:.3f} | {100 * r:.0f} % | {100 * a:.0f} % | {100 * b:.0f} % |"
        for n, w, r, a, b in zip(
            sizes, numbers["width"], numbers["refused"], *numbers["found"], strict=True
        )
    )
    whole, half = (_first(sizes, share) for share in numbers["found"])
    other = _first(sizes, numbers["refused"])
    at = sizes.index(1000)
    return f"""
A thousand of each side give the tilt to ± {numbers["width"][at]:.2f} per standard deviation of the
reward; four times as many halve that. To tell exp(a r) from 1 + a r takes {other} a side at this
tilt, to find a mode of {100 * numbers["mode"]:.0f} % that is gone {whole}, and one that is half
gone {half}.

By pictures a side, {numbers["repetitions"]} draws of each: half the width of the 95 % interval of
the tilt, in units of 1/(standard deviation of the reward); how often 1 + a r is refused where
exp(a r) with a = {numbers["scale"]:g} ({numbers["stds"]:.2f} standard deviations) was done; how
often the conditional test (5 %) finds that a mode of {100 * numbers["mode"]:.0f} % of the mass,
{numbers["away"]:g} standard deviations from the rest in {numbers["dim"]} features, is gone, or half
gone, with the law of rewards as it should be:

| pictures a side | tilt | 1 + a r refused | mode gone: found | half gone: found |
|---|---|---|---|---|
{rows}

Prompts share these: what counts is the number of pictures in all, as long as every prompt has a few
dozen on each side. Stronger tilts need more of the base: what the reweighted base is worth falls as
exp(-(a s)^2), s the reward's spread, and below 30 the audit refuses to conclude. Draw base and
tuned pictures with different seeds (`--draw` does): pairs of one seed go to one side only in the
conditional test.
"""


def _first(sizes: list[int], shares: list[float]) -> str:
    """The least size from which on it is found in ENOUGH of the draws."""
    good = [n for n, share in zip(sizes, shares, strict=True) if share >= ENOUGH]
    return f"{good[0]:,}" if good else f"more than {sizes[-1]:,}"


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Widths and powers by size."""
    figure, (left, right) = subplots(1, 2, figsize=(8.4, 3.5))
    sizes = numbers["sizes"]
    left.loglog(sizes, numbers["width"], color=BLUE, marker="o")
    left.set_yticks([0.03, 0.05, 0.1, 0.2], ["0.03", "0.05", "0.1", "0.2"])
    left.set(ylabel="tilt: half width of the 95 % interval,\nper standard deviation of the reward")
    right.semilogx(sizes, numbers["refused"], color=GREEN, marker="^", ls=":",
                   label="1 + a r refused")  # fmt: skip
    for shares, lost, dash in zip(numbers["found"], numbers["halves"], ("-", "--"), strict=True):
        right.semilogx(sizes, shares, color=VERMILION, marker="s", ls=dash,
                       label=f"mode of 5 %, {100 * lost:.0f} % of it gone: found")  # fmt: skip
    right.axhline(LEVEL, color="0.6", lw=0.8)
    right.text(sizes[0], LEVEL + 0.015, "level", fontsize=7, color="0.4")
    right.set(ylabel="share of draws", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    for axes in (left, right):
        axes.set(xlabel="pictures a side")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
    return figure
