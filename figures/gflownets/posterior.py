"""The posterior of nine modes: weights, log Z and the lower bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures.gflownets import NAMES
from theory.evaluation.draw import BLACK, BLUE, GREEN, ORANGE, SKY, legend_below, subplots
from toys.commands.gflownets import number, share
from toys.experiments.gflownets.posterior import (
    BOUND_FLOOR,
    LIGHT,
    LIGHT_FLOOR,
    LOG_Z_FLOOR,
    MODE_FLOOR,
    MODES,
    UNTRAINED,
    kept_modes,
    misses,
    mode_errors,
)

TITLE = "Weights of the nine modes, and the lower bounds on log Z, of base and trained policies"
COLORS = (SKY, "0.75", BLUE, ORANGE, GREEN)


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Weights of the modes, and the bounds beside them."""
    found = numbers["posterior"]
    rows, places = found["rows"], found["places"]
    modes = kept_modes(rows[0])
    figure, (weights, bounds) = subplots(
        1, 2, figsize=(11.0, 4.0), gridspec_kw={"width_ratios": [5, 2]}
    )
    x, width = np.arange(len(modes)), 0.8 / len(rows)
    for i, row in enumerate(rows):
        place = x + (i - (len(rows) - 1) / 2) * width
        values = [row["modes"]["trained"][m] for m in modes]
        weights.bar(place, values, width, color=COLORS[i], label=NAMES[row["name"]])
    for key, style in (("optimum", "-"), ("target", ":")):
        values = [rows[0]["modes"][key][m] for m in modes]
        label = "the chain's exact optimum" if key == "optimum" else "target"
        weights.hlines(values, x - 0.44, x + 0.44, color=BLACK, ls=style, lw=1.3, label=label)
    weights.set_xticks(x, ["({:g}, {:g})".format(*places[m]) for m in modes], fontsize=8)
    weights.set(xlabel="mode at", ylabel="weight", title="nine modes of 25")
    for i, row in enumerate(rows):
        bounds.bar(i, row["bound"], 0.7, color=COLORS[i])
        if row["log_z_learnt"] is not None and row["name"] not in UNTRAINED:
            bounds.plot(i, row["log_z_learnt"], "D", color=BLACK, ms=5, label="log Z learnt")
    bounds.axhline(rows[0]["bound_of_optimum"], color=BLACK, lw=1.1, label="optimum's E[log w]")
    bounds.axhline(rows[0]["log_z"], color=BLACK, lw=1.1, ls=":", label="log Z")
    bounds.axhline(0, color="0.6", lw=0.7)
    bounds.set_xticks([])
    bounds.set(ylabel="E[log w], a lower bound on log Z", title="lower bound")
    bounds.legend(fontsize=7, loc="lower right")
    legend_below(figure, weights, 3)
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """What the policies reach."""
    found = numbers["posterior"]
    rows = found["rows"]
    first, modes = rows[0], kept_modes(rows[0])
    trained = [r for r in rows if r["name"] not in UNTRAINED]
    verdicts = "\n".join(
        f"- {NAMES[r['name']]}: "
        + ("; ".join(misses(r)) or f"meets every floor, worst mode off by {_worst(r)}")
        + "."
        for r in rows
    )
    lines = "\n".join(
        f"| {NAMES[r['name']]} | {number(r['log_z_learnt'])} | {r['bound']:.3f} ± "
        f"{r['bound_se']:.3f} | {share(r['law_share'])} | {r['path_kl']:.3f} | "
        f"{r['reward']['trained']:.3f} | {r.get('steps', '')} | "
        f"{number(r.get('cpu_seconds'), 0)} |"
        for r in rows
    )
    heads = " | ".join(NAMES[r["name"]] for r in rows)
    table = "\n".join(
        "| ({:g}, {:g})".format(*found["places"][m])
        + f" | {first['modes']['target'][m]:.4f} | {first['modes']['optimum'][m]:.4f} | "
        + " | ".join(
            f"{r['modes']['trained'][m]:.4f} "
            f"({100 * (r['modes']['trained'][m] / first['modes']['optimum'][m] - 1):+.0f} %)"
            for r in rows
        )
        + " |"
        for m in modes
    )
    rest = 1 - sum(first["modes"]["optimum"][m] for m in modes)
    return f"""
{first["problem"]}: 25 Gaussians of which the tilt keeps {MODES}, the lightest a quarter of the
heaviest or less; log Z = {first["log_z"]:.3f}. With {trained[0]["kernels"]}, Gaussian kernels
cannot sample it exactly: the chain's optimum has E[log w] = {first["bound_of_optimum"]:.3f} and is
{share(first["optimum_to_target_share"])} of the way from the target. Asked of a policy: log Z
learnt within {LOG_Z_FLOOR:g} of the true one, E[log w] along its own trajectories within
{BOUND_FLOOR:g} of the optimum's, the weight of every mode within {100 * MODE_FLOOR:g} % of the
optimum's ({100 * LIGHT_FLOOR:g} % under {LIGHT:g}). Importance estimates from the base's
trajectories do not count.

{verdicts}

| policy | log Z learnt | E[log w] | law to the optimum | KL to base | reward | steps | CPU-s |
|---|---|---|---|---|---|---|---|
{lines}

{trained[0]["batch"]} rows a step, peak rate {trained[0]["learning_rate"]:g}, networks of width
{trained[0]["width"]}; the untrained network is what both begin from. Weights of the modes (mass
nearest to each; the others have {100 * rest:.1f} % together), in brackets against the optimum's:

| mode at | target | optimum | {heads} |
|---|---|---|{"---|" * len(rows)}
{table}
"""


def _worst(row: Mapping[str, Any]) -> str:
    return f"{100 * max(error for _, error, _ in mode_errors(row)):.1f} %"
