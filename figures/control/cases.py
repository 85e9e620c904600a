"""Learning curves on the named control problems: control error against evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from theory.control.cases import DoubleWell, control_case
from theory.evaluation.draw import BLUE, GREEN, VERMILION, subplots
from toys.commands.cases import percent

TITLE = "Learning curves of the adjoint family on five control problems with known optima"
STYLES = {
    "adjoint_matching": (BLUE, "-", "o"),
    "discrete_adjoint": (GREEN, "--", "^"),
    "continuous_adjoint": (VERMILION, "-.", "v"),
}
NAMES = {
    "adjoint_matching": "Adjoint Matching (lean)",
    "discrete_adjoint": "discrete adjoint",
    "continuous_adjoint": "continuous adjoint",
}
LEARNED, MISSED = 0.1, 0.5  # of E|u*|^2
Row = Mapping[str, Any]


def draw(numbers: Mapping[str, Any]) -> Figure:
    """One panel a problem."""
    cases = _cases(numbers["cases"])
    figure, panels = subplots(
        2, (len(cases) + 1) // 2, figsize=(10.0, 5.6), sharex=True,
        squeeze=False,
    )  # fmt: skip
    for axes in panels.ravel()[len(cases) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("control error (share of E|u*|²)")
    for i, (axes, name) in enumerate(zip(panels.ravel(), cases, strict=False)):
        _panel(axes, name, cases[name])
        if i + panels.shape[1] >= len(cases):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("network evaluations (millions)")
    found = [axes.get_legend_handles_labels() for axes in panels.ravel()[: len(cases)]]
    handles, labels = max(found, key=lambda pair: len(pair[1]))
    spare = panels.ravel()[-1] if panels.size > len(cases) else figure
    spare.legend(handles, labels, loc="center", fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, name: str, rows: list[Row]) -> None:
    for row in rows:
        color, line, marker = STYLES[row["method"]]
        spent, errors = np.array(row["curve"]).T
        fitted = row["start"] == "optimum"
        axes.plot(
            spent / 1e6, errors, color=color, ls=line, lw=0.8 if fitted else 1.4, marker=marker,
            ms=3.5, mfc="none" if fitted else color, label=_name(row),
        )  # fmt: skip
    axes.axhline(
        rows[0]["floor"], color="0.4", lw=0.9, ls=":", label="the diffusion's u* (for scale)"
    )
    axes.axhline(1.0, color="0.8", lw=0.9, label="no control at all")
    axes.set(yscale="log", title=f"{name}, d = {rows[0]['dim']}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))


def _name(row: Row) -> str:
    return NAMES[row["method"]] + ("" if row["start"] == "none" else ", from a fit to the optimum")


def _cases(rows: list[Row]) -> dict[str, list[Row]]:
    return {name: [r for r in rows if r["case"] == name] for name in dict.fromkeys(
        r["case"] for r in rows)}  # fmt: skip


def text(numbers: Mapping[str, Any]) -> str:
    """What the runs say."""
    rows = numbers["cases"]
    first = rows[0]
    table = "\n".join(
        f"| {r['case']} | {_name(r)} | {percent(r['control_error'])} | "
        f"{percent(r['error_to_continuous'])} | {percent(r['floor'])} | "
        f"{r['cost']:.2f} ± {r['cost_se']:.2f} | {r['least_cost']:.2f} | "
        f"{r['uncontrolled_cost']:.1f} | {r['updates']} | {r['cpu_seconds']:.0f} |"
        for r in rows
    )
    return f"""
Five problems with exact optima, of the kinds that papers on stochastic optimal control test with
(`theory.control.cases`): Ornstein-Uhlenbeck processes, whose optimum is Riccati's, and separable
double wells. A network is trained on {first["steps"]} Euler steps, {first["batch"]} trajectories an
update, with at most {first["budget"] / 1e6:g} million evaluations, one seed, from no control; the
error is E|u - u*|²/E|u*|² along the optimum of that chain. The discrete adjoint's gradient is basic
Adjoint Matching's too.

{_learned(rows)}

{_wells(_cases(rows))}

| problem | method | error | to the diffusion's u* | floor | cost | least | idle | updates | CPU-s |
|---|---|---|---|---|---|---|---|---|---|
{table}

Floor: what a control that is perfect for its chain of {first["steps"]} steps has in the column
before, the error that papers report. Costs are means over the network's own trajectories with their
standard errors; idle: without control.
"""


def _learned(rows: list[Row]) -> str:
    """Errors, sorted into learned, partly and not."""
    kinds: dict[str, dict[str, list[str]]] = {"Learned": {}, "Partly": {}, "Not learned": {}}
    for r in (r for r in rows if r["start"] == "none"):
        error = r["control_error"]
        kind = "Learned" if error <= LEARNED else "Partly" if error < MISSED else "Not learned"
        kinds[kind].setdefault(r["case"], []).append(f"{NAMES[r['method']]} {percent(error)}")
    limits = {
        "Learned": f"at most {percent(LEARNED)}",
        "Partly": f"below {percent(MISSED)}",
        "Not learned": f"{percent(MISSED)} or more",
    }
    return "\n".join(
        f"- {kind} (error {limits[kind]}): "
        + ("; ".join(f"{name}: {', '.join(own)}" for name, own in runs.items()) or "none")
        + "."
        for kind, runs in kinds.items()
    )


def _wells(cases: Mapping[str, list[Row]]) -> str:
    """What is hard in the double wells: to see the other side, and the adjoint's noise."""
    wells = {name: rows for name, rows in cases.items() if "crossed" in rows[0]}
    others = [rows[0]["adjoint_noise"] for name, rows in cases.items() if name not in wells]
    table = "\n".join(line for name, rows in wells.items() for line in _crossings(name, rows))
    gaps = [
        (r["cost"] - r["least_cost"]) / (r["uncontrolled_cost"] - r["least_cost"])
        for rows in wells.values()
        for r in rows
        if r["start"] == "none"
    ]
    noises = "; ".join(
        f"{name}: {rows[0]['adjoint_noise']:.2g} ({rows[0]['adjoint_noise_median']:.2g} of the "
        "median trajectory)"
        for name, rows in wells.items()
    )
    fits = "\n".join(
        f"| {name} | {NAMES[r['method']]} | {percent(r['curve'][0][1])} | "
        f"{percent(max(e for _, e in r['curve']))} | {percent(r['control_error'])} |"
        for name, rows in wells.items()
        for r in rows
        if r["start"] == "optimum"
    )
    return f"""
Two things are hard in the double wells. A network learns from its own trajectories, and where few
of these cross to the side that the optimum goes to, little shows it the control there: from no
control the cost stays {percent(min(gaps))} to {percent(max(gaps))} of the way from its least to
that without control. By kind of coordinate (kappa: its barrier, nu: the pull to the other side;
error as a share of E|u*_i|²; crossed: trajectories with x_i > 0 before the last step, the network's
and the optimum's):

| problem | method | kappa | nu | coordinates | error | crossed | by the optimum |
|---|---|---|---|---|---|---|---|
{table}

And a trajectory that crosses has a wild adjoint: between the wells the drift pushes apart, and the
adjoint grows on its way back. Along the exact optimum the lean adjoint's noise E|g a + u*|² as a
multiple of the signal E|u*|², which is the loss of Adjoint Matching at its optimum, is
{noises}: means with heavy tails. On the Ornstein-Uhlenbeck problems it is at most
{max(others):.2g}. How well training stays at the optimum then, at this batch and learning rate,
from a network that was fitted to it:

| problem | method | error of the fit | largest on the way | at the end |
|---|---|---|---|---|
{fits}
""".strip()


def _crossings(name: str, rows: list[Row]) -> list[str]:
    """A line a method and kind of coordinate, from no control."""
    case, lines = control_case(name), []
    assert isinstance(case, DoubleWell)
    for r in (r for r in rows if r["start"] == "none"):
        for k, n in dict.fromkeys(zip(case.kappa.tolist(), case.nu.tolist(), strict=True)):
            own = (case.kappa == k) & (case.nu == n)
            error, end, best = (
                float(np.array(r[key])[own].mean())
                for key in ("error_of_coordinates", "crossed", "crossed_of_optimum")
            )
            lines.append(
                f"| {name} | {NAMES[r['method']]} | {k:g} | {n:g} | {own.sum()} | "
                f"{percent(error)} | {percent(end)} | {percent(best)} |"
            )
    return lines
