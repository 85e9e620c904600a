"""Learning curves on the named control problems: control error against evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from theory.control.cases import DoubleWell, control_case
from theory.draw import BLUE, GREEN, VERMILION, use_style

TITLE = "Learning curves of the adjoint family on five control problems with known optima"
STYLES = {
    "adjoint_matching": (BLUE, "-", "o"),
    "discrete_adjoint": (GREEN, "--", "^"),
    "continuous_adjoint": (VERMILION, "-.", "v"),
}
NAMES = {
    "adjoint_matching": "Adjoint Matching (lean)",
    "discrete_adjoint": "discrete adjoint = basic Adjoint Matching",
    "continuous_adjoint": "continuous adjoint",
}
LEARNED = 0.5  # of E|u*|^2: a control that is further off has not found the optimum
Row = Mapping[str, Any]


def draw(numbers: Mapping[str, Any]) -> Figure:
    """One panel a problem."""
    use_style()
    cases = _cases(numbers["cases"])
    figure, panels = plt.subplots(
        2, (len(cases) + 1) // 2, figsize=(10.0, 5.6), layout="constrained", sharex=True
    )
    for axes, (name, rows) in zip(panels.ravel(), cases.items(), strict=False):
        _panel(axes, name, rows)
    for axes in panels.ravel()[len(cases) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("control error (share of E|u*|²)")
    for i, axes in enumerate(panels.ravel()[: len(cases)]):
        if i + panels.shape[1] >= len(cases):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("network evaluations (millions)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    spare = panels.ravel()[-1] if panels.size > len(cases) else figure
    spare.legend(handles, labels, loc="center", fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, name: str, rows: list[Row]) -> None:
    for row in rows:
        color, line, marker = STYLES[row["method"]]
        spent, errors = np.array(row["curve"]).T
        axes.plot(
            spent / 1e6, errors, color=color, ls=line, lw=1.4, marker=marker, ms=3.5,
            label=NAMES[row["method"]],
        )  # fmt: skip
    axes.axhline(
        rows[0]["floor"], color="0.4", lw=0.9, ls=":", label="u* of the diffusion (a floor, not 0)"
    )
    axes.axhline(1.0, color="0.8", lw=0.9, label="no control at all")
    axes.set(yscale="log", title=f"{name}, d = {rows[0]['dim']}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))


def _cases(rows: list[Row]) -> dict[str, list[Row]]:
    return {name: [r for r in rows if r["case"] == name] for name in dict.fromkeys(
        r["case"] for r in rows)}  # fmt: skip


def text(numbers: Mapping[str, Any]) -> str:
    """What the runs say."""
    rows = numbers["cases"]
    cases = _cases(rows)
    first = rows[0]
    solved = [n for n, own in cases.items() if min(r["control_error"] for r in own) < LEARNED]
    missed = [n for n in cases if n not in solved]
    table = "\n".join(
        f"| {r['case']} | {NAMES[r['method']]} | {100 * r['control_error']:.2g} % | "
        f"{100 * r['error_to_continuous']:.2g} % | {100 * r['floor']:.2g} % | "
        f"{r['cost']:.2f} ± {r['cost_se']:.2f} | {r['least_cost']:.2f} | "
        f"{r['uncontrolled_cost']:.1f} | {r['updates']} | {r['cpu_seconds']:.0f} |"
        for r in rows
    )
    return f"""
Five problems with exact optima, of the kinds that papers on stochastic optimal control test with
(`theory.control.cases`): Ornstein-Uhlenbeck processes, whose optimum is Riccati's, and separable
double wells. A network is trained on {first["steps"]} Euler steps, {first["batch"]} trajectories an
update, {first["budget"] / 1e6:g} million evaluations a run, from no control; the error is
E|u - u*|²/E|u*|² along the optimum of that chain.

{_solved(cases, solved)}

{_missed(cases, missed)}

| problem | method | error | to the diffusion's u* | floor | cost | least | idle | updates | CPU-s |
|---|---|---|---|---|---|---|---|---|---|
{table}

Floor: the optimum of the {first["steps"]}-step chain against the diffusion's u*. A network that has
learned its chain's optimum perfectly is still that far off the u* that papers compare with. Costs
are means over the network's own trajectories with their standard errors; idle: without control.
"""


def _solved(cases: Mapping[str, list[Row]], names: list[str]) -> str:
    if not names:
        return "No method finds the optimum of any of them."
    best = "; ".join(
        f"{n}: " + ", ".join(
            f"{NAMES[r['method']]} {100 * r['control_error']:.2g} %" for r in cases[n])
        for n in names
    )  # fmt: skip
    return f"Learned: {best}."


def _missed(cases: Mapping[str, list[Row]], names: list[str]) -> str:
    if not names:
        return "No problem is left unsolved."
    lines, gaps = [], []
    for name in names:
        case = control_case(name)
        for r in cases[name]:
            gaps.append((r["cost"] - r["least_cost"]) / (r["uncontrolled_cost"] - r["least_cost"]))
        if not isinstance(case, DoubleWell):
            continue
        for r in cases[name]:
            for k, n in dict.fromkeys(zip(case.kappa.tolist(), case.nu.tolist(), strict=True)):
                own = (case.kappa == k) & (case.nu == n)
                error, end, best = (
                    100 * np.array(r[key])[own].mean()
                    for key in ("error_of_coordinates", "crossed", "crossed_of_optimum")
                )
                lines.append(
                    f"| {name} | {NAMES[r['method']]} | {k:g} | {n:g} | {own.sum()} | "
                    f"{error:.0f} % | {end:.0f} % | {best:.0f} % |"
                )
    table = "\n".join(lines)
    return f"""
Not learned, by any method at this budget: {", ".join(names)}. Networks are trained on their own
trajectories, and few of these cross to the wells where the optimum goes: its control is never shown
there, and along the optimum the network's values are extrapolation. The cost stays
{100 * min(gaps):.0f} to {100 * max(gaps):.0f} % of the way from its least to that without control;
the loss, on the network's own trajectories, does not tell. That u* is the only critical point (D11,
D13) is no promise that training gets there. By kind of coordinate (kappa: its barrier, nu: the pull
to the other side; error as a share of E|u*_i|²; how many trajectories end on the other side):

| problem | method | kappa | nu | coordinates | error | crossed | optimum |
|---|---|---|---|---|---|---|---|
{table}
""".strip()
