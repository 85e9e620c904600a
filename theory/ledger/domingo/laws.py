"""domingo, laws on the line: D2 (marginals), D3 (any schedule), D5, D6 (memory).

First routes: Hamilton-Jacobi-Bellman and Fokker-Planck equations by differences on grids
(`theory.control.grid`, `theory.samplers.sde`). Second routes: transition kernels composed forwards
and backwards, with fields that are trapezoidal sums (`theory.ledger.oracle.control.line`, `flow`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from theory import Diffusion, Exponential, GridOptimum, load_problem, sde_law
from theory.common.tolerances import QUADRATURE, QUADRATURE_2D
from theory.control.steered import SteeredField
from theory.ledger.core import (
    Array,
    Context,
    Finding,
    Tally,
    column,
    extra,
    number,
    tilt_density,
    total_variation,
)
from theory.ledger.domingo.law_routes import (
    AXIS,
    CASES,
    GRID,
    KERNELS,
    MEMORYLESS_START,
    NAMES,
    SPOTS,
    constant,
    grid_optimum,
    normal,
    on_axis,
    plain_drift,
    tilt_weight,
    tilted_path_law,
)
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle.control.line import line_expectation, line_law, uniform_clock
from theory.ledger.oracle.flow import LineField


def names(context: Context) -> tuple[str, ...]:
    return context.choose(NAMES[:1], NAMES[:1], NAMES)


def _cases(context: Context) -> tuple[tuple[str, float], ...]:
    return CASES[: context.choose(1, 2, len(CASES))]


def _labels(cases: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{name} (g = {g:g})" for name, g in cases)


# --- D2


@extra
def marginals_are_kept(context: Context) -> Finding:
    """The law at t = 1 of the base SDE from N(0, 1), against the mixture."""
    tally = Tally(QUADRATURE, "ODE's drift", "g² for g²/2")
    for name, g in _cases(context):
        field, problem = LineField(plain_numbers(load_problem(name))), load_problem(name)
        mixture = problem.base.log_density(column(AXIS)).exp().numpy()
        for label, drift in {
            "": plain_drift(field, g),
            "ODE's drift": plain_drift(field, 0.0),
            "g² for g²/2": plain_drift(field, 2**0.5 * g),
        }.items():
            if label and (tally.mutants[label] or g != 1.0):
                continue
            found = line_law(
                drift,
                constant(g),
                normal(AXIS),
                AXIS,
                uniform_clock(0.0),
                steps=KERNELS[g][0],
                levels=KERNELS[g][1],
            ).value
            tally.compare(found, mixture, float(mixture.max()), f"{name}, g = {g:g}", label)
    return tally.finding(
        "the SDE's law at t = 1 is the base's, whatever g",
        "claim",
        f"{density_within(tally)}, d = 1: {_labels(_cases(context))}",
    )


def density_within(tally: Tally) -> str:
    return (
        f"density within {number(tally.error)} of its peak ({tally.tier.name} {tally.tier.rtol:g})"
    )


# --- D3 for any schedule, with a state cost


def state_cost(x: Array, t: float) -> Array:
    """A bounded running cost that depends on time."""
    return np.asarray((1 + t) * x**2 / (4 + x**2))


@extra
def value_under_any_schedule(context: Context) -> Finding:
    """V at t = 0 by its equation, against -log E by composed kernels; f = 0 and f > 0."""
    tally = Tally(QUADRATURE, "f left out", "V of the memoryless schedule")
    for name, g in _cases(context):
        problem, plain = load_problem(name), plain_numbers(load_problem(name))
        field = LineField(plain)
        size = float(np.ptp(problem.scale * problem.reward(column(SPOTS)).numpy()))
        for f in (None, state_cost) if name == NAMES[0] else (state_cost,):
            optimum = GridOptimum(problem, problem.scale, Diffusion.of_constant(g), _two_d(f))
            ours = _at_spots(optimum)
            theirs = -np.log(
                line_expectation(
                    plain_drift(field, g),
                    constant(g),
                    partial(tilt_weight, plain),
                    SPOTS,
                    AXIS,
                    uniform_clock(0.0),
                    potential=f,
                    steps=KERNELS[g][0],
                    levels=KERNELS[g][1],
                ).value
            )
            tally.compare(ours, theirs, size, f"{name}, g = {g:g}, {'f > 0' if f else 'f = 0'}")
            if f is None:
                plain_value = ours
            elif name == NAMES[0]:
                tally.compare(plain_value, theirs, size, wrong="f left out")
        if name == NAMES[0]:
            blind = np.full_like(ours, -float(problem.tilt(Exponential(problem.scale)).log_z))
            tally.compare(blind, plain_value, size, wrong="V of the memoryless schedule")
    return tally.finding(
        "V under a constant g, with and without a running cost",
        "claim",
        f"error {number(tally.error)} of r's range (quadrature {QUADRATURE.rtol:g}), d = 1: "
        f"{_labels(_cases(context))}",
    )


def _two_d(f: Callable[[Array, float], Array] | None) -> Callable[[Array, float], Array] | None:
    """A cost of points (n,) as one of points (n, 1)."""
    return None if f is None else lambda x, t: f(x[:, 0], t)


def _at_spots(optimum: GridOptimum) -> Array:
    """V(., 0) at SPOTS."""
    begin = optimum.at_start
    return np.asarray(CubicSpline(begin.points(0.0)[:, 0], begin.at(0.0))(SPOTS))


# --- D5: the optimal path measure


@extra
def controlled_law_is_the_tilted_paths(context: Context) -> Finding:
    """X_1 of the SDE with the control u*, against P exp(a r(X_1))/Z(X_0)."""
    tally = Tally(QUADRATURE, "half of u*", "P exp(a r)/Z with one Z for all")
    for name, g in _cases(context):
        problem = load_problem(name)
        optimum = grid_optimum(name, g)
        ours = sde_law(SteeredField(optimum), Diffusion.of_constant(g), GRID, 1e-8, 1e-10)
        theirs = CubicSpline(AXIS, tilted_path_law(name, g))(GRID)
        peak = float(theirs.max())
        tally.compare(ours.density, theirs, peak, f"{name}, g = {g:g}")
        tilt = tilt_density(problem, problem.scale, GRID)
        tally.compare(ours.density, tilt, peak, wrong="P exp(a r)/Z with one Z for all")
        if not tally.mutants["half of u*"]:
            half = SteeredField(optimum, share=0.5)
            law = sde_law(half, Diffusion.of_constant(g), GRID, 1e-6, 1e-8)
            tally.compare(law.density, theirs, peak, wrong="half of u*")
    return tally.finding(
        "X_1 under the control u* has the law of P exp(-c)/Z(X_0)",
        "claim",
        f"{density_within(tally)}, d = 1: {_labels(_cases(context))}",
    )


# --- D6: what is off without memorylessness


@extra
def memoryless_optimum_is_the_tilt(context: Context) -> Finding:
    """The law of the memoryless SDE with u*, by Fokker-Planck, against base exp(a r)/Z."""
    tally = Tally(QUADRATURE, "g = 1 instead", "u* of half the scale")
    for problem in map(load_problem, names(context)):
        claimed = tilt_density(problem, problem.scale, GRID)
        peak = float(claimed.max())
        memoryless = Diffusion.of_memoryless(1.0, MEMORYLESS_START)
        law = sde_law(
            problem.tilted_field(Exponential(problem.scale)), memoryless, GRID, 1e-7, 1e-9
        )
        tally.compare(law.density, claimed, peak, problem.name)
        tally.compare(
            on_axis(grid_optimum(problem.name, 1.0).law, GRID), claimed, peak, wrong="g = 1 instead"
        )
        half = sde_law(
            problem.tilted_field(Exponential(problem.scale / 2)), memoryless, GRID, 1e-4, 1e-6
        )
        tally.compare(half.density, claimed, peak, wrong="u* of half the scale")
    return tally.finding(
        "the memoryless optimum samples base exp(a r)/Z",
        "claim",
        f"{density_within(tally)} on {len(names(context))} problems, d = 1, from "
        f"t = {MEMORYLESS_START:g}",
    )


@extra
def factor_of_memory(context: Context) -> Finding:
    """pi_1 exp(a r) E[exp V(X_0, 0) | X_1] by two equations, against composed kernels; its size."""
    tally, sizes = Tally(QUADRATURE, "a factor that does not depend on X_1"), {}
    for name, g in _cases(context):
        problem = load_problem(name)
        claimed = tilt_density(problem, problem.scale, AXIS)
        ours, theirs = on_axis(grid_optimum(name, g).law), tilted_path_law(name, g)
        peak = float(theirs.max())
        tally.compare(ours, theirs, peak, f"{name}, g = {g:g}")
        sizes[f"{name}, g = {g:g}"] = total_variation(ours, claimed, AXIS)
        tally.compare(claimed, theirs, peak, wrong="a factor that does not depend on X_1")
    shown = ", ".join(f"{k} {number(v)}" for k, v in sizes.items())
    return tally.finding(
        "without it the law is base exp(a r) E[exp V(X_0, 0) | X_1]",
        "claim",
        f"{density_within(tally)}; TV to the tilt: {shown}",
        {"error": tally.error, "tv": sizes},
    )


@extra
def factor_in_the_plane(context: Context) -> Finding:
    """The same in d = 2: the mass of the law before it is normalised is 1 if all is right."""
    problem, g = load_problem("bump_2d"), 1.0
    masses, laws = [], []
    for points in context.choose((51,), (51,), (41, 61)):
        optimum = GridOptimum(problem, problem.scale, Diffusion.of_constant(g), points=points)
        masses.append(abs(optimum.mass - 1))
        laws.append(optimum.law)
    law = laws[-1]
    places = np.stack([a.ravel() for a in np.meshgrid(*law.axes, indexing="ij")], -1)
    claimed = problem.tilt(Exponential(problem.scale)).log_density(torch.as_tensor(places)).exp()
    cell = float(np.prod([a[1] - a[0] for a in law.axes]))
    tv = 0.5 * float(np.abs(law.density.ravel() - claimed.numpy()).sum()) * cell
    bare = problem.scale * problem.reward(torch.as_tensor(places))
    bare_mass = float((problem.base.log_density(torch.as_tensor(places)) + bare).exp().sum() * cell)
    return Finding(
        name="the same in d = 2",
        role="support",
        kind="exact",
        holds=masses[-1] <= QUADRATURE_2D.rtol,
        figure=(
            f"mass off by {', '.join(number(m) for m in masses)} before it is normalised; TV to "
            f"the tilt {number(tv)} at g = 1"
        ),
        numbers={"mass": masses, "tv": tv},
        worst="bump_2d",
        mutants={"without the factor": abs(bare_mass - 1) > QUADRATURE_2D.rtol},
    )
