"""How do I reach exp(a r) exactly, and at what cost?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.questions.exact_tilt_tables import (
    ESS_STAGES,
    GOALS,
    TITLES,
    best_by_budget,
    bias_curve,
    cheapest,
    effective,
    effective_table,
    exact_table,
    goal_table,
    is_once,
    largest_gap,
    left,
    one_ahead_of_four,
    percent,
    rows_of,
    scheme,
    schemes,
    slope,
    spread_of,
    trained_table,
    zero,
)
from theory.common.files import read_json
from theory.evaluation.draw import BLUE, ORANGE, PURPLE, VERMILION, subplots
from theory.problems.problem import load_problem
from theory.recursion.stages import (
    FIRST_ORDER,
    Kind,
    Reached,
    reached,
    reached_by_draws,
    stages_for,
    weight_share,
)
from theory.tilts.moments import reward_moments

QUESTION = (
    "How do I reach exp(a r) exactly (tilt matching, weighting, many small steps), and at what "
    "cost?"
)
GIVEN = frozenset({"total"})
TRAINED = Path("docs/data/exact_tilt.json")
ADVICE = "write it with `python -m toys exact-tilt --write`"
# The stages whose exact optimum is found, by problem; the total tilts are those of the networks.
EXACT: dict[str, tuple[tuple[Kind, int], ...]] = {
    "note_1d": (
        *(("nft", k) for k in (1, 2, 4, 8, 16, 32)),
        *(("explicit", k) for k in (4, 16)),
        ("implicit", 1),
    ),
    "bump_2d": (("nft", 1), ("nft", 4), ("nft", 8)),
    "wide_64d": (("nft", 1),),
}
DRAWS = {"bump_2d": 4000, "wide_64d": 800}
HALF = 8  # stages in which half the total tilt is taken in 1-D, for the same stage as 16
RELEASED_STEP = 0.2  # standard deviations of the reward an epoch at nft_beta = 1 (ledger N1)
COLORS = {"nft": BLUE, "explicit": PURPLE, "implicit": VERMILION, "weighted": ORANGE}
MARKS = {1: ("o", "-"), 2: ("v", "-"), 4: ("s", "--"), 8: ("D", "-."), 16: ("^", ":")}


def measure() -> dict[str, Any]:
    """Exact biases and effective shares; the networks' numbers from docs/data/exact_tilt.json."""
    trained = read_json(TRAINED, ADVICE)["rows"]
    problems: dict[str, Any] = {}
    for name in TITLES:
        problem = load_problem(name)
        total = next(row["total"] for row in trained if row["problem"] == name)
        _, std = reward_moments(problem.base, problem.moments)
        problems[name] = {
            "total": total,
            "stds": total * std,
            "exact": [_exact(name, kind, total, k) for kind, k in EXACT.get(name, ())],
            "weight_share": [
                {"stages": k, "share": weight_share(problem, total, k)} for k in ESS_STAGES
            ],
        }
    keys = ("problem", "loss", "stages", "steps", "rewards", "shares", "floor", "reward_shares",
            "cpu_seconds")  # fmt: skip
    total = problems["note_1d"]["total"]
    return {
        "problems": problems,
        "half": _exact("note_1d", "nft", total / 2, HALF)["share"],
        "trained": [{k: row[k] for k in keys} for row in trained],
    }


def _exact(name: str, kind: Kind, total: float, stages: int) -> dict[str, Any]:
    problem = load_problem(name)
    if name in DRAWS and stages == 1:
        found: Reached = reached_by_draws(problem, kind, total, DRAWS[name])
    else:
        found = reached(problem, kind, total, stages)
    share = found.share
    if kind not in FIRST_ORDER:  # zero: what can be said is a power of ten that it is below
        share = 10.0 ** math.ceil(math.log10(max(share, found.tv.floor / found.to_go)))
    return {"loss": kind, "stages": stages, "share": share}


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    pc = percent
    line = numbers["problems"]["note_1d"]
    every = best_by_budget(numbers)
    won = sum(is_once(row) for *_, row in every)
    steps = max(s for problem, s, _ in every if problem == "note_1d")
    now = {(r["loss"], r["stages"]): r for r in rows_of(numbers, "note_1d", steps=steps)}
    once, many, one = now["implicit", 1], now["nft", 16], now["nft", 1]
    stages, shares = bias_curve(numbers, "note_1d")
    at_16 = float(shares[list(stages).index(16)])
    need = {goal: stages_for(goal, stages, shares) for goal in (0.1, 0.05, 0.02)}
    c = [slope(numbers, name) for name in ("note_1d", "bump_2d")]
    far = {(r["steps"], r["stages"]): r for r in rows_of(numbers, "linear_2d")}
    far_stds = numbers["problems"]["linear_2d"]["stds"]
    less, more = sorted({s for s, _ in far})
    ess = {name: effective(numbers, name) for name in TITLES}
    wide = rows_of(numbers, "wide_64d", steps=max(r["steps"] for r in rows_of(numbers, "wide_64d")))
    best_wide = min(wide, key=left)
    nft_wide = next(r["share"] for r in numbers["problems"]["wide_64d"]["exact"])
    same = largest_gap(numbers)
    ahead, pairs = one_ahead_of_four(numbers)
    spread = [spread_of(row) for row in numbers["trained"]]
    floor = max(row["floor"] for row in numbers["trained"])
    off = float(np.mean(best_wide["reward_shares"]))
    middle = float(np.median(spread))
    return f"""
Match the tilted velocity itself, in one stage, on samples of the pretrained model: implicit Tilt
Matching, or flow matching weighted by exp(a r). At a total tilt of {line["stds"]:.1f} standard
deviations of the reward, {steps:,} gradient steps and {once["rewards"]:,} rewards leave
{pc(left(once))} of the distance to exp(a r) in 1-D; NFT with the same budget leaves
{pc(left(one))} as one large epoch and {pc(left(many))} in 16 small ones. The one-stage unbiased
losses were nearest in {won} of the {len(every)} budgets that at least three schemes had.

**Why.** One NFT epoch is first order in 2/beta (ledger L8): its exact optimum leaves
{pc(shares[0])} of the way at this tilt, which is about where its networks end, however long they
train. In K epochs of a/K each the bias falls as 1/K: about {c[0]:.2f} times the tilt of an epoch in
standard deviations of the reward in 1-D, {c[1]:.2f} in 2-D. At this total that takes
{need[0.1]:.0f} epochs for 10 %, {need[0.05]:.0f} for 5 % and {need[0.02]:.0f} for 2 %. It is the
size of the epochs that counts: half the total in {HALF} epochs leaves {pc(numbers["half"])} of its
way, the whole in 16 leaves {pc(at_16)}. Epochs of {RELEASED_STEP:g} standard deviations, as the
released mapping gives at beta = 1 (ledger N1), leave about {pc(c[0] * RELEASED_STEP)}.

Explicit Tilt Matching is the same first-order optimum by another loss in its first stage, and close
to NFT after it. The implicit and the weighted loss have the velocity of base exp(a r)/Z as their
exact optimum, at every a; what they pay is variance.

**Exact: share of the way that is left.** TV(law of the optimum, target) / TV(base, target);
nothing trained. Every stage starts from the optimum of the one before.

{exact_table(numbers)}

Implicit and weighted: 0 (measured in 1-D: {zero(line)}). In 64-D the optimum of several
stages has no closed form; only one stage is given, by draws.

**What the unbiased losses pay.** The effective share of the draws that exp(r a/K) weights leave,
in the worst stage (exact in every dimension):

{effective_table(numbers)}

**Trained.** Networks that start as the exact base velocity; the mean of the networks, share of the
way that is left. All schemes of a column have the same gradient steps, reward evaluations and
samples, shared evenly by the stages; CPU-seconds are those of a scheme's largest budget, sampling
included (`python -m toys exact-tilt --write`, docs/data/exact_tilt.json).

{trained_table(numbers)}

The fewest gradient steps, of the budgets that were tried, that leave at most this much:

{goal_table(numbers)}

**More stages.** They help NFT, whose bias they divide, and cost every loss: a stage has a K-th of
the rewards and of the steps, and starts from the errors of the one before. For the unbiased losses
they paid only where one stage has too few effective draws: in the far tail (`linear_2d`,
{far_stds:.1f} standard deviations, {100 * ess["linear_2d"][1]:.2g} % of
the draws effective in one stage, {pc(ess["linear_2d"][4])} in four), one stage leaves
{pc(left(far[less, 1]))} with {less:,} steps and {pc(left(far[more, 1]))} with {more:,}, four
stages {pc(left(far[less, 4]))} and {pc(left(far[more, 4]))}. On the other problems, with
{pc(ess["bump_2d"][1])} to {pc(ess["note_1d"][1])} effective, one stage of the implicit loss was
nearer than four in {ahead} of {pairs} budgets.

**Recommendation, from these numbers.**
{textwrap.fill(_recommendation(numbers), 100)}

**Limits.** In 64-D no scheme came near: the best leaves {pc(left(best_wide))} of the TV
({scheme(best_wide)}), the exact optimum of one NFT epoch {pc(nft_wide)}; what is left is learning
error, not bias. The law of the reward alone is {pc(off)}
of its way off (W1). Two networks a scheme, which differ by {pc(middle)} of the way in the
median and by up to {pc(max(spread))} (the TV
of one network is measured to {pc(floor)} or better); implicit and weighted differ by at most
{pc(same)}, so either will do. Small perceptrons, one learning rate a problem, a fixed number of
rewards a gradient step. NFT without the adaptive normaliser, reward mapping or penalty;
it takes rewards in [0, 1] only, so the far tail has none. Samples come from Heun's method in 20
steps, whose bias is part of every trained number. Budgets count a reward once for each sample.
"""


def _recommendation(numbers: Mapping[str, Any]) -> str:
    """Sentences that hold for these numbers: what was cheapest, and from where on stages pay."""
    goals = [
        (TITLES[name], goal, row)
        for name in TITLES
        for goal in GOALS
        if (row := cheapest(numbers, name, goal)) is not None
    ]
    once = [g for g in goals if is_once(g[2])]
    reached_by = f"an unbiased loss in one stage was the cheapest for {len(once)}"
    words = [f"Of the {len(goals)} goals that a scheme reached, {reached_by}."]
    others = [f"{scheme(row)} for {100 * goal:g} % in {t}" for t, goal, row in goals
              if not is_once(row)]  # fmt: skip
    if others:
        words.append(f"The others: {'; '.join(others)}.")
    if 2 * len(once) > len(goals):
        words.append(
            "So: one stage of implicit Tilt Matching (or weighting), and the budget spent on draws "
            "and steps rather than on stages."
        )
    far = {(r["steps"], r["stages"]): r for r in rows_of(numbers, "linear_2d")}
    more = max(s for s, _ in far)
    one, four = far[more, 1], far[more, 4]
    if left(four) < left(one):
        draws = effective(numbers, "linear_2d")[1] * one["rewards"]
        words.append(
            f"Where one stage leaves only some {draws:.0f} effective draws (ESS times rewards, the "
            f"far tail here), four stages of the same loss: {percent(left(four))} against "
            f"{percent(left(one))}."
        )
    c = max(slope(numbers, name) for name in ("note_1d", "bump_2d"))
    words.append(
        f"With NFT, keep an epoch's tilt, 2/beta times the standard deviation of the r that the "
        f"loss sees, below {0.1 / c:.2f} for a bias of 10 % and below {0.05 / c:.2f} for 5 %, and "
        "run as many epochs as the total tilt asks for."
    )
    return " ".join(words)


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Error against gradient steps, a panel a problem; exact biases of NFT as lines."""
    figure, grid = subplots(2, 2, figsize=(9.6, 6.6))
    for axes, name in zip(grid.flat, TITLES, strict=True):
        own = numbers["problems"][name]
        for loss, k in schemes(numbers, name):
            rows = rows_of(numbers, name, loss=loss, stages=k)
            marker, dash = MARKS[k]
            # Weighted matching lies on implicit matching: broad and behind it.
            wide = loss == "weighted"
            axes.loglog(
                [r["steps"] for r in rows], [100 * left(r) for r in rows], color=COLORS[loss],
                marker=marker, ls=dash, **_size(wide), zorder=1.5 if wide else 2,
            )  # fmt: skip
        levels = sorted({r["steps"] for r in rows_of(numbers, name)})
        shown = [r for r in own["exact"] if r["loss"] == "nft" and r["stages"] in (1, 4, 8, 16)]
        for row in shown:
            axes.axhline(100 * row["share"], color=BLUE, lw=0.8, alpha=0.55, zorder=0)
            axes.annotate(
                f"exact, K = {row['stages']}", (1.01, 100 * row["share"]), fontsize=7,
                xycoords=("axes fraction", "data"), color=BLUE, va="center",
            )  # fmt: skip
        axes.set_xticks(levels, [f"{s:,}" for s in levels])
        axes.set_xlim(levels[0] / 1.3, levels[-1] * 1.3)
        axes.set_title(f"{TITLES[name]}: {name}, {own['stds']:.1f} std", fontsize=9)
        axes.minorticks_off()
        _percent_ticks(axes)
        axes.set(xlabel="gradient steps (rewards in proportion)", ylabel="TV left, % of the way")
    figure.legend(handles=_handles(numbers), loc="outside right upper", fontsize=8)
    return figure


def _size(wide: bool) -> dict[str, Any]:
    return {"lw": 4.0, "ms": 8.0, "alpha": 0.6} if wide else {"lw": 1.3, "ms": 4.5, "alpha": 0.9}


def _percent_ticks(axes: Any) -> None:
    low, high = axes.get_ylim()
    ticks = [
        v for v in (2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 100) if low <= v <= high
    ]
    axes.set_yticks(ticks, [f"{v}" for v in ticks])


def _handles(numbers: Mapping[str, Any]) -> Sequence[Line2D]:
    every = dict.fromkeys(key for name in TITLES for key in schemes(numbers, name))
    return [
        *(
            Line2D([], [], color=COLORS[loss], marker=MARKS[k][0], ls=MARKS[k][1],
                   **_size(loss == "weighted"), label=scheme({"loss": loss, "stages": k}))
            for loss, k in every
        ),
        Line2D([], [], color=BLUE, lw=0.8, alpha=0.55, label="exact optimum of NFT, K stages"),
    ]  # fmt: skip
