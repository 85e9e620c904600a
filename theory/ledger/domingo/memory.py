"""domingo, D7: which schedules forget X_0.

For Gaussian data N(m, C) the generative SDE is linear, and X_0 enters X_t with the coefficient

    Phi(t, t') = exp int_{t'}^t (alpha alpha' C + sigma sigma' - g^2/2)/(alpha^2 C + sigma^2) ds,

t' -> 0. The proposition asks whether alpha_{t'} exp(-int_{t'}^t chi/(2 sigma^2) ds), with
chi = g^2 - 2 eta, tends to 0. First route: theory's linear SDE, its drift integrated; second: the
printed expression with the plain paths of `theory.ledger.oracle.instants`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from theory import Diffusion, GaussianSum, GridOptimum, Problem, linear_reward, load_problem
from theory.common.tolerances import SLOPE, Tier
from theory.control.linear import of_gaussian
from theory.fields.paths import PATHS, Path
from theory.ledger.core import Context, Finding, Region, Tally, extra, number
from theory.ledger.oracle.instants import instant

EARLY = (1e-6, 1e-7)  # t' -> 0
TIMES = (0.3, 0.9)
STDS = (0.3, 1.4)
FORGETTING_PATHS = ("rectified_flow", "trigonometric")  # alpha_0 = 0


# Wrong versions of the printed expression: a factor for 1/2 and a power of alpha.
WRONG = {"chi/sigma^2": {"factor": 1.0}, "alpha^2": {"power": 2.0}, "chi's sign": {"factor": -0.5}}


def _doubled(path: Path, t: Tensor) -> Tensor:
    return 2 * path.eta(t)


# Schedules, and whether each forgets X_0, found by hand: both routes must say so too.
CASES = (
    (Diffusion(memoryless=1.0), True),
    (Diffusion(memoryless=2.0), True),
    (Diffusion(memoryless=0.5), True),
    (Diffusion(memoryless=0.25), True),
    (Diffusion.of_constant(0.2), False),
    (Diffusion.of_constant(3.0), False),
    (Diffusion.of_function("g² = 2η + 1", lambda p, t: _doubled(p, t) + 1), True),
    (Diffusion.of_function("g² = t^-1/2", lambda p, t: t**-0.5), False),
    (Diffusion.of_function("g² = t^-3/2", lambda p, t: t**-1.5), True),
)
# Its memory at t = 1 is that at t = 1/2.
SWITCHED = Diffusion.of_function(
    "2η to t = 1/2, then 0", lambda p, t: torch.where(t < 0.5, _doubled(p, t), 0.0 * t)
)


def memory(case: Diffusion, path: str, std: float, t: float, early: float) -> float:
    """log |corr(X_early, X_t)| of the base SDE for data N(0.3, std^2), by theory's linear SDE."""
    base = GaussianSum.mixture([1.0], [[0.3]], stds=[std])
    problem = replace(Problem("one Gaussian", base, linear_reward([1.0])), path=PATHS[path]())
    linear = of_gaussian(problem, 1.0, replace(case, start=early))
    log_phi = _log_integral(lambda s: float(linear.matrix(s)[0, 0]), early, t)

    def log_std(s: float) -> float:
        time = torch.tensor(s, dtype=torch.float64)
        alpha, sigma = float(problem.path.alpha(time)), float(problem.path.sigma(time))
        return 0.5 * math.log(alpha**2 * std**2 + sigma**2)

    return log_phi + log_std(early) - log_std(t)


def printed(
    case: Diffusion, path: str, t: float, early: float, factor: float = 0.5, power: float = 1.0
) -> float:
    """log of alpha_early exp(-int chi/(2 sigma^2)); factor, power: of wrong versions."""

    def rate(s: float) -> float:
        at = instant(path, s)
        g2 = float(case.squared(PATHS[path](), torch.tensor(s, dtype=torch.float64)))
        return (g2 - 2 * at.eta) / at.sigma**2

    return power * math.log(instant(path, early).alpha) - factor * _log_integral(rate, early, t)


def _log_integral(rate: Callable[[float], float], low: float, high: float) -> float:
    """int rate ds over [low, high] in the variable log s."""
    found, _ = quad(
        lambda w: rate(math.exp(w)) * math.exp(w),
        math.log(low),
        math.log(high),
        limit=400,
        epsabs=1e-10,
        epsrel=1e-10,
    )
    return float(found)


def _slope(of: Callable[[float], float]) -> float:
    """d log/d log t' as t' -> 0; cut where it is faster than any power that shows: t^-3/2 forgets
    like exp(-1/sqrt(t'))."""
    one, two = EARLY
    return min((of(one) - of(two)) / math.log(one / two), 50.0)


def forgets_as_printed(context: Context) -> Finding:
    """Both tend to 0 like the same power of t', or neither does; t in (0, 1), g finite inside."""
    tally, decided = Tally(Tier("slope", SLOPE), *WRONG), True
    stds = context.choose(STDS[1:], STDS)
    times = context.choose(TIMES[:1], TIMES)
    rates: dict[str, float] = {}
    for (case, forgets), path, t in product(CASES, FORGETTING_PATHS, times):
        theirs = _slope(partial(printed, case, path, t))
        for std in stds:
            ours = _slope(partial(memory, case, path, std, t))
            decided &= (ours > SLOPE) == (theirs > SLOPE) == forgets
            tally.add(abs(ours - theirs), f"{case.label}, {path}, t = {t:g}")
            rates[case.label] = ours
            for label, wrong in WRONG.items() if path == FORGETTING_PATHS[0] else ():
                tally.add(abs(ours - _slope(partial(printed, case, path, t, **wrong))), wrong=label)
    shown = ", ".join(f"{k}: {v:.2f}" for k, v in rates.items())
    return Finding(
        name="for t in (0, 1) and g finite there: forgotten iff the printed limit is 0",
        role="condition",
        kind="exact",
        holds=decided and tally.error <= SLOPE,
        figure=(
            f"powers of t' agree within {number(tally.error)} on {len(CASES)} schedules, two paths "
            f"({shown})"
        ),
        numbers={"gap": tally.error, "rates": rates},
        worst=tally.worst,
        mutants=tally.mutants,
    )


def at_the_end(context: Context) -> Finding:
    """t = 1 included: the memoryless schedule up to t = 1/2 and the ODE from there on."""
    path, early = "rectified_flow", 1e-4
    ends = (0.9, 0.9999, 0.999999)
    memories = [math.exp(memory(SWITCHED, path, 0.7, t, early)) for t in ends]
    stated = [math.exp(printed(SWITCHED, path, t, early)) for t in ends]
    return Finding(
        name="iff the limit is 0 for every t in (0, 1], t = 1 included",
        role="claim",
        kind="exact",
        holds=stated[-1] < stated[0],
        figure=(
            f"g² = 2 eta to t = 1/2, then 0: corr(X_0, X_t) {number(memories[-1])} at t' = "
            f"{early:g}, the printed expression {number(stated[0])}, {number(stated[1])}, "
            f"{number(stated[2])} at t = 0.9, 0.9999, 0.999999: infinite at t = 1"
        ),
        numbers={"memory": memories, "printed": stated},
        worst="N(0.3, 0.7²), rectified flow: X_1/2 is independent of X_0, so is X_1",
    )


def switched_forgets(context: Context) -> Finding:
    """The counterexample is memoryless: its memory falls like t' at t near 1; one that starts with
    g = 1 instead is not, though the printed expression rises for it alike."""
    mindful = Diffusion.of_function(
        "1 to t = 1/2, then 0", lambda p, t: torch.where(t < 0.5, 1.0 + 0.0 * t, 0.0 * t)
    )
    powers = {}
    for case in (SWITCHED, mindful):
        logs = [memory(case, "rectified_flow", 0.7, 0.999999, e) for e in (1e-3, 1e-4)]
        powers[case.label] = (logs[0] - logs[1]) / math.log(10)
    found, other = powers[SWITCHED.label], powers[mindful.label]
    return Finding(
        name="the counterexample forgets X_0",
        role="support",
        kind="exact",
        holds=abs(found - 1) <= SLOPE,
        figure=(
            f"corr(X_t', X_t) at t = 0.999999 falls like t'^{found:.3f}; with g = 1 to t = 1/2 "
            f"like t'^{other:.3f}"
        ),
        numbers={"powers": powers},
        worst="N(0.3, 0.7²), rectified flow",
        mutants={"g = 1 to t = 1/2, then 0": abs(other - 1) > SLOPE},
    )


def at_a_pole(context: Context) -> Finding:
    """A schedule that is infinite inside (0, 1) forgets there, whatever it was before."""
    path = "rectified_flow"
    widths = (1e-2, 1e-4, 1e-6)
    ends, before = [], []
    for width in widths:
        pole = Diffusion.of_function(
            "pole at t = 1/2",
            lambda p, t, w=width: 1 + 2 / torch.sqrt((t - 0.5) ** 2 + w**2),  # type: ignore[misc]
        )
        ends.append(math.exp(memory(pole, path, 0.7, 0.9, 1e-7)))
        before.append(math.exp(printed(pole, path, 0.3, 1e-7)))
    powers = np.diff(np.log(ends)) / np.diff(np.log(widths))
    return Finding(
        name="a pole of g inside (0, 1) forgets X_0 though the limit at earlier t is not 0",
        role="support",
        kind="exact",
        holds=bool((powers > SLOPE).all()) and before[-1] > 0.5 * before[0],
        figure=(
            f"corr(X_0, X_0.9) {', '.join(number(e) for e in ends)} as the pole's width is 1e-2, "
            f"1e-4, 1e-6; the printed expression at t = 0.3 stays {number(before[-1])}"
        ),
        numbers={"memory": ends, "printed": before},
        worst="g² = 1 + 2/|t - 1/2|",
    )


@extra
def mixtures_forget_alike(context: Context) -> Finding:
    """Not Gaussian: |grad V(x, t')| of a mixture, V what X_t' tells of the reward, falls with the
    same power of t' as the Gaussian's memory."""
    problem, times = load_problem("note_1d"), (0.02, 0.01)
    found, gaps = {}, []
    for multiple in (0.5, 2.0):
        schedule = Diffusion.of_memoryless(multiple, times[-1])
        optimum = GridOptimum(problem, problem.scale, schedule, points=121)
        run = optimum.solve_at(times, tolerances=(1e-9, 1e-11))
        sizes = []
        for t in times:
            middle = np.abs(run.points(t)[:, 0]) < 1.0
            sizes.append(float(np.abs(run.gradient_at(t)[middle]).mean()))
        power = math.log(sizes[0] / sizes[1]) / math.log(times[0] / times[1])
        found[f"g² = {multiple:g}·2η"] = power
        gaps.append(abs(power - multiple))
    still = GridOptimum(problem, problem.scale, Diffusion.of_constant(1.0), points=161).at_start
    kept = float(np.abs(still.gradient_at(0.0)).max())
    shown = ", ".join(f"{k}: {v:.3f}" for k, v in found.items())
    return Finding(
        name="mixtures forget with the Gaussian's powers",
        role="support",
        kind="exact",
        holds=max(gaps) <= SLOPE and kept > SLOPE,
        figure=f"powers of t' of |grad V|, note_1d: {shown}; at g = 1 |grad V(., 0)| reaches "
        f"{number(kept)}",
        numbers={"powers": found, "kept": kept},
        worst="note_1d",
        mutants={"power 1 for all": max(abs(v - 1) for v in found.values()) > SLOPE},
    )


def memory_region(cells: int) -> Region:
    """|corr(X_0, X_1)| that a constant g leaves, over g and the data's deviation."""
    levels, stds = np.geomspace(0.1, 6.0, cells), np.geomspace(0.2, 2.0, cells)
    kept = [
        [
            math.exp(memory(Diffusion.of_constant(float(g)), "rectified_flow", float(s), 1.0, 1e-6))
            for s in stds
        ]
        for g in levels
    ]
    return Region(
        "what a constant g remembers of X_0",
        "g",
        levels,
        "standard deviation of the data",
        stds,
        np.array(kept),
        "|corr(X_0, X_1)|",
        log_axes="xy",
    )


D7_PARTS = (at_the_end, switched_forgets, forgets_as_printed, at_a_pole, mixtures_forget_alike)
