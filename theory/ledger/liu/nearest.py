"""liu, L10: which of three targets NFT's samples lie nearest to; maps of L8 and L10."""

from __future__ import annotations

import numpy as np
import torch

from theory.ledger.core import (
    AXIS,
    TARGETS,
    Array,
    BumpFamily,
    Context,
    Finding,
    Region,
    family_laws,
    number,
    product_family,
    total_variations,
)
from theory.ledger.liu.laws import NOTE_SCALE, laws_agree
from theory.problems.problem import load_problem


def note_distances(share: float = 1.0) -> dict[str, float]:
    """TV of NFT's law, its step taken `share` times, to every target in the note's toy."""
    toy, shorter = (BumpFamily((2.0,), (1.0,), (NOTE_SCALE * k,)) for k in (1.0, share))
    law, targets = family_laws(shorter)[0], family_laws(toy)[1]
    return {name: float(total_variations(law, q)[0]) for name, q in targets.items()}


def distance_to_whole_square() -> float:
    """TV of NFT's law in the toy to 1 + ar + (ar)²: the second order without its 1/2."""
    toy = BumpFamily((2.0,), (1.0,), (NOTE_SCALE,))
    points = torch.as_tensor(AXIS)[:, None]
    exponent = NOTE_SCALE * toy.problem.reward(points[None])[0]
    wrong = (load_problem("note_1d").base.density(points) * (1 + exponent + exponent**2)).numpy()
    return float(total_variations(family_laws(toy)[0], wrong[None] / np.trapezoid(wrong, AXIS))[0])


def nearest_in_the_toy(context: Context) -> Finding:
    found, half = note_distances(), note_distances(0.5)
    return Finding(
        name="in the note's toy (two Gaussians, bump at 2, a = 2)",
        role="instead",
        kind="exact",
        holds=min(found, key=lambda k: found[k]) == TARGETS[2],
        figure="TV " + ", ".join(f"{number(v)} to {k}" for k, v in found.items()),
        numbers={"tv": found},
        mutants={
            "half the step": min(half, key=lambda k: half[k]) != TARGETS[2],
            "(ar)² for (ar)²/2": distance_to_whole_square() > min(found.values()),
        },
    )


def _ranking(cells: int) -> tuple[Array, Array, dict[str, Array]]:
    centres, scales = np.linspace(-3.0, 4.0, cells), np.linspace(0.25, 4.5, cells)
    law, targets = family_laws(product_family(centres.tolist(), scales.tolist()))
    return (
        centres,
        scales,
        {name: total_variations(law, q).reshape(cells, cells) for name, q in targets.items()},
    )


def nearest_everywhere(context: Context) -> Finding:
    cells = context.profile.cells or 4
    centres, scales, tv = _ranking(cells)
    table = np.stack([tv[name] for name in TARGETS])
    nearest = table.argmin(0)
    share = {name: float((nearest == i).mean()) for i, name in enumerate(TARGETS)}
    excess = table[2] - table.min(0)
    i, j = np.unravel_index(excess.argmax(), excess.shape)
    counter = {name: float(tv[name][i, j]) for name in TARGETS}
    return Finding(
        name="nearest target over bump centres and temperatures",
        role="claim",
        kind="exact",
        holds=bool((nearest == 2).all()),
        figure=f"the second order is nearest on {100 * share[TARGETS[2]]:.0f} % of "
        f"{cells} x {cells} problems, exp on {100 * share[TARGETS[0]]:.0f} %, the first order on "
        f"{100 * share[TARGETS[1]]:.0f} %",
        numbers={"share": share, "counterexample": counter},
        worst=f"bump at {centres[i]:.3g}, a = {scales[j]:.3g}: TV "
        + ", ".join(f"{number(v)} to {k}" for k, v in counter.items()),
        mutants={f"{name} everywhere": share[name] < 1 for name in TARGETS[:2]},
    )


L10_PARTS = (nearest_everywhere, nearest_in_the_toy, laws_agree)

# --- maps


def note_region(cells: int) -> Region:
    """TV of NFT's law to the exponential tilt over the bump's centre and a."""
    centres, scales, tv = _ranking(cells)
    return Region(
        "NFT's law against the exponential tilt",
        "centre of the reward bump",
        centres,
        "inverse temperature a = 2/nft_beta",
        scales,
        tv[TARGETS[0]],
        "TV",
    )


def ranking_region(cells: int) -> Region:
    """By how much the second order is further than the nearest target."""
    centres, scales, tv = _ranking(cells)
    table = np.stack([tv[name] for name in TARGETS])
    return Region(
        "how much further the second order is than the nearest target",
        "centre of the reward bump",
        centres,
        "inverse temperature a = 2/nft_beta",
        scales,
        table[2] - table.min(0),
        "excess TV",
    )
