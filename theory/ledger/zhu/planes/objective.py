"""zhu, Z11 off the line: the objective by draws."""

from __future__ import annotations

from dataclasses import replace

from theory import Exponential, Problem, linear_reward, load_problem
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D
from theory.ledger.core import Context, Estimate, Finding, Tally, draw, extra, number
from theory.ledger.zhu.planes.planes import DRAWN, SHARE, gaussian_along_reward, nft_draws, tilt_at


@extra
def objective_by_draws(context: Context) -> Finding:
    """How far E_q[r] - (1/a) KL(q | base) at NFT's law q stays below log Z / a."""
    n = context.profile.draws // SHARE
    short, text = {}, []
    for name in DRAWN:
        drawn, a = nft_draws(name, n), load_problem(name).scale
        short[name] = Estimate.of(drawn.against(tilt_at(name, drawn.x)).excess / a)
        text.append(f"{short[name]} below {best_objective(name):.4f} ({name})")
    worst = max(short, key=lambda k: short[k].value)
    return Finding(
        name="NFT's law attains max E_p[r] - (beta/2) KL(p|p_old), d = 2 and 5",
        role="claim",
        kind="exact",
        holds=all(e.value <= QUADRATURE_2D.rtol for e in short.values()),
        figure="objective " + ", ".join(text) + f", by {n} draws, intervals of 99 %",
        numbers={"short": {k: [e.value, e.half] for k, e in short.items()}, "draws": n},
        worst=f"{worst}: short by {short[worst]}",
    )


def best_objective(name: str) -> float:
    """log Z / a: the objective's maximum."""
    problem = load_problem(name)
    return float(problem.tilt(Exponential(problem.scale)).log_z) / problem.scale


@extra
def shortfall_by_draws(context: Context) -> Finding:
    """log Z / a - (r - (1/a) log q / base) = (1/a) log q / tilt at every draw of q, whose mean is
    the shortfall: base, reward and Z on one side, the tilt's own density on the other."""
    n = context.profile.draws // SHARE
    tally = Tally(ALGEBRA, "beta KL(NFT|tilt)", "log Z for (beta/2) log Z")
    for name in DRAWN:
        problem, drawn, best = load_problem(name), nft_draws(name, n), best_objective(name)
        a = problem.scale
        cost = drawn.log_q - problem.base.log_density(drawn.x).numpy()
        values = problem.reward(drawn.x).numpy() - cost / a
        stated = drawn.against(tilt_at(name, drawn.x)).gaps / a
        tally.compare(best - values, stated, 1.0, name)
        tally.compare(best - values, 2 * stated, 1.0, wrong="beta KL(NFT|tilt)")
        tally.compare(a * best - values, stated, 1.0, wrong="log Z for (beta/2) log Z")
    return tally.finding(
        "NFT's law falls short by (beta/2) KL(NFT|tilt), d = 2 and 5",
        "instead",
        f"error {tally} at {n} draws on {len(DRAWN)} problems",
        {"errors": tally.errors, "draws": n},
    )


@extra
def gaussian_objective_by_draws(context: Context) -> Finding:
    """The gap, KL(NFT | tilt) / a, where Z4 is exact; a reward that leans over is not."""
    n = context.profile.draws // SHARE
    gaps, killed = {}, False
    for dim in (2, 5):
        problem = gaussian_along_reward(dim)
        leaning = replace(problem, reward=linear_reward([0.7] + [0.1] * (dim - 1), 0.1))
        gaps[f"d = {dim}"] = _mean_gap(problem, 2.0, n)
        killed |= _mean_gap(leaning, 2.0, n // 4) > QUADRATURE.rtol
    worst = max(gaps, key=lambda k: gaps[k])
    return Finding(
        name="linear reward along a Gaussian direction of the base, d = 2 and 5",
        role="condition",
        kind="exact",
        holds=gaps[worst] <= QUADRATURE.rtol,
        figure=f"gap {number(gaps[worst])}, by {n} draws",
        numbers={"gaps": gaps, "draws": n},
        worst=worst,
        mutants={"reward that leans over": killed},
    )


def _mean_gap(problem: Problem, scale: float, n: int) -> float:
    drawn = draw(problem.cumulant_field(scale, 1), n)
    target = problem.tilt(Exponential(scale)).log_density(drawn.x).numpy()
    return drawn.against(target).kl.value / scale


Z11_PLANES = (objective_by_draws, gaussian_objective_by_draws, shortfall_by_draws)
