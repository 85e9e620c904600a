"""N4: the old copy's EMA in the released code: full updates, tilt, factors against velocities."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT, SLOPE
from theory.ledger.core import Array, Claim, Context, Finding, Identity, extra, number
from theory.ledger.oracle.released import training as oracle
from theory.ledger.settings.schedule import Factors, FactorSetting, Schedules, ScheduleSetting
from theory.problems.problem import load_problem
from theory.released.exact import Epoch, carry_epochs
from theory.released.schedule import SCHEDULES, Schedule, factor_gap, followed_gap

EPOCHS = (75, 200, 500, 1000)


# --- full updates and tilt


def _schedule(s: ScheduleSetting) -> Schedule:
    return Schedule(s.flat, s.rate, s.most)


def sums(s: ScheduleSetting, rule: Schedule, epochs: int, steps: int) -> Array:
    return np.array([rule.full_updates(epochs, steps), rule.tilt(epochs, s.scale, s.share, steps)])


def _anchor_every_step(s: ScheduleSetting) -> Array:
    """omega^K, as if the old copy were the student."""
    rule = _schedule(s)
    limit = s.share * s.scale / (1 - s.share)
    return np.array([rule.full_updates(s.epochs, s.steps), limit * (1 - s.share**s.epochs)])


UPDATES = Identity(
    "full updates sum(1 - d) and the old copy's tilt, with and without an anchor",
    Schedules(),
    lambda s: sums(s, _schedule(s), s.epochs, s.steps),
    lambda s: oracle.schedule_sums(s.flat, s.rate, s.most, s.epochs, s.steps, s.share, s.scale),
    {
        "d at the epoch, not the step": lambda s: sums(s, _schedule(s), s.epochs, 1),
        "one epoch more": lambda s: sums(s, _schedule(s), s.epochs + 1, s.steps),
        "never above the ramp": lambda s: sums(
            s, Schedule(s.flat, s.rate, 0.9999), s.epochs, s.steps
        ),
        "from step 0 on": lambda s: sums(s, Schedule(0, s.rate, s.most), s.epochs, s.steps),
        "omega^K: the anchor blind to d": _anchor_every_step,
    },
    tier=QUADRATURE_TIGHT,
    dims=(1,),
)

# --- factors


def gap(s: FactorSetting) -> Array:
    return np.ravel(followed_gap(list(s.A), list(s.B), list(s.decays)))


def gap_by_following(s: FactorSetting) -> Array:
    product, average = oracle.averaged_factors(list(s.A), list(s.B), list(s.decays))
    return np.asarray((product - average).ravel())


def _undamped(s: FactorSetting) -> Array:
    """Later decays forgotten: the gap of every epoch counts in full."""
    a, b, total = s.A[0], s.B[0], np.zeros((s.B.shape[1], s.A.shape[2]))
    for new_a, new_b, c in zip(s.A[1:], s.B[1:], s.decays, strict=True):
        total = total + factor_gap(a, b, new_a, new_b, float(c))
        a, b = c * a + (1 - c) * new_a, c * b + (1 - c) * new_b
    return np.asarray(total.ravel())


FACTORS = Identity(
    "averaged LoRA factors: their product is the averaged product - c(1-c)(B_2-B_1)(A_2-A_1)",
    Factors(),
    gap,
    gap_by_following,
    {
        "sign": lambda s: -gap(s),
        "no gap": lambda s: 0 * gap(s),
        "c for 1 - c": lambda s: np.ravel(followed_gap(list(s.A), list(s.B), list(1 - s.decays))),
        "later decays forgotten": _undamped,
    },
    tier=ALGEBRA,
    dims=(1,),
)

# --- sizes


def random_gap(move: float, decay: float, rank: int = 32, side: int = 256) -> float:
    """|gap| over |step| of the product for random factors that move by `move` of their size."""
    rng = np.random.default_rng(rank)
    a, b = rng.normal(size=(rank, side)), rng.normal(size=(side, rank))
    new_a = a + move * rng.normal(size=a.shape)
    new_b = b + move * rng.normal(size=b.shape)
    step = (1 - decay) * (new_b @ new_a - b @ a)
    return float(np.linalg.norm(factor_gap(a, b, new_a, new_b, decay)) / np.linalg.norm(step))


def trained_gap(rule: Schedule, epochs: int, rank: int = 8, side: int = 48) -> dict[str, float]:
    """A LoRA fitted by Adam (3e-4, B from 0) to targets that run ahead of the old copy: the largest
    gap of an epoch over its step, and the gap over the whole way at the end."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rank, side)) / rank, np.zeros((side, rank))
    ahead = rng.normal(size=(side, side)) / side
    state = [np.zeros_like(a), np.zeros_like(a), np.zeros_like(b), np.zeros_like(b)]
    old_a, old_b, average = a.copy(), b.copy(), b @ a
    worst = 0.0
    for epoch in range(1, epochs + 1):
        error = b @ a - (old_b @ old_a + ahead)
        for i, (p, g) in enumerate(zip((a, b), (b.T @ error, error @ a.T), strict=True)):
            state[2 * i] = 0.9 * state[2 * i] + 0.1 * g
            state[2 * i + 1] = 0.999 * state[2 * i + 1] + 0.001 * g**2
            m, v = state[2 * i] / (1 - 0.9**epoch), state[2 * i + 1] / (1 - 0.999**epoch)
            p -= 3e-4 * m / (np.sqrt(v) + 1e-8)
        c = rule.decay(epoch)
        before = old_b @ old_a
        here = factor_gap(old_a, old_b, a, b, c)
        old_a, old_b = c * old_a + (1 - c) * a, c * old_b + (1 - c) * b
        average = c * average + (1 - c) * b @ a
        worst = max(worst, float(np.linalg.norm(here) / np.linalg.norm(old_b @ old_a - before)))
    whole = np.linalg.norm(old_b @ old_a - average) / np.linalg.norm(average)
    return {"largest of an epoch": worst, "of the whole way": float(whole)}


@extra
def sizes(context: Context) -> Finding:
    """Full updates of the released schedules, and how much averaging factors misses."""
    updates = {n: {str(k): s.full_updates(k) for k in EPOCHS} for n, s in SCHEDULES.items()}
    random = {f"{move:g}": random_gap(move, 0.5) for move in (0.01, 0.1, 1.0)}
    trained = {n: trained_gap(SCHEDULES[n], 200) for n in ("half", "late")}
    late = updates["late"]
    stuck = late["1000"] - late["500"]
    capped = Schedule(75, 0.0075, 0.5)
    going = capped.full_updates(1000) - capped.full_updates(500)
    rows = (f"{n} {', '.join(number(v) for v in row.values())}" for n, row in updates.items())
    return Finding(
        name="the released schedules",
        role="support",
        kind="exact",
        holds=stuck < 1.0 and random["0.01"] < 0.01,
        figure="full updates after "
        + ", ".join(f"{k}" for k in EPOCHS)
        + " epochs of one step: "
        + "; ".join(rows)
        + f"; gap of factors over the epoch's step at c = 1/2, random rank 32 moved by 1 %, 10 %, "
        f"100 %: {', '.join(number(v) for v in random.values())}; a LoRA trained for 200 epochs: "
        f"{number(trained['half']['of the whole way'])} of the way (half), "
        f"{number(trained['late']['of the whole way'])} (late)",
        numbers={"updates": updates, "random": random, "trained": trained},
        mutants={"late with a decay of at most 1/2": going >= 1.0},
    )


# --- laws


def tilt_of_law(rule: Schedule, epochs: int, lam: float) -> tuple[float, float]:
    """(measured, sum of (1 - d) lam) of the law after the epochs on the grid, note_1d: the slope of
    log(q/p) on r under q."""
    run = carry_epochs(load_problem("note_1d"), [Epoch(lam, float(d)) for d in rule.decays(epochs)])
    return run.summary()[-1]["tilt"], lam * rule.full_updates(epochs)


@extra
def laws_follow(context: Context) -> Finding:
    """The exact recursion on a grid: its tilt over sum (1 - d) lam tends to 1 as steps shrink."""
    rule, epochs = Schedule(1, 0.15, 0.7), 6
    ratios = {}
    for lam in (0.2, 0.1, 0.05):
        measured, stated = tilt_of_law(rule, epochs, lam)
        ratios[f"{lam:g}"] = measured / stated - 1
    off = list(ratios.values())
    halves = [abs(a / b) for a, b in pairwise(off)]
    blind = tilt_of_law(Schedule(), epochs, 0.05)[0] / (0.05 * rule.full_updates(epochs)) - 1
    return Finding(
        name="laws on a grid: tilt over sum (1 - d) lam",
        role="support",
        kind="exact",
        holds=abs(off[-1]) < SLOPE and min(halves) > 1.5,
        figure="off by " + ", ".join(f"{number(v)} at lam = {k}" for k, v in ratios.items()),
        numbers={"off": ratios},
        mutants={"d forgotten": abs(blind) > SLOPE},
    )


N4_PARTS = (UPDATES, FACTORS, sizes, laws_follow)

N4 = Claim(
    id="N4",
    source="released, return_decay and the copy to the old adapter",
    statement=(
        "Once per epoch old <- d old + (1 - d) student with d = min(0.001 k, 0.5) at optimiser "
        "step k (or 0, or min(0.0075 (k - 75), 0.999) after step 75): after K epochs the old "
        "copy has made sum(1 - d) full updates and its tilt is that many steps; averaged factors "
        "give the averaged product less c(1-c)(B_2-B_1)(A_2-A_1)."
    ),
    assumptions=(
        "The student reaches its optimum, old + lam, every epoch (frozen m_t; laws: first order, "
        "Z7)."
    ),
    first="closed sums over the ramp; product over epochs with an anchor; the cross term",
    second="the copies carried epoch by epoch in exact rationals; factors followed and multiplied",
    recorded="exact",
    remark=(
        "After K = 1000 epochs of one step: 1000, 625 and 142 full updates. The third schedule "
        "stops the old copy: from step 209 on an epoch counts 1/1000. k counts optimiser steps, "
        "so with several steps an epoch the decay rises sooner."
    ),
    parts=N4_PARTS,
)
