"""released, N1: the code's own path, and what the tilt is beyond first order."""

from __future__ import annotations

import math

import numpy as np
import torch

from theory.ledger.core import (
    Array,
    Context,
    Finding,
    extra,
    fit_slope,
    nft_densities,
    reward_spread,
    z_bound,
)
from theory.ledger.settings.released import GROUP
from theory.methods.matching.reward_mapping import SPREAD, released_mapping
from theory.problems.problem import load_problem
from theory.released.mapping import (
    gaussian_batch_share,
)


class _Rows:
    """What the mapping asks of a task: groups of rows in blocks of one prompt."""

    def __init__(self, group: int) -> None:
        self.group = group

    def reward_statistics(self, raw: torch.Tensor, cond: None) -> tuple[torch.Tensor, torch.Tensor]:
        mean = raw.reshape(-1, self.group).mean(1).repeat_interleave(self.group)
        return mean, raw.std(correction=0).expand_as(raw)


def code_path_covariances(group: int, prompts: int, batches: int, seed: int) -> tuple[float, float]:
    """(10 Cov(r, R), standard error) of N(0, 1) rewards through `released_mapping`, batch by
    batch; one group is one network's rows."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(batches, prompts * group, generator=generator, dtype=torch.float64)
    rows = _Rows(group)
    mapped = [released_mapping(rows, r) for r in raw]  # type: ignore[arg-type]
    values = np.array([float((own * r).mean()) for own, r in zip(mapped, raw, strict=True)])
    values = SPREAD * (values - 0.5 * raw.mean(1).numpy())
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(batches))


def code_path(context: Context) -> Finding:
    """The closed forms against draws of what the training code does."""
    batches = min(context.profile.draws // 100, 4000)
    cases = {(GROUP, 1): 1.0, (GROUP, 4): 1.0, (4, 6): 1.0}
    z: dict[str, float] = {}
    power: dict[str, float] = {}
    for i, (group, prompts) in enumerate(cases):
        value, error = code_path_covariances(group, prompts, batches, context.seed + i)
        name = f"{group} rows x {prompts}"
        z[name] = abs(value - gaussian_batch_share(group, prompts)) / error
        power[name] = abs(value - 1.0) / error
    bound = z_bound(len(cases))
    worst = max(z, key=lambda k: z[k])
    return Finding(
        name="draws of the training code's mapping",
        role="instead",
        kind="statistical",
        holds=z[worst] <= bound,
        figure=f"|z| {z[worst]:.2f} of {bound:.2f} over {len(cases)} batches of Gaussian rewards",
        numbers={"z": z, "bound": bound, "z_of_ideal": power, "batches": batches},
        worst=worst,
        mutants={"0.2/nft_beta": max(power.values()) > bound},
    )


def moved_rewards(name: str, tilts_per_std: Array) -> Array:
    """(E_1 R - E_0 R)/std_0 of the law of one epoch's optimum, one a tilt per std."""
    problem = load_problem(name)
    mean, std = _base_moments(name)
    axis = np.linspace(-9.0, 9.0, 721)
    densities = nft_densities(problem, [float(a) for a in tilts_per_std / std], axis)
    rewards = problem.reward(torch.as_tensor(axis)[:, None]).numpy()
    return np.asarray((np.trapezoid(densities * rewards, axis, axis=1) - mean) / std)


def _base_moments(name: str) -> tuple[float, float]:
    problem = load_problem(name)
    axis = torch.linspace(-9.0, 9.0, 1441, dtype=torch.float64)
    r = problem.reward(axis[:, None])
    p = problem.base.density(axis[:, None])
    return float(torch.trapezoid(p * r, axis)), reward_spread(problem)


@extra
def beyond_first_order(context: Context) -> Finding:
    """E R after one epoch against the tilt per std that the formula gives, as it grows."""
    tilts_per_std = np.geomspace(0.02, 1.0, 12)
    slopes = {}
    at = {}
    for name in ("note_1d", "quadratic_1d"):
        moved = moved_rewards(name, tilts_per_std)
        slopes[name] = fit_slope(tilts_per_std, np.abs(moved - tilts_per_std), 1e-9)
        at[name] = {
            f"{a:g}": float(m / a)
            for a, m in zip((0.2, 2.0), moved_rewards(name, np.array([0.2, 2.0])), strict=True)
        }
    worst = max(slopes, key=lambda k: abs(slopes[k].slope - 2))
    return Finding(
        name="E R moves by the tilt per std: error of the first order",
        role="instead",
        kind="order",
        holds=all(s.order == 2 and s.is_order for s in slopes.values()),
        figure=(
            f"slope {slopes[worst]}; (E_1 R - E_0 R)/std over the tilt per std, nft_beta = 1 and "
            "0.1: "
        )
        + "; ".join(f"{k} {v['0.2']:.3f} and {v['2']:.3f}" for k, v in at.items()),
        numbers={"slopes": {k: [s.slope, s.half] for k, s in slopes.items()}, "moved": at},
        worst=worst,
        order=2,
    )
