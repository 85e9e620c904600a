r"""zhu, Z4: what SDEs with the implied score sample, and what becomes of it as their noise grows.

dX = (v* + g^2/2 s*) dt + g dB, s* = grad log p*_t, relaxes to p*_t at a rate g^2/2 while p*_t
moves on: its law lags behind by what the continuity equation of p*_t is off by, over g^2. At t = 1
that is nothing (eta_1 = 0), it grows like 1 - t before: the lag of X_1 is of order g^-4. Under
g^2 = 2 k eta_t the noise dies away at t = 1 too, and the lag is of order 1/k.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from theory import Diffusion, GaussianSum, Problem, load_problem, quadratic_reward, sde_law
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import (
    Array,
    Context,
    Finding,
    fit_slope,
    nft_density,
    number,
    tilt_density,
    total_variation,
)
from theory.ledger.oracle import noise

NOISES = {
    **{f"g = {g:g}": Diffusion.of_constant(g) for g in (0.5, 1.0, 2.0, 4.0, 8.0)},
    "memoryless": Diffusion.of_memoryless(),
}
TRIED = ("g = 0.5", "g = 1", "memoryless")  # of the statement
LOUDER = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # g; 0: the ODE
MULTIPLES = (1.0, 4.0, 16.0)  # of the memoryless g²
AXIS = np.linspace(-8.0, 8.0, 401)
RTOL, ATOL = 1e-7, 1e-9
STRONG = np.geomspace(4.0, 32.0, 6)  # where the order of the distance in 1/g is read off
MANY = np.geomspace(16.0, 512.0, 6)  # and in 1/k
FLOOR = 1e-11  # of the oracle's variances
BOWL_SCALE = 2.0


@lru_cache(maxsize=1)
def bowl() -> Problem:
    """N(0, 1), r = -x²/2: the field is linear, and every law Gaussian."""
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    return Problem("N(0, 1)", base, quadratic_reward([[-1.0]], [0.0], 0.0), scale=BOWL_SCALE)


@lru_cache(maxsize=32)
def density(problem: Problem, label: str) -> Array:
    """What NFT's optimum at the problem's own scale samples on AXIS, by ODE or under a noise."""
    if label == "ODE":
        return nft_density(problem, problem.scale, AXIS)
    field = problem.cumulant_field(problem.scale, 1)
    return np.asarray(sde_law(field, NOISES[label], AXIS, RTOL, ATOL).density)


@lru_cache(maxsize=1)
def _note() -> Problem:
    return load_problem("note_1d")


def distance(label: str) -> float:
    """Its TV to the density that the note names, on problem note_1d."""
    problem = _note()
    claim = tilt_density(problem, problem.scale, AXIS)
    return total_variation(density(problem, label), claim, AXIS)


def sde_laws_are_the_tilt(context: Context) -> Finding:
    """TV between SDEs' laws and the named density, and between them and the ODE's law."""
    labels = context.choose(("memoryless",), TRIED)
    problem = _note()
    to_claim = {label: distance(label) for label in ("ODE", *labels)}
    ode = density(problem, "ODE")
    to_ode = {label: total_variation(density(problem, label), ode, AXIS) for label in labels}
    return Finding(
        name="law by SDEs = p_old exp((2/beta) r)/Z",
        role="claim",
        kind="exact",
        holds=max(to_claim.values()) <= QUADRATURE.rtol,
        figure="d = 1, TV to the claim: "
        + ", ".join(f"{k} {number(v)}" for k, v in to_claim.items())
        + "; to the ODE's law: "
        + ", ".join(f"{k} {number(v)}" for k, v in to_ode.items()),
        numbers={"to_claim": to_claim, "to_ode": to_ode},
        worst="note_1d",
    )


def bowl_distance(g: float, implied: bool = True) -> float:
    """TV to the claim for N(0, 1), r = -x²/2, by the oracle's variance."""
    found = noise.bowl_variance(BOWL_SCALE, lambda t: g**2, implied=implied)
    return noise.variation_of_gaussians(found, 1 / (1 + BOWL_SCALE))


def bowl_multiple(k: float) -> float:
    """The same under g² = 2 k eta_t."""
    found = noise.bowl_variance(BOWL_SCALE, lambda t: 2 * k * (1 - t) / t, 1e-5)
    return noise.variation_of_gaussians(found, 1 / (1 + BOWL_SCALE))


def density_gap(g: float) -> float:
    """The SDE's density for N(0, 1), r = -x²/2, by Fokker-Planck and of the oracle's variance: the
    largest difference over the peak."""
    variance = noise.bowl_variance(BOWL_SCALE, lambda t: g**2)
    stated = np.exp(-0.5 * AXIS**2 / variance) / np.sqrt(2 * np.pi * variance)
    return float(np.abs(density(bowl(), f"g = {g:g}") - stated).max() / stated.max())


def tends_to_the_tilt(context: Context) -> Finding:
    """The distance to the claim as g grows: whether it falls at every step, and how fast."""
    fast = context.is_fast
    rows = {"N(0, 1)": {f"g = {g:g}": bowl_distance(g) for g in LOUDER}}
    if not fast:
        rows["note_1d"] = {f"g = {g:g}": distance(f"g = {g:g}" if g else "ODE") for g in LOUDER}
    rows["N(0, 1), g² = 2k eta"] = {f"k = {k:g}": bowl_multiple(k) for k in MULTIPLES}
    falls = all(b < a for row in rows.values() for a, b in pairwise(row.values()))
    error = max(density_gap(g) for g in (context.choose((4.0,), (1.0, 4.0))))
    slope = fit_slope(1 / STRONG, np.array([bowl_distance(float(g)) for g in STRONG]), FLOOR)
    of_multiples = fit_slope(1 / MANY, np.array([bowl_multiple(float(k)) for k in MANY]), FLOOR)
    shown = "; ".join(
        f"{name} " + ", ".join(f"{label} {number(v)}" for label, v in row.items())
        for name, row in rows.items()
    )
    return Finding(
        name="the limit of loud noise: law by the SDE -> p_old exp((2/beta) r)/Z",
        role="condition",
        kind="order",
        holds=falls
        and error <= QUADRATURE.rtol
        and (slope.order, of_multiples.order) == (4, 1)
        and slope.is_order
        and of_multiples.is_order,
        figure=f"TV to the claim falls at every step: {shown}; N(0, 1): order {slope} in 1/g and "
        f"{of_multiples} in 1/k; densities by two routes within {number(error)} of the peak",
        numbers={
            "to_claim": rows,
            "slope": [slope.slope, slope.half],
            "slope_of_multiples": [of_multiples.slope, of_multiples.half],
            "error": error,
        },
        order=slope.order,
        mutants={"the base's score": bowl_distance(8.0, implied=False) > bowl_distance(0.0)},
    )
