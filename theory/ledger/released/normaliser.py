"""released, N5: the adaptive normaliser of x_1-predictions against that of velocities, and none.

At fixed (x, t) errors of x_1 are errors of V times slope(t) = dX_1 / dV (1 - t on the rectified
flow), so that w cancels all but one factor of it: the normalised loss of x_1 is slope(t) times that
of V, sample by sample, and the stationary point is the same. Left: how times weigh on each other.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.core import Array, Claim, Context, Finding, Identity, extra, number
from theory.ledger.liu.adaptive import APART, at_step, posterior, size, stationary, toy_nodes
from theory.ledger.liu.stationary import LinePosterior
from theory.ledger.oracle import adaptive as oracle_adaptive
from theory.ledger.released.normaliser_times import least_weight, mean_size, weights_over_time
from theory.ledger.settings.problems import Setting
from theory.ledger.settings.unit import UnitRewards
from theory.methods.matching.nft import NFT

PATHS = ("rectified_flow", "trigonometric", "variance_preserving")
RELEASED_FACTOR = 5.0


# --- exact: the same stationary point


def _velocity_normaliser(s: Setting) -> Array:
    """The semi-gradient of errors in V on a grid, and its root."""
    how = oracle_adaptive.Normaliser("branch", "velocity")
    return np.array([oracle_adaptive.stationary(s.case, s.x, s.at, s.nft_beta, how)])


def _batch_step(s: Setting) -> float:
    """One weight a branch for all samples, w+- = E|e+-|, by fixed-point iteration."""
    p = posterior(s)
    u = p.nft_step()
    for _ in range(60):
        u = weighted_step(p, mean_size(p, u), mean_size(p, -u))
    return u


def weighted_step(p: LinePosterior, plus: float, minus: float) -> float:
    """Where E[r e+] / plus = E[(1 - r) e-] / minus for constant weights: with c = Cov(r, X_1|x),
    u = c (plus + minus) / (m minus + (1 - m) plus); 2c where the two are equal."""
    m, c = p.rewarded.mass, 0.5 * p.nft_step()
    return c * (plus + minus) / (m * minus + (1 - m) * plus)


# --- exact: the weights, sample by sample, of the code


def code_gradient(s: Setting, space: str, power: float = 1.0) -> Array:
    """The gradient in the student's value of the two branches as theory.methods.matching.nft has
    them, by autograd, times (dX_1 / dV)^power. One sample that the setting's numbers make up:
    x_1 = x, old velocity -x/2, student's 0.3 + x, target 2 x - 1; r = t."""
    method = NFT(nft_beta=s.nft_beta, adaptive_normaliser=space)  # type: ignore[arg-type]
    old, student, target = -0.5 * s.point, (0.3 + s.point).requires_grad_(), 2 * s.point - 1
    task: Any = SimpleNamespace(path=s.route_path)
    batch: Any = {"t": s.time[None]}
    step = s.nft_beta * (student - old)
    branches = [method._branch(task, batch, old + k * step - target) for k in (1, -1)]
    (gradient,) = torch.autograd.grad((s.t * branches[0] + (1 - s.t) * branches[1]).sum(), student)
    gain = 1 / float(posterior(s).gain) if power != 1.0 else 1.0
    return np.asarray(gradient[0]) * gain ** (power - 1)


def _normalised_by_differences(s: Setting) -> Array:
    """The same from values of the velocity's loss with w fixed, times dX_1 / dV."""
    old, student, target, r = -0.5 * s.x, 0.3 + s.x, 2 * s.x - 1, s.t
    plus = old + s.nft_beta * (student - old) - target
    minus = old - s.nft_beta * (student - old) - target
    sizes = np.mean(np.abs(plus)), np.mean(np.abs(minus))
    # dX_1 / dV from two points of the line V = alpha' y + sigma' (x - alpha y) / sigma.
    ends = [s.at.dalpha * y - s.at.dsigma * s.at.alpha * y / s.at.sigma for y in (0.0, 1.0)]
    slope = 1 / (ends[1] - ends[0])

    def value(there: Array) -> float:
        up, down = (old + k * s.nft_beta * (there - old) - target for k in (1, -1))
        parts = r * np.sum(up**2) / sizes[0], (1 - r) * np.sum(down**2) / sizes[1]
        return float(parts[0] + parts[1])

    found = [slope * (value(student + e) - value(student - e)) / 2 for e in np.eye(len(s.x))]
    return np.array(found)


# --- exact: the prefactor


def start_gradient(s: Setting, power: float = 0.0) -> Array:
    """10 slope E[r sgn(e+) - (1 - r) sgn(e-)] at mu = v_0, times nft_beta^power."""
    p = posterior(s)
    return np.array([2 * RELEASED_FACTOR * (2 * p.cdf(0.0) - 1) / p.gain * s.nft_beta**power])


IDENTITIES = (
    Identity(
        "the stationary point of errors in x1 is that of errors in V",
        UnitRewards(PATHS),
        stationary,
        _velocity_normaliser,
        {
            "none": lambda s: at_step(s, posterior(s).nft_step()),
            "by branch, whole batch": lambda s: at_step(s, _batch_step(s)),
            "the step in units of x1": lambda s: np.array(
                [posterior(s).old + posterior(s).step() / s.nft_beta]
            ),
        },
        size,
        tier=QUADRATURE,
        dims=(1, 2),
        share=0.7,
    ),
    Identity(
        "sample by sample, the loss of x1 is dX_1 / dV times that of V",
        UnitRewards(PATHS),
        lambda s: code_gradient(s, "x1"),
        _normalised_by_differences,
        {
            "squared": lambda s: code_gradient(s, "x1", 2.0),
            "velocity": lambda s: code_gradient(s, "velocity"),
            "none": lambda s: code_gradient(s, "off"),
        },
        size,
        tier=QUADRATURE_TIGHT,
    ),
    Identity(
        "5/beta: the first gradient does not depend on beta",
        UnitRewards(PATHS),
        start_gradient,
        lambda s: np.array([oracle_adaptive.start_gradient(s.case, s.x, s.at, s.nft_beta)]),
        {
            "of the loss without the prefactor": lambda s: start_gradient(s, 1.0),
            "sign": lambda s: -start_gradient(s),
        },
        tier=QUADRATURE,
        dims=(1,),
    ),
)


# --- measured


def steps(s: Setting) -> dict[str, float]:
    """nft_beta (mu - v_0) by brute force of every normaliser of errors in x1, d = 1."""

    def optimum(kind: str) -> float:
        return oracle_adaptive.stationary(
            s.case, s.x, s.at, s.nft_beta, oracle_adaptive.Normaliser(kind)
        )

    return {k: s.nft_beta * (optimum(k) - posterior(s).old) for k in oracle_adaptive.NORMALISERS}


@extra
def against_others(context: Context) -> Finding:
    """Branches by their own size, by a shared one, by the batch's, and none: how far apart."""
    count = context.choose(30, 30, 120)
    domain = UnitRewards()
    gaps: dict[str, list[float]] = {k: [] for k in ("branch", "shared", "batch")}
    exact = 0.0
    for i in range(count):
        s = domain.draw(1, context.seed + i)
        found = steps(s)
        for kind, row in gaps.items():
            row.append(abs(found[kind] / found["off"] - 1))
        closed = posterior(s).gain * _batch_step(s)
        exact = max(exact, QUADRATURE.error(found["batch"], closed, 1.0))
    medians = {k: float(np.median(v)) for k, v in gaps.items()}
    return Finding(
        name="against other normalisers and none, d = 1",
        role="support",
        kind="exact",
        holds=exact <= QUADRATURE.rtol and medians["branch"] > APART,
        figure="distance from none's stationary point over the step, median of "
        f"{count} problems: "
        + ", ".join(f"{number(v)} ({k})" for k, v in medians.items())
        + f"; the batch's closed form to {number(exact)}",
        numbers={"medians": medians, "gaps": gaps},
        mutants={"all alike": medians["branch"] > 2 * medians["batch"]},
    )


def whole_batch(low: float, high: float) -> tuple[float, float]:
    """(w+ / w-, drift from v* over the step) where both weights are means over all of X_t and t,
    in units of X_1, for the note's toy with r = low + (high - low) bump."""
    rows = [(w, p.with_reward(low, high)) for w, _, p in toy_nodes()]
    ratio = 1.0
    for _ in range(50):
        u = [weighted_step(p, ratio, 1.0) for _, p in rows]
        sizes = [
            sum(w * mean_size(p, k * v) for (w, p), v in zip(rows, u, strict=True)) for k in (1, -1)
        ]
        ratio = sizes[0] / sizes[1]
    triples = [(w * p.gain**2, v, p.nft_step()) for (w, p), v in zip(rows, u, strict=True)]
    gap = sum(w * (v - best) ** 2 for w, v, best in triples)
    return ratio, float(np.sqrt(gap / sum(w * best**2 for w, _, best in triples)))


@extra
def one_weight_for_all(context: Context) -> Finding:
    """w+ and w- as means over the whole batch, all x and t."""
    found = {k: whole_batch(*k) for k in ((0.0, 1.0), (0.4, 0.6))}
    return Finding(
        name="one weight a branch for the whole batch (all x, t)",
        role="instead",
        kind="exact",
        holds=max(v for _, v in found.values()) < 0.25,
        figure=", ".join(
            f"w+/w- = {number(q)}, drift {number(v)} (r in [{k[0]:g}, {k[1]:g}])"
            for k, (q, v) in found.items()
        )
        + ": u = c (w+ + w-) / (m w- + (1 - m) w+), v* where the two weights are equal",
        numbers={f"{a:g} to {b:g}": list(v) for (a, b), v in found.items()},
        mutants={"as far as by sample": found[0.4, 0.6][1] < 0.1},
    )


N5_PARTS = (
    *IDENTITIES,
    against_others,
    one_weight_for_all,
    weights_over_time,
    least_weight,
)

N5 = Claim(
    id="N5",
    source="released, adaptive normaliser",
    statement=(
        "The adaptive normaliser acts on the x1-prediction, per sample and per branch: at a "
        "fixed (x, t) that is the same on the velocity, times dX_1 / dV; against none it moves "
        "the stationary point."
    ),
    assumptions="A field that is free at every (x, t); w above its floor of 1e-5.",
    first="theory.ledger.liu.stationary; theory.methods.matching.nft by autograd",
    second="semi-gradient of velocity errors on a grid; differences of values",
    recorded="exact",
    remark="Where x1 and velocity differ is the weight of times, by dX_1 / dV. Against none the "
    "stationary point moves (L13): dividing sample by sample does it, by a size that both branches "
    "share even more; by the whole batch's it moves little. 5/beta makes the first gradient the "
    "same at every beta.",
    parts=N5_PARTS,
)
