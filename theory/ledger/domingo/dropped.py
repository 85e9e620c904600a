"""domingo, D12: what the lean adjoint drops, on the line by quadrature and by draws in d = 1, 2."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from theory import Chain, Diffusion, load_problem
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.core import Array, Context, Finding, extra, number, z_bound
from theory.ledger.domingo.adjoint_draws import dropped_terms
from theory.ledger.domingo.critical import FINE, cases, compared, programmed, relative, weights
from theory.ledger.domingo.line_chain import LineChain


def dropped_line(context: Context) -> Finding:
    """(m' - m_b')(E[A] + (m - m_b)/s²) against the size of its two terms."""
    kinds: dict[str, Callable[[LineChain, Array], Array]] = {
        "u*": lambda line, best: best,
        "u*/2": lambda line, best: 0.5 * (best + line.base),
        "2 u*": lambda line, best: 2 * best - line.base,
    }
    most: dict[str, float] = dict.fromkeys(kinds, 0.0)
    other, worst, base = math.inf, "", 0.0
    for name, label, steps in cases(context):
        line, _ = compared(name, label, steps)
        best = programmed(name, label, steps)
        p = weights(line, best)
        for key, make in kinds.items():
            drop, size = line.dropped(make(line, best), "full")
            share = relative(line, p, drop) / relative(line, p, size)
            if key == "u*" and share >= most[key]:
                worst = f"{name}, {label}, {steps} steps"
            most[key] = max(most[key], share)
        drop, size = line.dropped(compared(name, label, steps, 1.02)[1].means, "full")
        other = min(other, relative(line, p, drop) / relative(line, p, size))
        base = max(base, float(np.abs(line.dropped(line.base)[0]).max()))
    wrong = {k: v for k, v in most.items() if k != "u*"} | {"scale 1.02": other}
    return Finding(
        name="zero conditional mean at the chain's optimum",
        role="claim",
        kind="exact",
        holds=most["u*"] <= QUADRATURE.rtol and base <= ALGEBRA.rtol,
        figure=f"{number(most['u*'])} of the terms' size in L2 of the path law (quadrature "
        f"{QUADRATURE.rtol:g}); at u*/2 {number(most['u*/2'])}, at 2 u* {number(most['2 u*'])}, at "
        f"a 2 % larger scale's optimum {number(other)}; at u = 0 nothing is dropped",
        numbers={"dropped": most, "other_scale": other, "base": base},
        worst=worst,
        mutants={k: v > 10 * QUADRATURE.rtol for k, v in wrong.items()},
    )


@extra
def dropped_draws(context: Context) -> Finding:
    """Pathwise dropped terms times features of X_k, by draws and autograd."""
    n = context.choose(4_000, 40_000, 200_000)
    worst, killed, checks = 0.0, {}, 0
    lines = [
        LineChain.of_problem(p, Chain(5, schedule=Diffusion.of_constant(1.0)), p.scale, FINE)
        for p in map(load_problem, ("note_1d", "bumps_1d"))
    ]
    best = [line.critical().means for line in lines]
    half = [0.5 * (m + line.base) for m, line in zip(best, lines, strict=True)]
    found = {}
    for dim in (1, 2):
        for adjoint in ("full", "lean"):
            rng = np.random.default_rng([context.seed, dim])
            right = dropped_terms(lines[:dim], best[:dim], adjoint, n, rng)
            wrong = dropped_terms(lines[:dim], half[:dim], adjoint, n, rng)
            checks += right.size
            found[f"d = {dim}, {adjoint}"] = float(np.abs(right).max())
            killed[f"u*/2, d = {dim}, {adjoint}"] = float(np.abs(wrong).max())
    bound = z_bound(checks)
    worst = max(found.values())
    return Finding(
        name="zero conditional mean by draws",
        role="support",
        kind="statistical",
        holds=worst <= bound,
        figure=(
            f"|z| {worst:.2f} of {bound:.2f} over {checks} products with features of X_k, d = 1 "
            f"and 2, {n} trajectories; at u*/2 {number(min(killed.values()))} or more"
        ),
        numbers={"z": found, "bound": bound, "z_half": killed},
        mutants={k: z > bound for k, z in killed.items()},
    )
