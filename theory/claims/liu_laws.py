"""liu, L8 to L10: how good the Taylor approximation is, for fields and for laws of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from theory.claims.laws import (
    AXIS,
    LOG_FLOOR,
    TARGETS,
    BumpFamily,
    base_points,
    exponential_tilts,
    family_laws,
    field_errors,
    log_ratio_errors,
    product_family,
    reward_spread,
    total_variations,
)
from theory.claims.ledger import Context, Finding, Role, extra, number
from theory.claims.order import Slope, fit_slope
from theory.claims.region import Region
from theory.oracle import flow
from theory.oracle.integrate import Array
from theory.oracle.plane import PlaneNumbers
from theory.problem import Problem, load_problem
from theory.rewards import BumpReward, QuadraticReward
from theory.tolerances import QUADRATURE
from theory.transport import FlowLaw

FIELD_FLOOR = 1e-14
PROBLEMS = ("note_1d", "linear_1d", "quadratic_1d", "bump_2d", "plane_5d", "full_5d")
QUICK = ("note_1d", "full_5d")
DECADES = 2.0
NOTE_SCALE = 2.0  # v*+ of the note, and v* at nft_beta = 1


def scales_of(problem: Problem, n: int) -> Array:
    """Two decades up to a tenth of a standard deviation of exponent."""
    top = 0.3 / reward_spread(problem)
    return np.geomspace(top * 10**-DECADES, top, n)


def order_part(
    name: str,
    measure: Callable[[Problem, Array], Array],
    floor: float,
    expected: int,
    at_scale: bool = True,
    role: Role = "claim",
) -> Callable[[Context], Finding]:
    """The slope of `measure` over two decades, on every problem; and its size at the problem's own
    scale."""

    def part(context: Context) -> Finding:
        quick = context.profile.name == "fast"
        slopes: dict[str, Slope] = {}
        sizes: dict[str, float] = {}
        for key in (QUICK if measure is field_errors else QUICK[:1]) if quick else PROBLEMS:
            problem = load_problem(key)
            scales = scales_of(problem, 8 if quick else 14)
            # The problem's own scale rides along: a batch costs hardly more than one law.
            *errors, own = measure(problem, np.append(scales, problem.scale))
            slopes[key] = fit_slope(scales, np.array(errors), floor)
            if at_scale:
                sizes[key] = float(own)
        orders = {s.order for s in slopes.values()}
        worst = max(slopes, key=lambda k: abs(slopes[k].slope - expected))
        sized = max(sizes, key=lambda k: sizes[k]) if sizes else ""
        figure = f"slope {slopes[worst]} ({worst}, the furthest of {len(slopes)} from {expected})"
        if sizes:
            figure += f"; at the problem's own scale up to {number(sizes[sized])} ({sized})"
        return Finding(
            name, role, "order",
            holds=orders == {expected} and all(s.is_order for s in slopes.values()),
            figure=figure, order=min(orders), worst=sized or worst,
            numbers={
                "slopes": {k: [s.slope, s.half, s.low, s.high] for k, s in slopes.items()},
                "at_scale": sizes,
            },
            mutants=_order_mutants(expected),
        )  # fmt: skip

    return part


def _order_mutants(expected: int) -> dict[str, bool]:
    """NFT's field with a step 10 % too long is off at first order: the fit must say so."""
    note = load_problem("note_1d")
    scales = scales_of(note, 8)
    wrong = field_errors(note, scales, stretch=1.1)
    return {"first order 10 % off": fit_slope(scales, wrong, FIELD_FLOOR).order != expected}


def scaled_reward(problem: Problem, factors: Tensor) -> Problem:
    """The problem with r replaced by e r, for a batch of e."""
    reward = problem.reward
    base = problem.base.expanded((len(factors),))
    if isinstance(reward, BumpReward):
        e = factors[:, None]
        many = BumpReward(
            e * reward.heights,
            reward.centres.expand(len(factors), *reward.centres.shape),
            reward.precisions.expand(len(factors), *reward.precisions.shape),
        )
        return replace(problem, base=base, reward=many)
    assert isinstance(reward, QuadraticReward)
    e = factors[:, None]
    scaled = QuadraticReward(
        e[..., None] * reward.matrix, e * reward.vector, factors * reward.constant
    )
    return replace(problem, base=base, reward=scaled)


def perturbation_errors(problem: Problem, factors: Array) -> Array:
    """RMS log-ratio of the law of v*+ for the reward e r to pi_1 exp(2 e r), one an e."""
    e = torch.as_tensor(factors)
    many = scaled_reward(problem, e)
    points = base_points(problem, 48)
    x = points.expand(len(e), *points.shape)
    law = FlowLaw(many.nft_perturbation(1), rtol=1e-10, atol=1e-12).log_density(x)
    two = torch.full((len(e),), NOTE_SCALE, dtype=torch.float64)
    tilt = exponential_tilts(many, two).log_density(x)
    return np.asarray(((law - tilt) ** 2).mean(-1).sqrt())


def _law_errors(problem: Problem, scales: Array) -> Array:
    return log_ratio_errors(problem, scales, base_points(problem, 48))


def plain_numbers(problem: Problem) -> PlaneNumbers:
    """A named problem on the line as the second routes take it."""
    reward = problem.reward
    if isinstance(reward, BumpReward):
        parameters = {
            "heights": reward.heights.numpy(), "centres": reward.centres.numpy(),
            "precisions": reward.precisions.numpy(),
        }  # fmt: skip
        kind = "bumps"
    else:
        assert isinstance(reward, QuadraticReward)
        kind = "linear" if reward.is_linear else "quadratic"
        parameters = {"vector": reward.vector.numpy(), "constant": reward.constant.numpy()}
        if kind == "quadratic":
            parameters["matrix"] = reward.matrix.numpy()
    base = problem.base
    return PlaneNumbers(
        base.log_abs.exp().numpy(), base.mean.numpy(), base.cov.numpy(), kind, parameters,
        problem.scale, np.eye(problem.dim),
    )  # fmt: skip


@extra
def laws_agree(context: Context) -> Finding:
    """The law of v* by torchdiffeq on closed forms, and by scipy on sums over a grid (cdf)."""
    names = (
        ("note_1d",) if context.profile.name == "fast" else ("note_1d", "quadratic_1d", "bumps_1d")
    )
    y = np.array([-2.0, -1.1, -0.2, 0.6, 1.5, 2.4])
    worst, where = 0.0, names[0]
    killed = False
    for name in names:
        problem = load_problem(name)
        field = flow.LineField.nft(plain_numbers(problem), problem.scale)
        theirs = flow.cdf(field, y)
        for factor in (1.0, 1.01):
            ours = FlowLaw(problem.cumulant_field(factor * problem.scale, 1)).cdf(
                torch.as_tensor(y)[:, None]
            )
            error = QUADRATURE.error(ours.numpy(), theirs, 1.0)
            if factor != 1.0:
                killed = killed or error > QUADRATURE.rtol
            elif error >= worst:
                worst, where = error, name
    return Finding(
        "law of v* by two routes (cdf)", "support", "exact", worst <= QUADRATURE.rtol,
        f"error {number(worst)} (quadrature {QUADRATURE.rtol:g}) on {len(names)} problems",
        {"error": worst}, where, mutants={"scale 1 % off": killed},
    )  # fmt: skip


L8_PARTS = (
    order_part("field of v* against v^a, RMS over X_t", field_errors, FIELD_FLOOR, 2),
    order_part("law of v* against pi_1 exp(a r), RMS log-ratio", _law_errors, LOG_FLOOR, 2),
    order_part(
        "law of v*+ against pi_1 exp(2 e r), in e", perturbation_errors, LOG_FLOOR, 2, False
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
    stays = min(fields) > 0.2 * max(fields)
    return Finding(
        "a bump that only grows narrow", "support", "statistical", bool(stays),
        f"spread {number(spreads[0])} to {number(spreads[-1])}: TV {number(tvs[0])} to "
        f"{number(tvs[-1])} (slope {slope:.2f} in the spread), but the largest error of the field "
        f"stays at {number(fields[-1])} (from {number(fields[0])}): nearly constant must be meant "
        "uniformly",
        {"widths": widths.tolist(), "spreads": spreads, "tv": tvs, "field": fields},
        f"bump of width {widths[-1]:g}",
    )  # fmt: skip


def _single(problem: Problem, i: int) -> BumpReward:
    reward = problem.reward
    assert isinstance(reward, BumpReward)
    return BumpReward(reward.heights[i], reward.centres[i], reward.precisions[i])


def _tilted_velocity(problem: Problem, x: Tensor, t: float) -> Tensor:
    reward = problem.reward
    assert isinstance(reward, BumpReward)
    law = reward.exponential_tilt(problem.base, NOTE_SCALE).normalised()
    return (law.noised(x, torch.tensor(t), torch.tensor(1 - t)).mean - x) / (1 - t)


def spread_errors(problem: Problem, factors: Array) -> Array:
    """RMS log-ratio at the problem's own scale a, with r replaced by E r + e (r - E r)."""
    e = torch.as_tensor(factors)
    many = scaled_reward(problem, e)  # E r (1 - e) is a constant: no law sees it
    points = base_points(problem, 48)
    x = points.expand(len(e), *points.shape)
    law = FlowLaw(many.cumulant_field(problem.scale, 1), rtol=1e-10, atol=1e-12).log_density(x)
    a = torch.full((len(e),), problem.scale, dtype=torch.float64)
    return np.asarray(((law - exponential_tilts(many, a).log_density(x)) ** 2).mean(-1).sqrt())


def _spread_part(context: Context) -> Finding:
    part = order_part(
        "law of v* for r = E r + e (r - E r), against a e",
        lambda problem, scales: spread_errors(problem, scales / problem.scale),
        LOG_FLOOR,
        2,
        at_scale=False,
    )
    return part(context)


L9_PARTS = (_spread_part, narrow_bump)

# --- L10: which target is nearest


def note_distances() -> dict[str, float]:
    """TV of NFT's law to every target in the note's toy."""
    law, targets = family_laws(BumpFamily((2.0,), (1.0,), (NOTE_SCALE,)))
    return {name: float(total_variations(law, q)[0]) for name, q in targets.items()}


def nearest_in_the_toy(context: Context) -> Finding:
    found = note_distances()
    nearest = min(found, key=lambda k: found[k])
    return Finding(
        "in the note's toy (two Gaussians, bump at 2, a = 2)", "condition", "exact",
        nearest == TARGETS[2],
        "TV " + ", ".join(f"{number(v)} to {k}" for k, v in found.items()), {"tv": found},
    )  # fmt: skip


def _ranking(cells: int) -> tuple[Array, Array, dict[str, Array]]:
    centres, scales = np.linspace(-3.0, 4.0, cells), np.linspace(0.25, 4.5, cells)
    law, targets = family_laws(product_family(centres.tolist(), scales.tolist()))
    return centres, scales, {
        name: total_variations(law, q).reshape(cells, cells) for name, q in targets.items()
    }  # fmt: skip


def nearest_everywhere(context: Context) -> Finding:
    cells = max(context.profile.cells, 6)
    centres, scales, tv = _ranking(cells)
    table = np.stack([tv[name] for name in TARGETS])
    nearest = table.argmin(0)
    share = {name: float((nearest == i).mean()) for i, name in enumerate(TARGETS)}
    excess = table[2] - table.min(0)
    i, j = np.unravel_index(excess.argmax(), excess.shape)
    counter = {name: float(tv[name][i, j]) for name in TARGETS}
    return Finding(
        "nearest target over bump centres and temperatures", "claim", "exact",
        bool((nearest == 2).all()),
        f"the second order is nearest on {100 * share[TARGETS[2]]:.0f} % of "
        f"{cells} x {cells} problems, exp on {100 * share[TARGETS[0]]:.0f} %, the first order on "
        f"{100 * share[TARGETS[1]]:.0f} %",
        {"share": share, "counterexample": counter},
        f"bump at {centres[i]:.3g}, a = {scales[j]:.3g}: TV "
        + ", ".join(f"{number(v)} to {k}" for k, v in counter.items()),
    )  # fmt: skip


L10_PARTS = (nearest_everywhere, nearest_in_the_toy, laws_agree)

# --- maps


def note_region(cells: int) -> Region:
    """TV of NFT's law to the exponential tilt over the bump's centre and a."""
    centres, scales, tv = _ranking(cells)
    return Region(
        "NFT's law against the exponential tilt", "centre of the reward bump", centres,
        "inverse temperature a = 2/nft_beta", scales, tv[TARGETS[0]], "TV",
    )  # fmt: skip


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
        "NFT's law against the exponential tilt", "width of the reward bump", widths,
        "a times the spread of r", exponents, errors.reshape(cells, cells), "TV", "xy",
    )  # fmt: skip


def _spread_of_width(width: float) -> float:
    family = BumpFamily((2.0,), (width,), (1.0,)).problem
    return reward_spread(
        replace(family, base=load_problem("note_1d").base, reward=_single(family, 0))
    )


def ranking_region(cells: int) -> Region:
    """By how much the second order is further than the nearest target."""
    centres, scales, tv = _ranking(cells)
    table = np.stack([tv[name] for name in TARGETS])
    return Region(
        "how much further the second order is than the nearest target",
        "centre of the reward bump", centres, "inverse temperature a = 2/nft_beta", scales,
        table[2] - table.min(0), "excess TV",
    )  # fmt: skip
