"""domingo, D11 and D13: critical points of both matching losses."""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np

from theory import Chain, Diffusion, load_problem
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.core import Array, Context, Finding, Part, extra, number
from theory.ledger.domingo.line_chain import Adjoint, CriticalPoint, Function, LineChain, Spline
from theory.ledger.domingo.search import Family, Search

NAMES = ("note_1d", "bumps_1d", "linear_1d", "quadratic_1d")
SCHEDULES = {
    "g = 1": Diffusion.of_constant(1.0),
    "ancestral": None,
    "offset 0.1": Diffusion.of_offset(0.1),
}
POINTS, FINE = 241, 401  # of the grid; where it is compared with dynamic programming
NEWTON, SETTLED = 80, 1e-12
MOST_LOST = 0.2  # share of starts that may not settle
VISIBLE = 0.01  # of E|u*|^2: a gradient field that is not zero


def chain_of(label: str, steps: int) -> Chain:
    """Ancestral kernels keep a last noise that shrinks with their number."""
    return Chain(steps, sigma_end=min(0.04, 0.5 / steps), schedule=SCHEDULES[label])


@lru_cache(maxsize=64)
def solved(
    name: str, label: str, steps: int, factor: float = 1.0, points: int = POINTS
) -> tuple[LineChain, CriticalPoint]:
    """A problem's line and its critical point at factor times its scale."""
    problem = load_problem(name)
    line = LineChain.of_problem(problem, chain_of(label, steps), factor * problem.scale, points)
    return line, line.critical()


def _grid(context: Context) -> list[tuple[str, str, int]]:
    if context.is_fast:
        return [("bumps_1d", "ancestral", 8), ("note_1d", "g = 1", 8)]
    # From 8 steps on the offset's first kernel does not overshoot.
    names = context.choose(NAMES[:3], NAMES[:3], NAMES)
    longest = context.choose((8, 16), (8, 16), (8, 16, 32, 64, 128))
    return [(n, s, T) for n in names for s in SCHEDULES for T in longest]


def relative(line: LineChain, density: Array, field: Array) -> float:
    """sqrt of sum_k E|field_k|^2, (T, N)."""
    return float(np.sqrt((density * field**2).sum() * line.dx))


# --- one root


def _unique(adjoint: Adjoint, title: str, context: Context) -> Finding:
    least: dict[str, float] = {}
    roots, residual = set(), 0.0
    wrong = {"m - m_b + s H (s for s²)": 0.0, "sign of the adjoint": 0.0, "u*/2": 0.0}
    for name, label, steps in _grid(context):
        line, found = solved(name, label, steps)
        least[f"{name}, {label}, {steps} steps"] = float(found.least.min())
        roots |= set(np.unique(found.roots).tolist())
        H = line.adjoints(found.means, adjoint)[1]
        u, s = line.controls(found.means), line.std[:, None]
        size = float(np.abs(u).max())
        residual = max(residual, float(np.abs(u + s * H).max()) / size)
        half = line.base + 0.5 * (found.means - line.base)
        tried = (u + H, u - s * H, line.gradient_fields(half, adjoint))
        for key, field in zip(wrong, tried, strict=True):
            wrong[key] = max(wrong[key], float(np.abs(field).max()) / size)
    worst = min(least, key=lambda k: least[k])
    longest = max(steps for *_, steps in _grid(context))
    tail = [v for k, v in least.items() if k.endswith(f", {longest} steps")]
    return Finding(
        name=title,
        role="claim",
        kind="exact",
        holds=roots == {1} and least[worst] > 0 and residual <= ALGEBRA.rtol,
        figure=f"one root for every (x, k) of {len(least)} chains; least 1 + s² d/dm E[A] "
        f"{number(least[worst])}, at {longest} steps {number(min(tail))} or more; |G| there "
        f"{number(residual)} of |u*|",
        numbers={"least": least, "roots": sorted(roots), "gradient_field": residual},
        worst=worst,
        mutants={k: v > ALGEBRA.rtol for k, v in wrong.items()},
    )


def compared(
    name: str, label: str, steps: int, factor: float = 1.0
) -> tuple[LineChain, CriticalPoint]:
    """On the fine grid."""
    return solved(name, label, steps, factor, FINE)


@lru_cache(maxsize=16)
def programmed(name: str, label: str, steps: int) -> Array:
    """(T, N) means of dynamic programming's optimum: by values and Newton's method, no adjoint."""
    line = compared(name, label, steps)[0]
    later: Function = line.final
    means = np.empty_like(line.base)
    for k in range(line.steps - 1, -1, -1):
        m, s2 = line.base[k].copy(), line.std[k] ** 2
        for step in range(NEWTON):
            _, slope, curve = line.curved(k, later, m)
            move = (m - line.base[k] + s2 * slope) / np.maximum(1 + s2 * curve, 0.2)
            m = m - (move if step < NEWTON // 2 else 0.5 * move)
            if np.abs(move).max() < SETTLED:
                break
        means[k] = m
        later = Spline(line.axis, line.curved(k, later, m)[0] + (m - line.base[k]) ** 2 / (2 * s2))
    return means


def cases(context: Context) -> list[tuple[str, str, int]]:
    """Where dynamic programming is asked too."""
    cases = [("note_1d", "ancestral", 4), ("bumps_1d", "g = 1", 4)]
    if context.is_fast:
        return cases
    return [
        *cases,
        ("linear_1d", "ancestral", 8),
        ("quadratic_1d", "g = 1", 8),
        ("bumps_1d", "ancestral", 8),
    ]


def weights(line: LineChain, means: Array) -> Array:
    """Densities of X_0 .. X_{T-1} on the line's axis, by a finer grid where kernels are narrow."""
    found = [line.start / (line.start.sum() * line.dx)]
    for k in range(line.steps - 1):
        std = max(line.std[k], 1.2 * line.dx)
        p = np.exp(-0.5 * ((line.axis[:, None] - means[k][None, :]) / std) ** 2) @ found[-1]
        found.append(p / (p.sum() * line.dx))
    return np.array(found)


def _is_optimal(adjoint: Adjoint, context: Context) -> Finding:
    gap, worst, killed = 0.0, "", dict.fromkeys(("scale 1.02", "u*/2", "base"), True)
    for name, label, steps in cases(context):
        line, _ = compared(name, label, steps)
        best = programmed(name, label, steps)
        p = weights(line, best)
        size = relative(line, p, line.controls(best))
        own = relative(line, p, line.gradient_fields(best, adjoint)) / size
        if own >= gap:
            gap, worst = own, f"{name}, {label}, {steps} steps"
        for key, means in {
            "scale 1.02": compared(name, label, steps, 1.02)[1].means,
            "u*/2": 0.5 * (best + line.base),
            "base": line.base,
        }.items():
            G = relative(line, p, line.gradient_fields(means, adjoint)) / size
            killed[key] &= bool(G / QUADRATURE.rtol > 10)
    return Finding(
        name="the optimum of dynamic programming is that root",
        role="claim",
        kind="exact",
        holds=gap <= QUADRATURE.rtol,
        figure=(
            f"|G| {number(gap)} of |u*| in L2 of the path law (quadrature {QUADRATURE.rtol:g})"
        ),
        numbers={"gradient_field": gap},
        worst=worst,
        mutants=killed,
    )


# --- a search in a family that holds u*


def _search(adjoint: Adjoint, context: Context) -> Finding:
    starts = context.choose(6, 30, 200)
    names = NAMES[: context.choose(1, 2, 3)]
    found: list[Search] = []
    for problem in map(load_problem, names):
        chain = Chain(4, schedule=Diffusion.of_constant(1.0))
        line = LineChain.of_problem(problem, chain, problem.scale, 121)
        found.append(Family(line, line.critical().means, adjoint).search(starts, context.seed))
    least = min((s.least for s in found), default=math.inf)
    zeros, others, distinct, stalled, lost = (
        sum(getattr(s, name) for s in found)
        for name in ("zeros", "others", "distinct", "stalled", "lost")
    )
    return Finding(
        name="zeros of the gradient in a family around u*",
        role="support",
        kind="exact",
        holds=zeros > 0 and least > VISIBLE and lost <= MOST_LOST * starts * len(names),
        figure=(
            f"{zeros} of {starts * len(names)} starts ended at u*, {others} at other "
            "parameters with zero gradient in the family "
            f"({distinct} distinct), "
        )
        + (
            f"whose gradient field is {number(least)} of E|u*|² or more"
            if others
            else "none of which there is to name"
        )
        + f"; {stalled} stalled where the gradient is not zero, {lost} did not settle",
        numbers={
            "at_optimum": zeros,
            "elsewhere": others,
            "stalled": stalled,
            "lost": lost,
            "least_field": least if others else None,
            "parameters": Family.PARAMETERS,
        },
        mutants={"half the adjoint: u* is no zero": all(s.wrong for s in found)},
    )


# --- few steps: not unique


@extra
def second_critical_point(context: Context) -> Finding:
    """Two ancestral steps and twice the problem's tilt: three critical policies, all smooth."""
    name, steps, factor = "bumps_1d", 2, 2.0
    problem = load_problem(name)
    line = LineChain.of_problem(problem, Chain(steps, schedule=None), factor * problem.scale, 801)
    first = line.critical()
    count = int(first.roots[0].min())
    # The first ancestral kernel forgets X_0: its mean is one number, and so are its roots.
    flat = float(np.ptp(line.base[0])) <= ALGEBRA.rtol and int(first.roots[1].max()) == 1
    points = [line.critical([i, 0]) for i in range(count)]
    fields = [float(np.abs(line.gradient_fields(p.means)).max()) for p in points]
    lean = [float(np.abs(line.gradient_fields(p.means, "lean")).max()) for p in points]
    costs = [line.start_mean(line.cost_to_go(p.means)[0]) for p in points]
    slopes, wrong = zip(*(_forward_slopes(line, p.means) for p in points), strict=True)
    means = [float(p.means[0, 0]) for p in points]
    # With the kernels narrower (more steps) one root is left.
    enough = next(T for T in (4, 8, 12, 16, 24) if solved(name, "ancestral", T, factor)[1].unique)
    return Finding(
        name="on few, wide steps there are other critical points",
        role="instead",
        kind="exact",
        holds=flat
        and count == 3
        and max(fields + lean) <= ALGEBRA.rtol
        and max(slopes) <= QUADRATURE.rtol,
        figure=f"{name}, {steps} ancestral steps, scale {factor * problem.scale:g}: first means "
        + ", ".join(number(m) for m in means)
        + " with costs "
        + ", ".join(f"{c:.4f}" for c in costs)
        + f", |G| at most {number(max(fields + lean))}; 1 + s² d/dm E[A] falls to "
        f"{number(float(first.least.min()))}; {enough} steps have one",
        numbers={
            "means": means,
            "costs": costs,
            "fields": fields,
            "lean": lean,
            "forward_slopes": list(slopes),
            "least": first.least.tolist(),
            "enough": enough,
        },
        worst=name,
        mutants={"a mean between two roots": min(wrong) > 10 * QUADRATURE.rtol},
    )


def _forward_slopes(line: LineChain, means: Array) -> tuple[float, float]:
    """|dJ/dm_0| by differences of the cost along densities, at the point and 0.1 beside it."""

    def cost(move: float) -> float:
        moved = means.copy()
        moved[0] += move
        p, u = line.densities(moved), line.controls(moved)
        return float((0.5 * p[:-1] * u**2).sum() + p[-1] @ line.final(line.axis)) * line.dx

    def slope(at: float) -> float:
        one, two = ((cost(at + h) - cost(at - h)) / (2 * h) for h in (1e-3, 2e-3))
        return abs(4 * one - two) / 3

    return slope(0.0), slope(0.1)


D11_UNIQUE: tuple[Part, ...] = (
    partial(_unique, "full", "one critical point: the full adjoint's"),
    partial(_is_optimal, "full"),
    partial(_search, "full"),
)
D13_UNIQUE: tuple[Part, ...] = (
    partial(_unique, "lean", "one critical point: the lean adjoint's"),
    partial(_is_optimal, "lean"),
    partial(_search, "lean"),
)
