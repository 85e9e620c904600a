"""Every method at one budget: how far its law is from its own optimum, and from the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures.gflownets import NAMES
from theory.common.tolerances import TRAINED_SHARE
from theory.evaluation.draw import BLACK, BLUE, ORANGE, legend_below, subplots
from toys.commands.gflownets import number, share

TITLE = "Distance of every trained law to its own optimum and to the target"
Row = Mapping[str, Any]
HEADS = (
    "method",
    "law",
    "to target",
    "optimum's",
    "reward",
    "std",
    "KL",
    "E[log w]",
    "log Z learnt",
    "optimum's",
    "true",
    "steps",
    "rate",
    "CPU-s",
)


def draw(numbers: Mapping[str, Any]) -> Figure:
    """A panel a problem, a pair of bars a method."""
    rows = numbers["rows"]
    problems = _problems(rows)
    most = max(len(own) for own in problems.values())
    figure, panels = subplots(
        1,
        len(problems),
        figsize=(max(7.2, 4.9 * len(problems)), 1.2 + 0.4 * most),
        squeeze=False,
        sharex=True,
    )
    for axes, (name, own) in zip(panels[0], problems.items(), strict=True):
        y = np.arange(len(own))[::-1]
        axes.barh(
            y + 0.2,
            [np.nan if r["law_share"] is None else 100 * r["law_share"] for r in own],
            0.36,
            color=BLUE,
            label="law to the method's own optimum (% of base to optimum)",
        )
        axes.barh(
            y - 0.2,
            [100 * r["to_target_share"] for r in own],
            0.36,
            color=ORANGE,
            label="law to the target (% of base to target)",
        )
        known = [(i, r) for i, r in zip(y, own, strict=True) if r["law_share"] is not None]
        axes.plot(
            [100 * r["optimum_to_target_share"] for _, r in known],
            [i - 0.2 for i, _ in known],
            "|",
            color=BLACK,
            ms=11,
            mew=1.6,
            label="the exact optimum to the target",
        )
        axes.axvline(
            100 * TRAINED_SHARE,
            color="0.4",
            ls=":",
            lw=1.0,
            label=f"{100 * TRAINED_SHARE:g} %: what training may miss",
        )
        axes.set_yticks(y, [NAMES[r["name"]] for r in own], fontsize=8)
        axes.set(title=f"{name}, d = {own[0]['dim']}", xlabel="per cent")
        axes.set_xscale("symlog", linthresh=10)
        ticks = [0, 2, 5, 10, 20, 50, 100]
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
    legend_below(figure, panels[0][0], 2)
    return figure


def _problems(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = dict.fromkeys(r["problem"] for r in rows)
    return {name: [r for r in rows if r["problem"] == name] for name in names}


def text(numbers: Mapping[str, Any]) -> str:
    """What the runs say."""
    rows = numbers["rows"]
    first = rows[0]
    error = max(r["bound_se"] for r in rows if r["bound_se"] is not None)
    budgets = ", ".join(
        f"{own[0]['evaluations']['total'] / 1e6:.0f} million on {name}"
        for name, own in _problems(rows).items()
    )
    for name, own in _problems(rows).items():
        for row in own:
            times = row["evaluations"]["total"] / own[0]["evaluations"]["total"]
            if times > 1.5:  # budgets are alike but for whole steps
                budgets += f"; {times:.1f} times as many for {NAMES[row['name']]} on {name}"
    tables = "\n\n".join(_table(name, own) for name, own in _problems(rows).items())
    return f"""
Every run on a problem has one budget of evaluations of a network (forward passes and
vector-Jacobian products at one state, of student, base and auxiliary networks together,
`toys/evaluation/cost.py`): {budgets}. {first["batch"]} rows a step, one seed,
{first["kernels"]}. Held: the flow ahead, and the policy behind a flow, are held fixed;
bidirectional: no flow (Remark 6). Both, and relative trajectory balance, have the KL-regularised
optimum of the chain for their own, as Adjoint Matching and DDPO with KL have; the losses as printed
have another (`theory/gflownet/class_best.py`); methods without a prior go to R^beta. Corrected:
with the learnt term of (51) and (52), which every policy meets, so that no law is its optimum.

{_printed(rows)}

{tables}

Law: exact law of the network's chain to the method's own optimum, W1 on the line and total
variation in the plane, as a share of base to optimum. KL: of the policy's chain to the base's, over
paths; E[log w]: the lower bound on log Z along the policy's own trajectories, with a standard error
of at most {error:.3f}, the same draws for all; std: of X_T, all coordinates together.
"""


def _printed(rows: Sequence[Row]) -> str:
    """Where the losses as printed lead, in words."""
    lines = []
    for r in rows:
        if "printed" in r["name"] or r["name"] == "nabla_corrected":
            way = f"{100 * r['to_target_share']:.0f} % of the way to the target is left"
            if r["law_share"] is None:
                lines.append(f"- {r['problem']}, {NAMES[r['name']]}: {way}; no optimum is known.")
            else:
                lines.append(
                    f"- {r['problem']}, {NAMES[r['name']]}: {way}, at its exact fixed point "
                    f"{100 * r['optimum_to_target_share']:.0f} %; the law is "
                    f"{100 * r['law_share']:.0f} % of its shift away from that one."
                )
    return "\n".join(lines)


def _table(name: str, own: Sequence[Row]) -> str:
    spread, reward = own[0]["std"], own[0]["reward"]
    lines = "\n".join(
        f"| {NAMES[r['name']]} | {share(r['law_share'])} | {share(r['to_target_share'])} | "
        f"{share(r['optimum_to_target_share'])} | {r['reward']['trained']:.3f} | "
        f"{r['std']['trained']:.3f} | {r['path_kl']:.3f} | {number(r['bound'])} | "
        f"{number(r['log_z_learnt'])} | {number(r['bound_of_optimum'])} | {r['log_z']:.3f} | "
        f"{r['steps']} | {r['learning_rate']:g} | {r['cpu_seconds']:.0f} |"
        for r in own
    )
    return f"""
{name} (base: reward {reward["base"]:.3f}, std {spread["base"]:.3f}; tilt: reward
{reward["target"]:.3f}, std {spread["target"]:.3f}):

| {" | ".join(HEADS)} |
|{"---|" * len(HEADS)}
{lines}
""".strip()
