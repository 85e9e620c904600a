"""zhu, Z11: the objective that NFT is said to maximise, at its law and at the optimum."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from theory import Exponential, Problem, load_problem
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import (
    AXIS,
    LINE,
    Array,
    Context,
    Finding,
    Region,
    column,
    extra,
    family_laws,
    nft_density,
    number,
    product_family,
    tilt_density,
)
from theory.ledger.liu.laws import laws_agree, plain_numbers
from theory.ledger.oracle import flow, simplex
from theory.ledger.zhu.laws import NAMES
from theory.ledger.zhu.planes.objective import Z11_PLANES
from theory.ledger.zhu.planes.planes import gaussian_along_reward

FAINT = 25.0  # log-density below the peak that no objective sees


def objective(density: Array, problem: Problem, scale: float, axis: Array = LINE) -> float:
    """E_p[r] - (1/scale) KL(p | base) on a grid."""
    points = column(axis)
    base = problem.base.log_density(points).numpy()
    reward = problem.reward(points).numpy()
    log_p = np.log(np.maximum(density, 1e-300))
    return float(np.trapezoid(density * (reward - (log_p - base) / scale), axis))


@lru_cache(maxsize=8)
def objectives(name: str) -> dict[str, float]:
    """The objective's value at its optimum, at NFT's law and at the base, and a times both KLs
    between the first two laws."""
    problem = load_problem(name)
    a = problem.scale
    nft, tilt = nft_density(problem, a), tilt_density(problem, a)
    ratio = np.log(np.maximum(nft, 1e-300) / np.maximum(tilt, 1e-300))
    best, value = float(problem.tilt(Exponential(a)).log_z) / a, objective(nft, problem, a)
    return {
        "optimum": best,
        "NFT": value,
        "base": objective(tilt_density(problem, 0.0), problem, a),
        "gap": best - value,
        "KL(NFT|tilt)/scale": float(np.trapezoid(nft * ratio, LINE)) / a,
        "KL(tilt|NFT)/scale": -float(np.trapezoid(tilt * ratio, LINE)) / a,
    }


def _names(context: Context) -> tuple[str, ...]:
    return context.choose(NAMES[:1], NAMES)


def objective_gap(context: Context) -> Finding:
    """The value of the objective at its optimum and at NFT's law."""
    rows = {name: objectives(name) for name in _names(context)}
    worst = max(rows, key=lambda k: rows[k]["gap"])
    row = rows[worst]
    return Finding(
        name="NFT's law attains max E_p[r] - (beta/2) KL(p|p_old)",
        role="claim",
        kind="exact",
        holds=all(abs(r["gap"]) <= QUADRATURE.rtol for r in rows.values()),
        figure=f"objective {row['NFT']:.4f} at NFT's law, {row['optimum']:.4f} at the optimum, "
        f"{row['base']:.4f} at the base ({worst}), d = 1",
        numbers={"rows": rows},
        worst=f"{worst}: short by {number(row['gap'])}",
    )


def shortfall_is_kl(context: Context) -> Finding:
    """What NFT's law falls short by is (beta/2) KL(NFT | tilt)."""
    rows = {name: objectives(name) for name in _names(context)}
    wrong = {
        "beta KL(NFT|tilt)": lambda r: 2 * r["KL(NFT|tilt)/scale"],
        "(beta/2) KL(tilt|NFT)": lambda r: r["KL(tilt|NFT)/scale"],
    }
    errors = {k: QUADRATURE.error(r["gap"], r["KL(NFT|tilt)/scale"], 1.0) for k, r in rows.items()}
    worst = max(errors, key=lambda k: errors[k])
    return Finding(
        name="NFT's law falls short by (beta/2) KL(NFT|tilt)",
        role="instead",
        kind="exact",
        holds=errors[worst] <= QUADRATURE.rtol,
        figure=(
            f"error {number(errors[worst])} (quadrature {QUADRATURE.rtol:g}) on {len(rows)} "
            "problems, d = 1"
        ),
        numbers={"errors": errors},
        worst=worst,
        mutants={
            label: any(abs(r["gap"] - f(r)) > QUADRATURE.rtol for r in rows.values())
            for label, f in wrong.items()
        },
    )


@extra
def objective_by_quadrature(context: Context) -> Finding:
    """The objective at the tilt by the adaptive oracle; at NFT's law from scipy's density."""
    problem = load_problem("note_1d")
    a, plain = problem.scale, plain_numbers(problem)
    box = plain.density().region
    best = simplex.regularised_objective(
        lambda y: plain.log_density(y) + a * plain.reward(y),
        plain.log_density,
        plain.reward,
        a,
        box,
    )
    stated = float(problem.tilt(Exponential(a)).log_z) / a
    error = QUADRATURE.error(best, stated, 1.0)
    if not context.is_fast:
        # Spectral accuracy: a step of a quarter of the narrowest width has rounding only.
        axis = np.linspace(-8.0, 8.0, 129)
        log_tilt = plain.log_density(axis[:, None]) + a * plain.reward(axis[:, None])
        axis = axis[log_tilt > log_tilt.max() - FAINT]
        second = objective(flow.density(flow.LineField(plain, scale=a), axis), problem, a, axis)
        error = max(error, QUADRATURE.error(objectives("note_1d")["NFT"], second, 1.0))
    moved = simplex.regularised_objective(
        lambda y: plain.log_density(y) + 1.1 * a * plain.reward(y),
        plain.log_density,
        plain.reward,
        a,
        box,
    )
    return Finding(
        name="the objective by two routes",
        role="support",
        kind="exact",
        holds=error <= QUADRATURE.rtol,
        figure=f"error {number(error)} (quadrature {QUADRATURE.rtol:g})",
        numbers={"error": error},
        worst="note_1d",
        mutants={"tilt 10 % too strong": stated - moved > QUADRATURE.rtol},
    )


def objective_in_the_gaussian_case(context: Context) -> Finding:
    """The gap vanishes where Z4 is exact."""
    problem = gaussian_along_reward(1)
    gaps = {
        f"{scale:g}": abs(
            float(problem.tilt(Exponential(scale)).log_z) / scale
            - objective(nft_density(problem, scale), problem, scale)
        )
        for scale in (0.5, 2.0)
    }
    worst = max(gaps.values())
    return Finding(
        name="linear reward along a Gaussian direction of the base",
        role="condition",
        kind="exact",
        holds=worst <= QUADRATURE.rtol,
        figure=f"gap {number(worst)}, d = 1",
        numbers={"gaps": gaps},
    )


Z11_PARTS = (
    objective_gap,
    objective_in_the_gaussian_case,
    shortfall_is_kl,
    objective_by_quadrature,
    laws_agree,
    *Z11_PLANES,
)


def objective_region(cells: int) -> Region:
    """KL(NFT|tilt) / KL(base|tilt): the share of the attainable gain that NFT's law misses."""
    centres, scales = np.linspace(-3.0, 4.0, cells), np.linspace(0.25, 4.5, cells)
    law, targets = family_laws(product_family(centres.tolist(), scales.tolist()))
    tilt = np.maximum(targets["exp(ar)"], 1e-300)
    base = load_problem("note_1d").base.density(column(AXIS)).numpy()
    missed, all_of_it = (
        np.trapezoid(p * np.log(np.maximum(p, 1e-300) / tilt), AXIS, axis=1) for p in (law, base)
    )
    return Region(
        "how much of the objective's attainable gain NFT misses",
        "centre of the reward bump",
        centres,
        "2/beta",
        scales,
        (missed / all_of_it).reshape(cells, cells),
        "share missed",
    )
