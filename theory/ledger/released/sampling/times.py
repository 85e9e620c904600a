"""released, N6: training at some times of the sampling grid only, and what samplers make of it.

The loss has one term a time: a student with capacity enough is optimal at the times that it is
trained at, and nowhere else is anything asked of it. `theory.released.times` says what samplers
make of three models of the rest; here their laws are set against those of v* at every time.

Which time is left out is read three ways: the one nearest to the data, the one nearest to the
noise, or another one for every sample, so that all ten are trained.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from theory import Chain, ExactField, Exponential, chain_law, grid_distances, load_problem
from theory.common.tolerances import QUADRATURE
from theory.fields.mixture import VelocityModel
from theory.ledger.core import GOOD, Claim, Context, Finding, extra, fit_slope, number
from theory.ledger.released.sampling.moves import (
    COUNT,
    DPM_SHIFTED,
    EVALUATION,
    FLOW,
    GRID,
    OTHERS,
    POINTS,
    SHIFTED,
    TRAINING,
    move,
    reference,
    times_region,
)
from theory.ledger.released.sampling.routes import FINE_FLOW, ROUTES, SAME_SAMPLER, laws_agree
from theory.released.times import (
    MODELS,
    KnownAtTimes,
    Sampler,
    distances_to,
    laws,
    total_variation,
    uniform_times,
)
from theory.samplers.chain import state_axes

LEFT_OUT = {
    "another one for every sample": GRID,
    "the one nearest to the data": GRID[:-1],
    "the one nearest to the noise": GRID[1:],
}
MAP_FLOOR = 1e-8  # what Runge and Kutta's fixed steps leave in a TV

# --- laws of whole samplers on the named problems


def other_samplers(context: Context) -> Finding:
    """The claim: the times in between change nothing, whatever the sampler."""
    samplers = context.choose((EVALUATION,), OTHERS[:-1])
    found = {(s.label, m): move("note_1d", s, GRID, m) for s, m in product(samplers, MODELS)}
    own = [move("note_1d", TRAINING, GRID, m).tv for m in MODELS]
    sampler, model = max(found, key=lambda k: found[k].tv)
    worst, smooth = found[sampler, model], found[EVALUATION.label, "linear"]
    return Finding(
        name="other samplers, ten times trained, note_1d",
        role="claim",
        kind="exact",
        holds=max(v.tv for v in found.values()) <= QUADRATURE.rtol,
        figure=(
            f"{EVALUATION.label} moves by TV {number(smooth.tv)} if the step is linear in between "
            f"({100 * smooth.share:+.2f} % of the gain in reward), {sampler} by up to "
            f"{number(worst.tv)} ({100 * worst.share:+.0f} %)"
        ),
        numbers={f"{s}, {m}": [v.tv, v.share] for (s, m), v in found.items()},
        worst=f"{sampler}, nothing learned in between: mean reward {number(worst.reward)}, with v* "
        f"at all times {number(worst.whole)}, base {number(worst.base)}"
        if model == "none"
        else f"{sampler}, {model}",
        mutants={"the sampler of training": max(own) <= QUADRATURE.rtol},
    )


@extra
def table(context: Context) -> Finding:
    """Which samplers' results move by more than 1 % and 5 %, for every reading of 9 of 10."""
    asked = [("note_1d", s) for s in (context.choose((TRAINING, EVALUATION), (TRAINING, *OTHERS)))]
    asked += context.choose([], [("bumps_1d", s) for s in (EVALUATION, DPM_SHIFTED)])
    cells: dict[str, dict[str, list[float]]] = {}
    for (case, times), (name, sampler) in product(LEFT_OUT.items(), asked):
        both = [move(name, sampler, times, m) for m in ("linear", "nearest")]
        cells.setdefault(case, {})[f"{sampler.label}, {name}"] = [
            max(v.tv for v in both),
            max(abs(v.share) for v in both),
        ]
    over = {
        c: {f"{b:g}": [k for k, v in row.items() if max(v) > b] for b in GOOD}
        for c, row in cells.items()
    }
    most = {c: max(max(v) for v in row.values()) for c, row in cells.items()}
    shown = [
        f"{c}: {len(over[c]['0.01'])} over 1 %, {len(over[c]['0.05'])} over 5 %, at most "
        f"{100 * most[c]:.1f} %"
        for c in LEFT_OUT
    ]
    none = move("note_1d", EVALUATION, GRID, "none")
    return Finding(
        name="which samplers move (TV or share of the gain, linear or nearest in between)",
        role="support",
        kind="exact",
        holds=most[next(iter(LEFT_OUT))] <= GOOD[1],
        figure=f"of {len(asked)} samplers and problems, if what is left out is " + "; ".join(shown),
        numbers={"tv and share": cells, "over": over},
        worst="bumps_1d",
        mutants={"nothing learned in between": none.tv > GOOD[1] and abs(none.share) > GOOD[1]},
    )


@extra
def against_the_target(context: Context) -> Finding:
    """Next to what v* and the sampler leave of the claimed target, the times matter little."""
    problem = load_problem("note_1d")
    target = problem.tilt(Exponential(problem.scale))
    full = problem.cumulant_field(problem.scale, 1)
    samplers = (TRAINING, EVALUATION, Sampler("dpm2", SHIFTED), DPM_SHIFTED)
    rows: dict[str, list[float]] = {}
    for sampler in samplers:
        times = SHIFTED if sampler.method == "dpm2" else GRID
        own: list[float] = []
        for field in (full, KnownAtTimes(full, times, "linear")):
            (law,) = laws(sampler, field, points=2 * POINTS)
            log_p = target.log_density(torch.as_tensor(law.place)[:, None]).numpy()
            own += distances_to(law, log_p)
        rows[sampler.label] = own
    return Finding(
        name="TV to the claimed target, v* at all times then linear in between",
        role="support",
        kind="exact",
        holds=max(abs(v[2] - v[0]) / v[0] for v in rows.values()) < 0.5,
        figure=", ".join(f"{k} {number(v[0])} then {number(v[2])}" for k, v in rows.items()),
        numbers={"tv, kl of v*; tv, kl of linear": rows},
        worst="note_1d",
        mutants={"the base for the target": _base_is_further(samplers[1], rows)},
    )


def _base_is_further(sampler: Sampler, rows: dict[str, list[float]]) -> bool:
    problem = load_problem("note_1d")
    (law,) = laws(sampler, problem.cumulant_field(problem.scale, 1), points=POINTS)
    log_base = problem.base.log_density(torch.as_tensor(law.place)[:, None]).numpy()
    return distances_to(law, log_base)[0] > 2 * rows[sampler.label][0]


@extra
def only_the_grid(context: Context) -> Finding:
    """Where nothing is learned in between the flow is the base's; m times as many Euler steps keep
    about 1/m of the gain."""
    problem = load_problem("note_1d")
    (base,) = laws(FLOW, problem.base_field, points=POINTS)
    full = problem.cumulant_field(problem.scale, 1)
    (law,) = laws(FLOW, KnownAtTimes(full, GRID, "none"), points=POINTS)
    gap = total_variation(base, law)
    kept = {
        m: 1 + move("note_1d", Sampler("euler", uniform_times(m * COUNT)), GRID, "none").share
        for m in (1, 2, 4)
    }
    (held,) = laws(FLOW, KnownAtTimes(full, GRID, "nearest"), points=POINTS)
    return Finding(
        name="nothing learned in between: the ODE's law is the base's",
        role="instead",
        kind="exact",
        holds=gap <= QUADRATURE.rtol,
        figure=f"TV {number(gap)} (quadrature {QUADRATURE.rtol:g}); Euler with "
        + ", ".join(f"{m * COUNT} steps keeps {100 * v:.1f} %" for m, v in kept.items())
        + " of the gain in reward",
        numbers={"tv": gap, "kept": {str(k): v for k, v in kept.items()}},
        worst="note_1d",
        mutants={"the nearest time's step": total_variation(base, held) > QUADRATURE.rtol},
    )


@extra
def order_in_the_spacing(context: Context) -> Finding:
    """The ODE's law if the step is linear in between: TV to that of v*, in 1/n for n times."""
    thorough = context.profile.starts > 0
    problems = ("note_1d", "linear_1d")[: 1 + thorough]
    counts = (8, 12, 16, 24, 32, 48, 64) if thorough else (8, 10, 12, 16, 20, 28)
    # A steeper flow takes finer steps to show its order.
    flow, points = (FINE_FLOW, 2 * POINTS) if thorough else (FLOW, POINTS)
    slopes, sizes = {}, {}
    for name in problems:
        tv = [move(name, flow, uniform_times(n), "linear", points).tv for n in counts]
        slopes[name] = fit_slope(1 / np.array(counts), np.array(tv), MAP_FLOOR)
        sizes[name] = move(name, flow, GRID, "linear", points).tv
    # A step that is 1 % short at every time: no number of times mends it.
    problem = load_problem(problems[0])
    short = problem.cumulant_field(0.99 * problem.scale, 1)
    whole = reference(problems[0], flow, points)[0]
    off = [
        total_variation(whole, laws(flow, KnownAtTimes(short, uniform_times(n)), points=points)[0])
        for n in (counts[0], counts[-1])
    ]
    worst = max(slopes, key=lambda k: abs(slopes[k].slope - 2))
    return Finding(
        name="linear in between: TV of the ODE's laws, in 1/(number of times)",
        role="instead",
        kind="order",
        holds=all(s.is_order and s.order == 2 for s in slopes.values()),
        figure=f"slope {slopes[worst]} ({worst}); with {COUNT} times "
        + ", ".join(f"{number(v)} ({k})" for k, v in sizes.items()),
        numbers={"slopes": {k: [s.slope, s.half] for k, s in slopes.items()}, "at ten": sizes},
        worst=worst,
        order=2,
        mutants={"1 % short at every time": off[1] > off[0] * (counts[0] / counts[-1])},
    )


@extra
def stochastic(context: Context) -> Finding:
    """The memoryless (DDPM) chain on the same times, and in twice as many steps."""
    problem = load_problem("note_1d")
    full = problem.cumulant_field(problem.scale, 1)
    found: dict[str, float] = {}
    more = 2 * COUNT
    for steps in (COUNT, more):
        chain = Chain(steps)
        axes = state_axes(chain, [problem.base], 0.5)
        whole = chain_law(chain, _at_one_time(full), axes)
        for model in MODELS:
            law = chain_law(chain, _at_one_time(KnownAtTimes(full, GRID, model)), axes)
            found[f"{steps} steps, {model}"] = grid_distances(whole, law)["TV"].value
    same, fine = ([found[f"{n} steps, {m}"] for m in MODELS] for n in (COUNT, more))
    return Finding(
        name="a stochastic sampler (chain of the path's posteriors)",
        role="support",
        kind="exact",
        holds=max(same) <= QUADRATURE.rtol,
        figure=f"{COUNT} steps move by {number(max(same))}; {more} steps by "
        + ", ".join(f"{number(found[f'{more} steps, {m}'])} ({m})" for m in MODELS),
        numbers={"tv": found},
        worst="note_1d",
        mutants={"twice as many steps": min(fine) > QUADRATURE.rtol},
    )


def _at_one_time(field: ExactField) -> VelocityModel:
    """A field as chains ask for it: one time a row, all equal."""

    def model(x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        return field(x, torch.as_tensor(t).flatten()[0])

    return model


N6 = Claim(
    id="N6",
    source="released, the times that its loss is asked at",
    statement=(
        "Trained at 9 of the 10 times of its sampling grid only, the field serves other samplers "
        "as one trained at all times does."
    ),
    assumptions=(
        "The student is optimal at the times it is trained at; between them its step is linear "
        "in t, that of the nearest time, or 0. d = 1, v_old the base's velocity."
    ),
    first="closed fields; the samplers' maps with their slopes carried along",
    second=(
        "sums over a grid; the same maps without slopes, TV by distribution functions, scipy's ODE"
    ),
    recorded="conditional",
    remark=(
        "Exact for samplers that ask at trained times alone. Elsewhere the loss says nothing. If "
        "the step is linear or held in between, others move little, as 1/n² in the number of "
        "times, and more for one time left out at an end than for all gaps within; if nothing is "
        "learned there, an ODE solver returns the base. A copy of the script that could be read "
        "draws the nine anew for every sample: then all ten are trained."
    ),
    parts=(
        other_samplers,
        SAME_SAMPLER,
        ROUTES,
        table,
        only_the_grid,
        order_in_the_spacing,
        against_the_target,
        stochastic,
        laws_agree,
    ),
    region=times_region,
)
