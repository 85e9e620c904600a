"""zhu, Z5: online recursions, with m_t frozen and recomputed; what one epoch does, what many do.

theory.recursion carries laws on a grid by closed integrals; `theory.ledger.oracle.online` carries
them once more, by an epoch's loss and scipy's pull-back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from theory import Exponential, FlowLaw, MixtureField, Problem, Recursion, carry, load_problem
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import (
    Array,
    Context,
    Extra,
    Finding,
    Region,
    Slope,
    Tally,
    base_points,
    exponential_tilts,
    extra,
    fit_slope,
    log_gap,
    number,
)
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle import online
from theory.ledger.settings.plane import PlaneProblem
from theory.ledger.zhu.laws import LINE, column, gaussian_along_reward, total_variation
from theory.ledger.zhu.student import STUDENT, UNBOUNDED, student_outside_unit_interval
from theory.recursion import Trajectory
from theory.recursion.spec import Mode

MODES: tuple[Mode, ...] = get_args(Mode)
OFF_LINE = ("bump_2d", "quadratic_2d", "plane_5d")
MORE = [2, 4, 8, 16, 32, 64, 128, 200]  # epochs of the thorough profile: two decades
TOTAL = 2.0  # the sum of 2/beta over the epochs, where steps are made smaller
LOG_SIZE = 12.0  # log-ratios are averaged where the law lies within e^-12 of its peak


# --- Z5: what one epoch does when v_old is no RF field


def law_gap(trajectory: Trajectory, total: float) -> float:
    """RMS under the tilt of log q_K - log(p exp(total r)/Z), where the tilt has its mass."""
    problem, axis = trajectory.problem, torch.as_tensor(trajectory.axes[0])[:, None]
    tilt = problem.tilt(Exponential(total)).log_density(axis).numpy()
    gap = trajectory.laws[-1].log_density - tilt
    weight = np.where(tilt > tilt.max() - LOG_SIZE, np.exp(tilt), 0.0)
    return float(math.sqrt((weight * gap**2).sum() / weight.sum()))


def frozen_laws(problem: Problem, scales: Array, points: Tensor) -> tuple[Array, Array]:
    """log q and log p, (m, n) each, at points (n, d): q the law of v^0 + a Cov_{q_0}, p the tilt by
    exp(a r), one a scale."""
    a = torch.as_tensor(scales)
    x = points.expand(len(a), *points.shape)
    law = FlowLaw(problem.cumulant_field(a, 1), rtol=1e-8, atol=1e-10).log_density(x)
    return law.numpy(), exponential_tilts(problem, a).log_density(x).numpy()


def frozen_is_the_tilt(context: Context) -> Finding:
    """The claim at the data end: the law of v^0 + K lambda Cov against p^0 exp(K lambda r)/Z."""
    counts = np.array([1.0, 4.0])
    tv: dict[str, float] = {}
    once: list[float] = []
    for name in context.choose(("note_1d",), ("note_1d", "quadratic_1d", "linear_1d")):
        problem = load_problem(name)
        log_q, log_p = frozen_laws(problem, counts * problem.scale / 2, column(LINE))
        for k, q, p in zip(counts, np.exp(log_q), np.exp(log_p), strict=True):
            tv[f"{name}, K = {k:g}, 2/beta = {problem.scale / 2:g}"] = total_variation(p, q)
        once.append(total_variation(np.exp(log_q[-1]), np.exp(log_p[0])))
    gaps: dict[str, float] = {}
    for problem in map(load_problem, context.choose((), OFF_LINE)):
        log_q, log_p = frozen_laws(problem, counts * problem.scale / 2, base_points(problem, 24))
        rms = np.sqrt(((log_q - log_p) ** 2).mean(-1))
        gaps |= {f"{problem.name}, K = {k:g}": float(g) for k, g in zip(counts, rms, strict=True)}
    worst = max(tv, key=lambda k: tv[k])
    figure = f"TV {number(min(tv.values()))} to {number(tv[worst])} (d = 1)"
    if gaps:
        figure += (
            f"; RMS log-ratio {number(min(gaps.values()))} to {number(max(gaps.values()))} (d = 2 "
            "and a rotated plane of d = 5)"
        )
    return Finding(
        name="m_t frozen: law of the samples = p^0 exp(K lambda r)/Z",
        role="claim",
        kind="exact",
        holds=max([*tv.values(), *gaps.values()]) <= QUADRATURE.rtol,
        figure=figure,
        numbers={"tv": tv, "log_ratio": gaps},
        worst=f"{worst}: TV {number(tv[worst])}",
        mutants={"p^0 exp(lambda r) after 4 epochs": min(once) > QUADRATURE.rtol},
    )


def rotated_gaussian(dim: int) -> Problem:
    """`gaussian_along_reward` of the plane in a rotated frame of R^dim, an independent Gaussian in
    the rest."""
    frame = np.linalg.qr(np.random.default_rng(dim).normal(size=(dim, dim)))[0]
    flat = plain_numbers(gaussian_along_reward(2))
    return PlaneProblem(
        flat.weights, flat.means, flat.covs, flat.kind, flat.parameters, flat.scale, frame, 0.8
    ).problem()


def epochs_of_tilts(problem: Problem, lam: float, epochs: int) -> tuple[float, float]:
    """Largest errors where every law is the tilt of the one before: of log-densities of `epochs`
    refitted epochs, each from the tilt that is claimed so far, and of the optimum against the RF
    velocity of what it samples (where that is 0, the student's v_old is the refitted one)."""
    points = base_points(problem, 16)
    density = field = 0.0
    for k in range(epochs):
        law, ahead = (problem.tilt(Exponential(j * lam)).law for j in (k, k + 1))
        assert law is not None
        assert ahead is not None
        optimum = replace(problem, base=law).nft_field(2 / lam)
        density = max(density, log_gap(optimum, ahead, points, 1e-8, 1e-10))
        for t in (0.1, 0.5, 0.9):
            velocity = MixtureField(ahead)(points, t)
            field = max(field, float((optimum(points, t) - velocity).abs().max()))
    return density, field


def recursion_in_the_gaussian_case(context: Context) -> Finding:
    """Base Gaussian along a linear reward: every recursion is the tilt, at any step."""
    problem = gaussian_along_reward(1)
    epochs, beta = context.choose((2, 1.5), (4, 1.5))
    total = epochs * 2 / beta
    errors, wrong = {}, []
    for mode in context.choose(MODES[1:], MODES):
        run = carry(problem, Recursion(nft_beta=beta, mode=mode), epochs)
        errors[f"{mode}, d = 1"] = law_gap(run, total)
        wrong.append(law_gap(run, 1.1 * total))
    for dim in context.choose((), (2, 5)):
        many = rotated_gaussian(dim)
        log_q, log_p = frozen_laws(many, np.array([total]), base_points(many, 16))
        errors[f"frozen, d = {dim}"] = float(np.abs(log_q - log_p).max())
        density, field = epochs_of_tilts(many, 2 / beta, 2)
        errors |= {f"refit, d = {dim}": density, f"student's field, d = {dim}": field}
        off = many.tilt(Exponential(1.1 * total)).log_density(base_points(many, 16)).numpy()
        wrong.append(float(np.abs(log_q - off).max()))
    worst = max(errors, key=lambda k: errors[k])
    return Finding(
        name="linear reward along a Gaussian direction: frozen, refit and student",
        role="condition",
        kind="exact",
        holds=errors[worst] <= QUADRATURE.rtol,
        figure=f"log-density within {number(errors[worst])} after {epochs} epochs"
        + (context.choose("", " (d = 1; frozen in d = 2 and 5, the others there epoch by epoch)")),
        numbers={"error": errors[worst], "errors": errors},
        worst=worst,
        mutants={"total tilt 10 % off": min(wrong) > QUADRATURE.rtol},
    )


def small_steps(mode: Mode) -> Extra:
    """At a fixed total K lambda the law tends to the exact tilt as lambda falls: its order."""

    @extra
    def part(context: Context) -> Finding:
        names = ("note_1d", UNBOUNDED if mode == "refit" else "bumps_1d")
        counts = MORE if context.profile.starts else [2, 3, 4, 6, 8, 16, 32]
        lams = TOTAL / np.array(counts)
        slopes: dict[str, Slope] = {}
        off: dict[str, Slope] = {}
        errors: dict[str, list[float]] = {}
        for name in names:
            problem = load_problem(name)
            runs = [
                carry(problem, Recursion(2 / lam, mode), k)
                for k, lam in zip(counts, lams.tolist(), strict=True)
            ]
            errors[name] = [law_gap(run, TOTAL) for run in runs]
            slopes[name] = fit_slope(lams, np.array(errors[name]), 1e-9)
            # The law that runs which sum up to another tilt tend to.
            off[name] = fit_slope(lams, np.array([law_gap(run, 1.1 * TOTAL) for run in runs]), 1e-9)
        worst = max(slopes, key=lambda k: abs(slopes[k].slope - 1))
        return Finding(
            name=f"v_old = {WORDS[mode]}: law to p^0 exp(K lambda r) as lambda falls",
            role="instead",
            kind="order",
            holds=all(s.order == 1 and s.is_order for s in slopes.values()),
            figure=f"slope {slopes[worst]} in lambda ({worst}); RMS log-ratio "
            f"{number(errors[worst][0])} at {counts[0]} epochs, {number(errors[worst][-1])} at "
            f"{counts[-1]}",
            numbers={
                "epochs": counts,
                "errors": errors,
                "slopes": {k: s.slope for k, s in slopes.items()},
            },
            worst=worst,
            order=1,
            mutants={
                "a tilt 10 % stronger": not any(s.order == 1 and s.is_order for s in off.values())
            },
        )

    return part


WORDS = {"refit": "RF field of the last law's own samples", "student": "the last student itself"}


# --- the recursion itself, by a second route


def densities_apart(trajectory: Trajectory, laws: Sequence[online.LineLaw]) -> float:
    """Largest difference of densities over all epochs, relative to the peak."""
    worst = 0.0
    for ours, theirs in zip(trajectory.laws, laws, strict=True):
        q = np.exp(theirs.log_density(trajectory.axes[0]))
        worst = max(worst, float(np.abs(ours.density - q).max() / q.max()))
    return worst


def second_route(problem: Problem, recursion: Recursion, epochs: int) -> list[online.LineLaw]:
    """The same laws by `theory.ledger.oracle.online`."""
    return online.laws(
        plain_numbers(problem), recursion.nft_beta, recursion.mode, epochs, recursion.ema
    )


@extra
def recursion_by_two_routes(context: Context) -> Finding:
    """theory.recursion against the loss's normal equations on sums, pulled back by scipy."""
    epochs, beta = 3 if context.profile.starts else 2, 3.0
    modes: dict[str, tuple[Mode, ...]] = {"note_1d": MODES, UNBOUNDED: ("refit",)}
    confused: dict[str, tuple[Mode, Mode]] = {
        "m_t frozen for the refitted": ("frozen", "refit"),
        "the refitted v_old for the student's": ("refit", "student"),
    }
    tally = Tally(QUADRATURE, *confused)
    for name, some in modes.items():
        problem = load_problem(name)
        ours = {mode: carry(problem, Recursion(beta, mode), epochs) for mode in some}
        theirs = {mode: second_route(problem, Recursion(beta, mode), epochs) for mode in some}
        for mode in some:
            tally.add(densities_apart(ours[mode], theirs[mode]), f"{name}, {mode}")
        for label, (wrong, right) in confused.items():
            if {wrong, right} <= set(some):
                tally.add(densities_apart(ours[wrong], theirs[right]), wrong=label)
    return tally.finding(
        "epochs of the recursion by two routes",
        "support",
        f"densities within {number(tally.error)} of the peak (quadrature {QUADRATURE.rtol:g}), "
        f"{epochs} epochs, modes {', '.join(MODES)}",
        {"error": tally.error, "errors": tally.errors},
    )


Z5_PARTS = (
    frozen_is_the_tilt,
    recursion_in_the_gaussian_case,
    STUDENT,
    small_steps("refit"),
    small_steps("student"),
    student_outside_unit_interval,
    recursion_by_two_routes,
)


def epochs_region(cells: int) -> Region:
    """TV of the law after K refit epochs to p^0 exp(K lambda r)/Z, over lambda and K."""
    problem = load_problem("note_1d")
    lams, counts = np.geomspace(0.05, 1.0, max(cells // 2, 5)), np.arange(1, cells + 1)
    errors = np.empty((len(lams), cells))
    for i, lam in enumerate(lams):
        # Narrow laws after a long way want finer nodes than the default's.
        nodes = 40 * cells if lam * cells > 4 else None
        run = carry(problem, Recursion(2 / float(lam)), cells, grid=nodes)
        axis = run.axes[0]
        points = torch.as_tensor(axis)[:, None]
        for k in counts:
            tilt = problem.tilt(Exponential(float(k * lam))).log_density(points).exp().numpy()
            errors[i, k - 1] = 0.5 * np.trapezoid(np.abs(run.laws[k].density - tilt), axis)
    return Region(
        "online NFT (m_t recomputed) against p^0 exp(K lambda r)",
        "lambda = 2/nft_beta",
        lams,
        "epochs K",
        counts.astype(float),
        errors,
        "TV",
        "x",
    )
