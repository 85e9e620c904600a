"""liu, L13 by draws in many dimensions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from theory.ledger.core import Context, Finding, extra, z_bound
from theory.ledger.liu.stationary import line_posterior
from theory.ledger.oracle import adaptive as oracle_adaptive
from theory.ledger.settings.problems import Setting
from theory.ledger.settings.unit import UnitRewards

SEED, REST_STD = 2, 0.4  # of the problem for draws: four Gaussians, where axes tell


def sampled_setting(dim: int, rotate: bool) -> Setting:
    """A toy among dim - 1 axes at a middle time; turned: along (1, ..., 1) / sqrt(dim), a
    direction that no permutation of the axes moves."""
    s = UnitRewards().draw(1, SEED)
    frame = np.eye(dim)
    if rotate:
        first = np.ones((dim, 1)) / np.sqrt(dim)
        frame = np.linalg.qr(np.hstack([first, np.eye(dim)[:, 1:]]))[0]
        frame[:, 0] = first[:, 0]
    case = replace(s.case, frame=frame, rest_std=REST_STD)
    t = 0.45
    return replace(s, case=case, x=frame[:, 0] * t * float(case.weights @ case.means[:, 0]), t=t)


@extra
def many_dimensions(context: Context) -> Finding:
    """The semi-gradient at the closed root vanishes by draws in R^d; at v* it does not."""
    dims, n = (3, 8, 64), min(context.profile.draws, 40_000)
    bound = z_bound(len(dims))
    worst, told = 0.0, 0.0
    for d in dims:
        s = sampled_setting(d, False)
        p = line_posterior(s.problem, s.point, s.t)
        steps = p.gain * np.array([p.step(), p.nft_step()])
        rng = np.random.default_rng([context.seed, d])
        value, error = oracle_adaptive.sampled(s.case, s.x, s.at, steps, n, rng)
        z = np.abs(value / error)
        worst, told = max(worst, float(z[0])), max(told, float(z[1]))
    return Finding(
        name="d = 3, 8, 64 by draws in R^d",
        role="support",
        kind="statistical",
        holds=worst <= bound,
        figure=(
            f"|z| of the semi-gradient {worst:.2f} of {bound:.2f} at the closed root, {told:.1f} "
            "at v*"
        ),
        numbers={"z": worst, "z_at_nft": told, "bound": bound, "draws": n},
        mutants={"v*": told > bound},
    )


@extra
def axes_matter(context: Context) -> Finding:
    """Mean absolute errors depend on the axes: the same problem turned has another root."""
    n = min(context.profile.draws, 40_000)
    bound = z_bound(1)
    rows = {}
    for rotate in (False, True):
        s = sampled_setting(4, rotate)
        straight = sampled_setting(4, False)
        p = line_posterior(straight.problem, straight.point, straight.t)
        rng = np.random.default_rng([context.seed, 1])
        value, error = oracle_adaptive.sampled(
            s.case, s.x, s.at, np.array([p.gain * p.step()]), n, rng
        )
        rows[rotate] = float(abs(value[0] / error[0]))
    return Finding(
        name="d = 4, the line along (1, 1, 1, 1)/2",
        role="support",
        kind="statistical",
        holds=rows[False] <= bound < rows[True],
        figure=(
            f"|z| of the semi-gradient at the root of the aligned problem: {rows[False]:.2f} "
            f"aligned, {rows[True]:.1f} turned (bound {bound:.2f}): the stationary field of the "
            "normalised loss is not equivariant to rotations, v* is"
        ),
        numbers={"z_aligned": rows[False], "z_turned": rows[True]},
        mutants={"the same root": rows[True] > bound},
    )
