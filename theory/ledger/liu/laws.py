"""liu, L8 and L9: how good the Taylor approximation is, for fields and for laws of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from theory import (
    BumpReward,
    ExactField,
    FlowLaw,
    GaussianSum,
    Problem,
    QuadraticReward,
    load_problem,
)
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import (
    AXIS,
    LOG_FLOOR,
    SLOPE_ATOL,
    SLOPE_RTOL,
    TARGETS,
    Array,
    BumpFamily,
    Context,
    Finding,
    Region,
    Slope,
    Tally,
    base_points,
    exponential_tilts,
    extra,
    family_laws,
    field_errors,
    fit_slope,
    number,
    reward_spread,
    total_variations,
)
from theory.ledger.oracle import flow
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.oracle.online import LineLaw
from theory.recursion import Trajectory

FIELD_FLOOR = 1e-14
PROBLEMS = ("note_1d", "linear_1d", "quadratic_1d", "bump_2d", "plane_5d", "full_5d")
QUICK = ("note_1d", "full_5d")
SOME = ("quadratic_1d", "bump_2d", "full_5d")  # where the law is that of L8 in another parameter
DECADES = 2.0
NOTE_SCALE = 2.0  # v*+ of the note, and v* at nft_beta = 1


def scales_of(problem: Problem, n: int) -> Array:
    """Two decades up to a tenth of a standard deviation of exponent."""
    top = 0.3 / reward_spread(problem)
    return np.geomspace(top * 10**-DECADES, top, n)


# (problem, parameters (m,), stretch (m,)) -> errors (m,): what is measured at every parameter, with
# the field's own taken `stretch` times as large.
Measure = Callable[[Problem, Array, Array], Array]


def order_part(
    name: str,
    measure: Measure,
    floor: float,
    at_scale: bool = True,
    problems: Sequence[str] = PROBLEMS,
    quick: Sequence[str] = QUICK[:1],
) -> Callable[[Context], Finding]:
    """Whether `measure` is of second order over two decades, on every problem; and its size at the
    problem's own scale. A field that goes 10 % too far rides along on the first problem: it is off
    at first order, which the same fit must see."""

    def part(context: Context) -> Finding:
        slopes: dict[str, Slope] = {}
        sizes: dict[str, float] = {}
        wrong: list[Slope] = []
        for problem in map(load_problem, context.choose(quick, problems)):
            scales = scales_of(problem, context.choose(8, 14))
            further = np.empty(0) if wrong else scales_of(problem, 8)
            # One batch: what rides along costs hardly more than one law.
            at = np.concatenate([scales, [problem.scale], further])
            stretch = np.where(np.arange(len(at)) > len(scales), 1.1, 1.0)
            errors, own, others = np.split(
                measure(problem, at, stretch), [len(scales), len(scales) + 1]
            )
            slopes[problem.name] = fit_slope(scales, errors, floor)
            if len(further):
                wrong.append(fit_slope(further, others, floor))
            if at_scale:
                sizes[problem.name] = float(own[0])
        orders = {s.order for s in slopes.values()}
        worst = max(slopes, key=lambda k: abs(slopes[k].slope - 2))
        sized = max(sizes, key=lambda k: sizes[k]) if sizes else ""
        figure = f"slope {slopes[worst]} ({worst}, the furthest of {len(slopes)} from 2)"
        if sizes:
            figure += f"; at the problem's own scale up to {number(sizes[sized])} ({sized})"
        return Finding(
            name,
            "claim",
            "order",
            holds=orders == {2} and all(s.is_order for s in slopes.values()),
            figure=figure,
            order=min(orders),
            worst=sized or worst,
            numbers={
                "slopes": {k: [s.slope, s.half, s.low, s.high] for k, s in slopes.items()},
                "at_scale": sizes,
            },
            mutants={"first order 10 % off": wrong[0].order != 2},
        )

    return part


def field_gaps(problem: Problem, scales: Array, stretch: Array) -> Array:
    """RMS over X_t of v* at stretch a and v^a."""
    found = np.empty(len(scales))
    for factor in np.unique(stretch):
        same = stretch == factor
        found[same] = field_errors(problem, scales[same], stretch=float(factor))
    return found


def law_gaps(problem: Problem, scales: Array, stretch: Array) -> Array:
    """RMS log-ratio of the law of v* at stretch a to pi_1 exp(a r)."""
    field = problem.cumulant_field(torch.as_tensor(stretch * scales), 1)
    return _log_ratios(problem, field, exponential_tilts(problem, torch.as_tensor(scales)))


def perturbation_gaps(problem: Problem, factors: Array, stretch: Array) -> Array:
    """The same of v*+ for the reward stretch e r to pi_1 exp(2 e r), one an e."""
    e, two = torch.as_tensor(factors), torch.full((len(factors),), NOTE_SCALE, dtype=torch.float64)
    field = scaled_reward(problem, torch.as_tensor(stretch) * e).nft_perturbation(1)
    return _log_ratios(problem, field, exponential_tilts(scaled_reward(problem, e), two))


def spread_gaps(problem: Problem, scales: Array, stretch: Array) -> Array:
    """The same at the problem's own scale a, with r replaced by E r + e (r - E r), against a e: the
    constant E r (1 - e) no law sees."""
    e = torch.as_tensor(scales / problem.scale)
    field = scaled_reward(problem, torch.as_tensor(stretch) * e).cumulant_field(problem.scale, 1)
    own = torch.full((len(e),), problem.scale, dtype=torch.float64)
    return _log_ratios(problem, field, exponential_tilts(scaled_reward(problem, e), own))


def _log_ratios(problem: Problem, field: ExactField, tilts: GaussianSum) -> Array:
    """RMS over draws of the base of log q - log p: q what the field samples, one a tilt p."""
    points = base_points(problem, 48)
    x = points.expand(*tilts.batch_shape, *points.shape)
    law = FlowLaw(field, rtol=SLOPE_RTOL, atol=SLOPE_ATOL).log_density(x)
    return np.asarray(((law - tilts.log_density(x)) ** 2).mean(-1).sqrt())


def scaled_reward(problem: Problem, factors: Tensor) -> Problem:
    """The problem with r replaced by e r, for a batch of e."""
    reward, e = problem.reward, factors[:, None]
    wide = replace(problem, base=problem.base.expanded((len(factors),)))
    if isinstance(reward, BumpReward):
        centres, precisions = (
            v.expand(len(factors), *v.shape) for v in (reward.centres, reward.precisions)
        )
        return replace(wide, reward=BumpReward(e * reward.heights, centres, precisions))
    assert isinstance(reward, QuadraticReward)
    matrix, vector = e[..., None] * reward.matrix, e * reward.vector
    return replace(wide, reward=QuadraticReward(matrix, vector, factors * reward.constant))


def plain_numbers(problem: Problem) -> PlaneNumbers:
    """A named problem on the line as the second routes take it."""
    reward = problem.reward
    if isinstance(reward, BumpReward):
        parameters = {
            "heights": reward.heights.numpy(),
            "centres": reward.centres.numpy(),
            "precisions": reward.precisions.numpy(),
        }
        kind = "bumps"
    else:
        assert isinstance(reward, QuadraticReward)
        kind = "linear" if reward.is_linear else "quadratic"
        parameters = {"vector": reward.vector.numpy(), "constant": reward.constant.numpy()}
        if kind == "quadratic":
            parameters["matrix"] = reward.matrix.numpy()
    base = problem.base
    return PlaneNumbers(
        base.log_abs.exp().numpy(),
        base.mean.numpy(),
        base.cov.numpy(),
        kind,
        parameters,
        problem.scale,
        np.eye(problem.dim),
    )


def last_laws_apart(run: Trajectory, theirs: LineLaw) -> float:
    """Largest difference of densities over the peak, where the oracle's law has nodes."""
    axis = run.axes[0]
    inside = (axis > theirs.nodes[0]) & (axis < theirs.nodes[-1])
    q = run.laws[-1].density[inside]
    return float(np.abs(np.exp(theirs.log_density(axis[inside])) - q).max() / q.max())


@lru_cache(maxsize=1)
def _agreement(names: tuple[str, ...]) -> Tally:
    """Several rows ask for it."""
    y = np.array([-2.0, -1.1, -0.2, 0.6, 1.5, 2.4])
    tally = Tally(QUADRATURE, "scale 1 % off")
    for problem in map(load_problem, names):
        theirs = flow.cdf(flow.LineField(plain_numbers(problem), scale=problem.scale), y)
        for factor, wrong in ((1.0, ""), (1.01, "scale 1 % off")):
            field = problem.cumulant_field(factor * problem.scale, 1)
            ours = FlowLaw(field).cdf(torch.as_tensor(y)[:, None])
            tally.compare(ours.numpy(), theirs, 1.0, problem.name, wrong)
    return tally


@extra
def laws_agree(context: Context) -> Finding:
    """The law of v* by torchdiffeq on closed forms, and by scipy on sums over a grid (cdf)."""
    names = context.choose(("note_1d",), ("note_1d", "quadratic_1d", "bumps_1d"))
    tally = _agreement(names)
    return tally.finding(
        "law of v* by two routes (cdf)", "support", f"error {tally} on {len(names)} problems"
    )


L8_PARTS = (
    order_part("field of v* against v^a, RMS over X_t", field_gaps, FIELD_FLOOR, quick=QUICK),
    order_part("law of v* against pi_1 exp(a r), RMS log-ratio", law_gaps, LOG_FLOOR),
    order_part(
        "law of v*+ against pi_1 exp(2 e r), in e", perturbation_gaps, LOG_FLOOR, False, SOME
    ),
    laws_agree,
)

# --- L9: a reward that is nearly constant


@extra
def narrow_bump(context: Context) -> Finding:
    """A narrow bump has little spread: where the bump is, the field's error hardly falls."""
    widths = np.geomspace(0.3, 0.03, 6)
    note = load_problem("note_1d")
    spreads, tvs, fields = [], [], []
    family = BumpFamily(
        (1.0,) * len(widths), tuple(map(float, widths)), (NOTE_SCALE,) * len(widths)
    )
    axis = np.unique(np.concatenate([AXIS, np.linspace(0.0, 2.0, 801)]))
    points = torch.as_tensor(axis)[:, None].expand(len(widths), len(axis), 1)
    problem = family.problem
    law = FlowLaw(problem.cumulant_field(family.a, 1), rtol=1e-8, atol=1e-10)
    density = law.log_density(points).exp().numpy()
    tilt = exponential_tilts(problem, family.a).density(points).numpy()
    base = note.base.density(torch.as_tensor(axis)[:, None]).numpy()
    reward = problem.reward(points).numpy()
    for i, width in enumerate(widths):
        mean = np.trapezoid(base * reward[i], axis)
        spreads.append(float(np.sqrt(np.trapezoid(base * (reward[i] - mean) ** 2, axis))))
        tvs.append(float(0.5 * np.trapezoid(np.abs(density[i] - tilt[i]), axis)))
        one = replace(problem, base=note.base, reward=_single(problem, i))
        t = 1 / (1 + float(width))  # where the posterior is as wide as the bump
        x = torch.as_tensor(t * np.linspace(1 - 3 * width, 1 + 3 * width, 61))[:, None]
        gap = one.cumulant_field(NOTE_SCALE, 1)(x, t) - _tilted_velocity(one, x, t)
        fields.append(float(gap.abs().max()))
    slope = float(np.polyfit(np.log(spreads), np.log(tvs), 1)[0])
    return Finding(
        name="a bump that only grows narrow",
        role="support",
        kind="statistical",
        holds=min(fields) > 0.2 * max(fields),
        figure=f"spread {number(spreads[0])} to {number(spreads[-1])}: TV {number(tvs[0])} to "
        f"{number(tvs[-1])} (slope {slope:.2f} in the spread), but the largest error of the field "
        f"stays at {number(fields[-1])} (from {number(fields[0])}): nearly constant must be meant "
        "uniformly",
        numbers={"widths": widths.tolist(), "spreads": spreads, "tv": tvs, "field": fields},
        worst=f"bump of width {widths[-1]:g}",
    )


def _single(problem: Problem, i: int) -> BumpReward:
    reward = problem.reward
    assert isinstance(reward, BumpReward)
    return BumpReward(reward.heights[i], reward.centres[i], reward.precisions[i])


def _tilted_velocity(problem: Problem, x: Tensor, t: float) -> Tensor:
    reward = problem.reward
    assert isinstance(reward, BumpReward)
    law = reward.exponential_tilt(problem.base, NOTE_SCALE).normalised()
    return (law.noised(x, torch.tensor(t), torch.tensor(1 - t)).mean - x) / (1 - t)


L9_PARTS = (
    order_part(
        "law of v* for r = E r + e (r - E r), against a e", spread_gaps, LOG_FLOOR, False, SOME
    ),
    narrow_bump,
)


def spread_region(cells: int) -> Region:
    """The same over the bump's width and a times the spread of r."""
    widths, exponents = np.geomspace(0.4, 4.0, cells), np.geomspace(0.05, 2.0, cells)
    spreads = [_spread_of_width(float(w)) for w in widths]
    pairs = [
        (float(w), float(x / s)) for w, s in zip(widths, spreads, strict=True) for x in exponents
    ]
    strongest = 12.0  # beyond it blank: laws too sharp for the grid of the map
    errors = np.full(len(pairs), np.nan)
    keep = [i for i, (_, a) in enumerate(pairs) if a <= strongest]
    family = BumpFamily(
        (2.0,) * len(keep), tuple(pairs[i][0] for i in keep), tuple(pairs[i][1] for i in keep)
    )
    law, targets = family_laws(family)
    errors[keep] = total_variations(law, targets[TARGETS[0]])
    return Region(
        "NFT's law against the exponential tilt",
        "width of the reward bump",
        widths,
        "a times the spread of r",
        exponents,
        errors.reshape(cells, cells),
        "TV",
        "xy",
    )


def _spread_of_width(width: float) -> float:
    family = BumpFamily((2.0,), (width,), (1.0,)).problem
    return reward_spread(
        replace(family, base=load_problem("note_1d").base, reward=_single(family, 0))
    )
