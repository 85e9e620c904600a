"""How fast the error falls with a: NFT and the cumulant fields of order 2 to 4.

Field: sqrt of E_t E|v - v^a|^2 over the tilted path law, t on Gauss-Legendre nodes. Law: TV between
what the field samples and pi_1 exp(a r)/Z. Both against a on log axes, with slopes fitted by least
squares over the smallest decade of a whose errors stand 100 times above the numerical floor: what
the same pipeline measures for the exact tilt's own field (law), float64's rounding (field).
"""

from __future__ import annotations

import numpy as np
import torch

from figures.shared.result import Result
from theory.evaluation.draw import BLUE, GREEN, ORANGE, VERMILION, subplots
from theory.evaluation.grids import make_grid
from theory.fields.mixture import ExactField, MixtureField
from theory.laws.distances import Array
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem
from theory.samplers.flow import FlowLaw
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.wrappers import Exponential

ORDERS = (1, 2, 3, 4)
FIELD_FLOOR = 1e-15
COLORS = {1: BLUE, 2: ORANGE, 3: GREEN, 4: VERMILION}
MARKERS = {1: "o", 2: "s", 3: "^", 4: "D"}


def make(setting: str) -> Result:
    """12 values of a in the full setting, 7 in the small one, over two decades."""
    problem = load_problem("note_1d")
    scales = np.geomspace(0.04, 4.0, 12 if setting == "full" else 7)
    field_error = field_errors(problem, scales)
    law_error, law_floor = law_errors(problem, scales)
    figure, panels = subplots(1, 2, figsize=(9.6, 3.9))
    numbers: dict[str, object] = {"scale": scales.tolist(), "field": {}, "law": {}, "slopes": {}}
    titles = ("error of the field, RMS over time and path", "error of the law, TV to exp(ar)")
    for axes, key, table, floor, title in zip(
        panels, ("field", "law"), (field_error, law_error), (FIELD_FLOOR, law_floor), titles,
        strict=True,
    ):  # fmt: skip
        for order in ORDERS:
            slope = fitted_slope(scales, table[order], floor)
            name = f"order {order}" + (" (NFT, a = 2/nft_beta)" if order == 1 else "")
            axes.loglog(
                scales, table[order], color=COLORS[order], marker=MARKERS[order], ms=4, lw=1.3,
                label=f"{name}: slope {slope:.2f}",
            )  # fmt: skip
            numbers[key][str(order)] = table[order].tolist()  # type: ignore[index]
            numbers["slopes"][f"{key} {order}"] = slope  # type: ignore[index]
        if key == "law":
            axes.axhline(floor, color="0.6", lw=0.8, ls=":")
            axes.text(scales[0], floor * 1.3, "numerical floor", fontsize=7, color="0.4")
        axes.set(xlabel="inverse temperature a", ylabel="error", title=title)
        axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.06))
    return Result(figure, dict(numbers))


def tilted_batch(problem: Problem, scales: Array) -> GaussianSum:
    """pi_1 exp(a r)/Z for all a as one batch: the longest series for all."""
    stacked = problem.base.expanded((len(scales),))
    assert isinstance(problem.reward, BumpReward)
    return problem.reward.exponential_tilt(stacked, torch.as_tensor(scales)).normalised()


def field_errors(problem: Problem, scales: Array) -> dict[int, Array]:
    """RMS over t (12 Gauss-Legendre nodes) and over the tilted law of X_t (a grid)."""
    exact = MixtureField(tilted_batch(problem, scales), problem.path)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)[:, None]
    x = grid.expand(len(scales), *grid.shape)
    squares = {order: np.zeros(len(scales)) for order in ORDERS}
    for t, w in zip(0.5 * (nodes + 1), 0.5 * weights, strict=True):
        density = exact.log_density(x, float(t)).exp()
        goal = exact(x, float(t))
        for order in ORDERS:
            gap = problem.cumulant_field(torch.as_tensor(scales), order)(x, float(t)) - goal
            mean = (density * gap[..., 0] ** 2).sum(-1) * float(grid[1, 0] - grid[0, 0])
            squares[order] += w * mean.numpy()
    return {order: np.sqrt(total) for order, total in squares.items()}


def law_errors(problem: Problem, scales: Array) -> tuple[dict[int, Array], float]:
    """TV to the exponential tilt, by order, and what the tilt's own field gives (0 in truth).

    All scales of one order go through the ODE as one batch.
    """
    strongest = float(scales[-1])
    targets = {"exp": problem.tilt(Exponential(strongest))}
    (axis,) = make_grid(problem, problem.cumulant_field(strongest, 1), targets)
    axis = np.linspace(axis[0], axis[-1], 601)
    points = torch.as_tensor(axis)[:, None].expand(len(scales), len(axis), 1)
    goal = tilted_batch(problem, scales).density(points).numpy()

    def gap(field: ExactField, rows: slice) -> Array:
        density = FlowLaw(field, rtol=1e-9, atol=1e-10).log_density(points[rows]).exp().numpy()
        # A difference of smooth densities: the trapezoidal rule but for its few sign changes.
        return np.asarray(0.5 * np.abs(density - goal[rows]).sum(-1) * (axis[1] - axis[0]))

    every, middle = slice(None), slice(len(scales) // 2, len(scales) // 2 + 1)
    errors = {
        order: gap(problem.cumulant_field(torch.as_tensor(scales), order), every)
        for order in ORDERS
    }
    return errors, float(gap(MixtureField(tilted_batch(problem, scales[middle])), middle).max())


def fitted_slope(scales: Array, errors: Array, floor: float) -> float:
    """d log error / d log a over the smallest decade of a above 100 floors."""
    good = np.flatnonzero(errors > 100 * floor)
    keep = good[scales[good] <= 10 * scales[good[0]] * (1 + 1e-9)]
    return float(np.polyfit(np.log(scales[keep]), np.log(errors[keep]), 1)[0])
