"""Which target lies nearest to NFT's exact law, over two parameters of the problem.

The note's setting with the bump's centre and the inverse temperature 2/nft_beta varied: at every
point of the map one exact law (all of them one batch through the ODE) and its TV to the exponential
tilt and to its Taylor polynomials. The note says "closest to the second order"; the map says where.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

from figures.shared.result import Result
from theory.evaluation.draw import GREEN, ORANGE, PURPLE, SKY, subplots
from theory.laws.distances import Array, integral_of_absolute
from theory.problems.problem import Problem, load_problem
from theory.samplers.flow import FlowLaw
from theory.tilts.bump_rewards import bumps_reward
from theory.tilts.tilt import polynomial_sum
from theory.tilts.wrappers import TruncatedExponential

NAMES = ("exp(ar)", "1+ar", "1+ar+(ar)²/2", "1+ar+(ar)²/2+(ar)³/6")
COLORS = (PURPLE, ORANGE, GREEN, SKY)
RTOL, ATOL = 1e-6, 1e-8
POINTS = 301
UNDECIDED = 1e-3


def make(setting: str) -> Result:
    """22 x 18 problems in the full setting, 6 x 5 in the small one."""
    shape = (22, 18) if setting == "full" else (6, 5)
    centres, scales = np.linspace(-3.0, 4.0, shape[0]), np.linspace(0.25, 4.5, shape[1])
    distances = tv_table(centres, scales)  # (centres, scales, targets)
    nearest = distances.argmin(-1)
    figure, (left, right) = subplots(1, 2, figsize=(10.2, 3.9))
    norm = BoundaryNorm(np.arange(len(NAMES) + 1) - 0.5, len(NAMES))
    left.pcolormesh(centres, scales, nearest.T, cmap=ListedColormap(COLORS), norm=norm)
    step = (centres[1] - centres[0]) / 2, (scales[1] - scales[0]) / 2
    ordered = np.sort(distances, -1)
    close = np.argwhere(ordered[..., 1] - ordered[..., 0] < UNDECIDED)
    left.plot(centres[close[:, 0]], scales[close[:, 1]], ".", ms=3, color="k")
    left.set(title=f"nearest target in TV (dots: by less than {UNDECIDED:g})")
    shade = right.pcolormesh(centres, scales, distances.min(-1).T, cmap="cividis", vmin=0.0)
    lines = right.contour(centres, scales, distances[..., 0].T, [0.01, 0.05, 0.1], colors="w")
    right.clabel(lines, fmt=lambda v: f"{v:g}", fontsize=7)
    right.set(title="TV to the nearest (colour) and to exp(ar) (lines)")
    figure.colorbar(shade, ax=right, label="total variation")
    for axes in (left, right):
        axes.plot(2.0, 2.0, "*", ms=10, mfc="w", mec="k")
        axes.set(
            xlabel="centre of the reward bump",
            ylabel="inverse temperature a = 2/nft_beta",
            xlim=(centres[0] - step[0], centres[-1] + step[0]),
            ylim=(scales[0] - step[1], scales[-1] + step[1]),
        )
    left.annotate("the note's case", (2.0, 2.0), (2.15, 2.25), fontsize=8)
    figure.legend(
        handles=[
            Patch(facecolor=c, edgecolor="0.3", label=n) for c, n in zip(COLORS, NAMES, strict=True)
        ],
        fontsize=8,
        loc="outside lower center",
        ncols=4,
    )
    return Result(
        figure,
        {
            "centres": centres.tolist(),
            "scales": scales.tolist(),
            "tv": {name: distances[..., i].tolist() for i, name in enumerate(NAMES)},
        },
    )


def tv_table(centres: Array, scales: Array) -> Array:
    """TV of NFT's law to every target, (centres, scales, targets)."""
    grid_c, grid_a = (g.ravel() for g in np.meshgrid(centres, scales, indexing="ij"))
    count = len(grid_c)
    a = torch.as_tensor(grid_a)
    reward = bumps_reward(
        torch.ones(count, 1, dtype=torch.float64),
        torch.as_tensor(grid_c)[:, None, None],
        widths=torch.ones(count, 1, dtype=torch.float64),
    )
    base = load_problem("note_1d").base.expanded((count,))
    problem = Problem("map", base, reward)
    axis = np.linspace(-9.0, 9.0, POINTS)
    points = torch.as_tensor(axis)[:, None].expand(count, POINTS, 1)
    flow = FlowLaw(problem.cumulant_field(a, 1), rtol=RTOL, atol=ATOL, method="dopri5")
    law = flow.log_density(points).exp()
    targets = [
        reward.exponential_tilt(base, a),
        *(polynomial_sum(base, reward, TruncatedExponential(a, n)) for n in (1, 2, 3)),
    ]
    gaps = [(law - t.normalised().density(points)).numpy() for t in targets]
    rows = [[0.5 * integral_of_absolute(axis, row) for row in gap] for gap in gaps]
    return np.array(rows).T.reshape(len(centres), len(scales), len(targets))
