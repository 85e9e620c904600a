"""zhu, Z7: an EMA of velocities, of weights and of LoRA factors as the reference of online NFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.core import Array, Context, Finding, Region, Tally, extra, fit_slope, number
from theory.ledger.zhu.online import MODES, densities_apart, law_gap, second_route
from theory.problems.problem import load_problem
from theory.recursion import Recursion, Trajectory, carry
from theory.recursion.spec import Mode

DECAY = 0.6  # of averaged parameters
Kind = Literal["weights", "lora"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def averaged_velocities(context: Context) -> Finding:
    """EMA of velocities with decay g at beta, against no EMA at beta/(1 - g): the first carried by
    theory.recursion; the second by it too, to rounding, and by `theory.ledger.oracle.online`."""
    modes: Sequence[Mode] = context.choose(("refit",), MODES)
    decays = context.choose({"note_1d": 0.5}, {"note_1d": 0.5, "bumps_1d": 0.9})
    epochs, beta = 3, 2.0
    tally, apart = Tally(QUADRATURE_TIGHT, "EMA changes nothing"), 0.0
    for name, g in decays.items():
        problem = load_problem(name)
        for mode in modes:
            ema = carry(problem, Recursion(beta, mode, ema=g), epochs)
            slower = Recursion(beta / (1 - g), mode)
            plain = carry(problem, slower, epochs, ema.axes)
            tally.add(_gap(ema, plain), f"{name}, {mode}, g = {g}")
            if name == "note_1d" and mode != "frozen" and context.profile.extras:
                apart = max(apart, densities_apart(ema, second_route(problem, slower, epochs)))
        wrong = carry(problem, Recursion(beta, modes[-1]), epochs, ema.axes)
        tally.add(_gap(ema, wrong), wrong="EMA changes nothing")
    figure = (
        f"densities within {number(tally.error)} after {epochs} epochs, modes {', '.join(modes)}"
    )
    if context.profile.extras:
        figure += f"; the two sides by two routes: {number(apart)} (quadrature {QUADRATURE.rtol:g})"
    return Finding(
        name="velocities: decay g at nft_beta = no EMA at nft_beta/(1 - g)",
        role="claim",
        kind="exact",
        holds=tally.error <= QUADRATURE_TIGHT.rtol and apart <= QUADRATURE.rtol,
        figure=figure,
        numbers={"error": tally.error, "by_two_routes": apart},
        worst=tally.worst,
        mutants=tally.mutants,
    )


def _gap(one: Trajectory, other: Trajectory) -> float:
    """Largest difference of the last densities, relative to the peak."""
    p, q = one.laws[-1].density, other.laws[-1].density
    return float(np.abs(p - q).max() / q.max())


class _Adapted(nn.Module):
    """A tanh network of x and t with a frozen first layer and a LoRA of rank 2 on the second."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.first, self.second = normal(16, 2), normal(16, 16) / 4
        self.last = normal(1, 16) / 4
        self.lora_a, self.lora_b = normal(2, 16) / 4, torch.zeros(16, 2, dtype=torch.float64)

    def forward(self, x: Tensor, lora_a: Tensor, lora_b: Tensor, second: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(x @ self.first.T) @ (second + lora_b @ lora_a).T) @ self.last.T


def parameter_gaps(steps: Array, kind: Kind, of_parameters: float = DECAY) -> Array:
    """RMS difference between parameters averaged with decay `of_parameters` and velocities averaged
    with DECAY, one a size of the epoch's step."""
    generator = torch.Generator().manual_seed(2)
    net = _Adapted(generator)
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    moves = [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) / 4
        for p in (net.lora_a, net.lora_b, net.second)
    ]
    masks = (1.0, 1.0, 0.0) if kind == "lora" else (0.0, 0.0, 1.0)
    start = [net.lora_a, net.lora_b, net.second]
    found = []
    with torch.no_grad():
        old = net(x, *start)
        for step in steps:
            moved = [p + float(step) * on * m for p, m, on in zip(start, moves, masks, strict=True)]
            student = net(x, *moved)
            mean = [
                of_parameters * p + (1 - of_parameters) * q
                for p, q in zip(start, moved, strict=True)
            ]
            gap = net(x, *mean) - (DECAY * old + (1 - DECAY) * student)
            found.append(float((gap**2).mean().sqrt()))
    return np.array(found)


def averaged_parameters(context: Context) -> Finding:
    """EMA of weights and of LoRA factors against EMA of velocities: order in the step's size."""
    steps = np.geomspace(0.005, 0.5, 12)
    slopes, exchanged = (
        {k: fit_slope(steps, parameter_gaps(steps, k, g), 1e-16) for k in KINDS}
        for g in (DECAY, 1 - DECAY)
    )
    big = {k: float(parameter_gaps(np.array([1.0]), k)[0]) for k in KINDS}
    worst = max(slopes, key=lambda k: abs(slopes[k].slope - 2))
    return Finding(
        name="parameters: difference to averaged velocities",
        role="claim",
        kind="order",
        holds=all(s.order == 2 and s.is_order for s in slopes.values()),
        figure=(
            f"slope {slopes[worst]} ({worst}, the further of weights and LoRA factors); at a step "
            f"of the weights' own size RMS {number(big['weights'])} and {number(big['lora'])}"
        ),
        numbers={"slopes": {k: [s.slope, s.half] for k, s in slopes.items()}, "at_unit_step": big},
        worst=worst,
        order=2,
        mutants={"g and 1 - g exchanged": all(s.order == 1 for s in exchanged.values())},
    )


@extra
def ema_is_nearer(context: Context) -> Finding:
    """At the same total tilt, many small steps (EMA) lie nearer to the exact tilt."""
    problem = load_problem("note_1d")
    hard = law_gap(carry(problem, Recursion(1.0), 1), 2.0)
    ten = carry(problem, Recursion(1.0, ema=0.9), 10)
    soft, first = law_gap(ten, 2.0), law_gap(replace(ten, laws=ten.laws[:2]), 2.0)
    return Finding(
        name="at one total tilt of 2: one epoch against ten with g = 0.9",
        role="support",
        kind="exact",
        holds=soft < hard,
        figure=f"RMS log-ratio to p^0 exp(2r): {number(hard)} hard copy, {number(soft)} EMA",
        numbers={"hard": hard, "ema": soft},
        mutants={"one epoch of the ten": not first < hard},
    )


Z7_PARTS = (averaged_velocities, averaged_parameters, ema_is_nearer)


def average_region(cells: int) -> Region:
    """LoRA factors from B = 0: share of (1 - g) of the epoch's step that averaging them misses."""
    decays, moves = np.linspace(0.0, 0.95, cells), np.geomspace(0.01, 3.0, cells)
    rng = np.random.default_rng(0)
    a0, b1 = rng.normal(size=(4, 32)), rng.normal(size=(32, 4))
    direction = a0 @ np.linalg.qr(rng.normal(size=(32, 32)))[0] * 0.2 + a0
    direction *= np.linalg.norm(a0) / np.linalg.norm(direction)
    errors = np.empty((cells, cells))
    for i, g in enumerate(decays):
        for j, rho in enumerate(moves):
            a1 = a0 + rho * direction
            whole = (1 - g) * b1 @ a1
            factors = ((1 - g) * b1) @ (g * a0 + (1 - g) * a1)
            errors[i, j] = np.linalg.norm(whole - factors) / np.linalg.norm(whole)
    return Region(
        "EMA of LoRA factors against EMA of their product",
        "decay g",
        decays,
        "change of A in the epoch / |A|",
        moves,
        errors,
        "relative error",
        "y",
    )
