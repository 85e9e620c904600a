"""What do the advantage modes do?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.ledger.released.reward.mapping import GROUP
from theory.ledger.released.reward.modes import skewed
from theory.ledger.released.reward.offset import MEANS, carried, variation
from theory.methods.matching.reward_mapping import CLIP, SPREAD
from theory.problems.problem import load_problem
from theory.released.mapping import MappedRewards
from theory.released.modes import MODES
from theory.tilts.moments import reward_moments

QUESTION = "What do the advantage modes do?"
GIVEN = frozenset({"advantage", "clip", "online_beta", "epochs"})
PROBLEM = "note_1d"
ADVANTAGES = tuple(np.linspace(-7.0, 7.0, 281).tolist())
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
ONLINE_BETA, EPOCHS = 1.0, 10
HEAD = (
    "| mode | r takes | E r | std of r | tilt per std | one in ten good | one in ten bad | "
    "variance over squared signal |\n|---|---|---|---|---|---|---|---|"
)
TAKES = {
    "all": "0 to 1", "positive_only": "0.5 to 1", "negative_only": "0 to 0.5",
    "one_only": "0.5, 0.6", "binary": "0.4, 0.5, 0.6",
}  # fmt: skip
STYLES = {
    "all": (BLACK, "-"), "positive_only": (BLUE, "--"), "negative_only": (ORANGE, "-."),
    "one_only": (GREEN, (0, (3, 1, 1, 1))), "binary": (VERMILION, (0, (5, 1))),
}  # fmt: skip


def _noise() -> dict[str, float]:
    """Variance of one sample's step (2r - 1)(Y - v_old) at v_old over the square of its mean given
    X_t, both in the mean over the path: sums over x and y."""
    problem = load_problem(PROBLEM)
    mean, std = reward_moments(problem.base, problem.moments)
    y = torch.linspace(-8.0, 8.0, 3201, dtype=torch.float64)
    p = problem.base.density(y[:, None])
    advantage = ((problem.reward(y[:, None]) - mean) / std).numpy()
    found = {}
    for name, mode in MODES.items():
        pull = torch.as_tensor(2 * mode.mapped(advantage, CLIP) - 1)
        signal = noise = 0.0
        for t in TIMES:
            x = torch.linspace(-5.0, 5.0, 201, dtype=torch.float64)[:, None]
            joint = p * torch.exp(-0.5 * ((x - t * y) / (1 - t)) ** 2)
            here = joint.sum(1)
            weight = joint / here[:, None]
            here = here / here.sum()
            gap = (y - (weight * y).sum(1, keepdim=True)) / (1 - t)
            step = (weight * pull * gap).sum(1)
            signal += float((here * step**2).sum())
            noise += float((here * ((weight * (pull * gap) ** 2).sum(1) - step**2)).sum())
        found[name] = noise / signal
    return found


def _online() -> list[dict[str, Any]]:
    """Laws after epochs whose r is centred, or off one half by what a mode makes it."""
    problem = load_problem(PROBLEM)
    plain = carried(problem, 0.0, ONLINE_BETA, EPOCHS)
    fresh = carried(problem, 0.0, ONLINE_BETA, EPOCHS, "refit")
    std = reward_moments(problem.base, problem.moments)[1]
    rows = []
    for name in ("all", "positive_only", "negative_only", "one_only"):
        run = carried(problem, MEANS[name] / SPREAD, ONLINE_BETA, EPOCHS)
        gain = (run.summary()[-1]["reward"] - run.summary()[0]["reward"]) / std
        rows.append(
            {
                "mode": name, "offset": MEANS[name] / SPREAD, "gain": gain,
                "moved": variation(run, plain), "from_fresh": variation(run, fresh),
            }
        )  # fmt: skip
    return rows


def measure() -> dict[str, Any]:
    """By mode: r along A, its moments for Gaussian A, the tilt of an epoch for three laws of
    rewards, the noise; and what the offset alone does to laws online."""
    noise, laws = _noise(), skewed()
    a = np.linspace(-8, 8, 160_001)
    density = np.exp(-0.5 * a**2)
    density /= density.sum()
    rows = []
    for name, mode in MODES.items():
        r = mode.mapped(a, CLIP)
        mean = float(density @ r)
        rows.append(
            {
                "mode": name, "along": mode.mapped(np.array(ADVANTAGES), CLIP).tolist(),
                "mean": mean, "std": float(np.sqrt(density @ (r - mean) ** 2)),
                "tilts": {
                    law: MappedRewards(q, q.std, GROUP, adv_mode=name).effective_tilt(1.0)
                    for law, q in laws.items()
                },
                "noise": noise[name],
            }
        )  # fmt: skip
    return {
        "problem": PROBLEM, "advantage": list(ADVANTAGES), "clip": CLIP, "rows": rows,
        "online": _online(), "online_beta": ONLINE_BETA, "epochs": EPOCHS,
    }  # fmt: skip


def answer(numbers: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = {r["mode"]: r for r in numbers["rows"]}
    table = "\n".join(
        f"| {n} | {TAKES[n]} | {r['mean']:.3f} | {r['std']:.3f} | {r['tilts']['Gaussian']:.3f} | "
        f"{r['tilts']['one in ten good']:.3f} | {r['tilts']['one in ten bad']:.3f} | "
        f"{r['noise']:.1f} |"
        for n, r in rows.items()
    )
    online = "\n".join(
        f"| {r['mode']} | {0.5 + r['offset']:.3f} | {r['gain']:.3f} | {r['moved']:.1e} | "
        f"{r['from_fresh']:.1e} |"
        for r in numbers["online"]
    )
    whole, up, down, one, sign = (
        rows[n]["tilts"]["Gaussian"]
        for n in ("all", "positive_only", "negative_only", "one_only", "binary")
    )
    rare = rows["positive_only"]["tilts"]["one in ten good"]
    little = rows["negative_only"]["tilts"]["one in ten good"]
    moved = max(r["moved"] for r in numbers["online"])
    return f"""
They change which rewards count and how far an epoch tilts: {whole:.2f}, {up:.2f}, {down:.2f},
{one:.2f}, {sign:.2f} over beta per standard deviation of the reward, for all, positive_only,
negative_only, one_only and binary (Gaussian rewards, 24 rows of a prompt). None of them makes r 0
or 1 by a yes or no: binary is 0.4 or 0.6, for the sign is still divided by 2c = 10.

Each mode puts f(A) in the advantage's place, and `r = 1/2 + f(A)/(2c)`, c = adv_clip_max =
{numbers["clip"]:g}. The loss is linear in r, so one epoch tilts by `exp((2/beta) r)` to first
order: by f(A), not by A. one_only and binary therefore see no difference between a good sample and
an excellent one. A smaller beta makes up for a smaller tilt (ledger N7, N1).

{HEAD}
{table}

The tilt per std is at beta = 1 for Gaussian rewards, and for rewards of which one in ten is far
better, or far worse, than the rest: where good samples are rare positive_only keeps {rare:.3f} and
negative_only {little:.3f}. The last column is the noise of one sample's step at v_old, problem
`{numbers["problem"]}`. A sample whose r is one half does not pull at v_old, but it does hold the
student there once it has moved: leaving it out of the batch is another loss.

r has mean one half in the modes all and binary only. In an epoch whose old copy is the velocity of
its data the mean does nothing ([is r near one half a problem?](one_half.md)). Online the old copy
is the last student, which is not the velocity of its own samples, and `(2/beta)(E[r | X_t] -
1/2)(u - v_old)` comes on top: above one half it pulls the old field towards the velocity u of its
samples, below it pushes it away. After {numbers["epochs"]} epochs at beta =
{numbers["online_beta"]:g}, one tilt for all (that of mode all), r moved by the offset alone:

| offset of | E r | gain of E R in std | TV to no offset | TV to old copies fitted anew |
|---|---|---|---|---|
{online}

That is next to nothing here (TV {moved:.0e} at most); the term is in proportion to 1/beta.
`adv_mode` has these names in DiffusionNFT's own code and in FastVideo; verl-omni calls the first
one `continuous`. Elsewhere the same words may mean other maps: a "binary" of 1 and 0 that is then
divided by 2c is one_only here.
"""


def draw(numbers: Mapping[str, Any]) -> Figure:
    """r by A, and the tilt by mode for three laws of rewards."""
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 3.6))
    rows = numbers["rows"]
    for row in rows:
        color, dash = STYLES[row["mode"]]
        wide = row["mode"] == "all"
        left.plot(numbers["advantage"], row["along"], color="0.8" if wide else color, ls=dash,
                  lw=6.0 if wide else 1.6, label=row["mode"])  # fmt: skip
    left.axhline(0.5, color="0.75", lw=0.8, zorder=0)
    left.set(xlabel="advantage A", ylabel="r", title="what r takes, clip 5")
    left.legend(fontsize=8)
    laws = ("Gaussian", "one in ten good", "one in ten bad")
    place = np.arange(len(rows))
    for k, (law, color) in enumerate(zip(laws, (BLACK, BLUE, ORANGE), strict=True)):
        right.bar(place + 0.26 * (k - 1), [r["tilts"][law] for r in rows], 0.24, color=color,
                  label=law)  # fmt: skip
    right.set_xticks(place, [r["mode"].replace("_", "\n") for r in rows], fontsize=8)
    right.set(
        ylim=(0, 0.27),
        ylabel="tilt per std, beta = 1",
        title="what one epoch tilts by, 24 rows a prompt",
    )
    right.legend(fontsize=8, title="rewards", title_fontsize=8, ncols=3, loc="upper right")
    return figure
