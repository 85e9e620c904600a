"""zhu, Z4, Z11: what a field with a known score samples, against the density that it names."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from theory import (
    Exponential,
    FlowLaw,
    GaussianSum,
    Problem,
    linear_reward,
    load_problem,
    quadratic_reward,
    sde_law,
)
from theory.common.tolerances import FALSE_FAILURE_RATE, QUADRATURE
from theory.ledger.core import (
    ATOL,
    LINE,
    RTOL,
    Array,
    Context,
    Finding,
    Region,
    Tally,
    column,
    exponential_tilts,
    extra,
    log_gap,
    nft_densities,
    number,
    tilt_density,
    total_variation,
)
from theory.ledger.liu.laws import laws_agree, plain_numbers
from theory.ledger.oracle import flow
from theory.ledger.zhu.noise import NOISES, TRIED, bowl, sde_laws_are_the_tilt, tends_to_the_tilt
from theory.ledger.zhu.planes.planes import Z4_PLANES, gaussian_along_reward

NAMES = ("note_1d", "quadratic_1d", "linear_1d", "bumps_1d")
SPOTS = np.array([-2.2, -1.3, -0.4, 0.3, 1.2, 2.1])


# --- Z4


def ode_law_is_the_tilt(context: Context) -> Finding:
    """TV between the ODE's law and the density that the note names."""
    names = context.choose(NAMES[1:2], NAMES)
    found: dict[str, dict[str, float]] = {}
    for problem in map(load_problem, names):
        scales = (problem.scale / 4, problem.scale)
        found[problem.name] = {
            f"{scale:.3g}": total_variation(density, tilt_density(problem, scale))
            for scale, density in zip(scales, nft_densities(problem, scales), strict=True)
        }
    flat = {(n, s): v for n, row in found.items() for s, v in row.items()}
    worst = max(flat, key=lambda k: flat[k])
    return Finding(
        name="law by the ODE = p_old exp((2/beta) r)/Z",
        role="claim",
        kind="exact",
        holds=max(flat.values()) <= QUADRATURE.rtol,
        figure=(
            f"TV {number(min(flat.values()))} to {number(flat[worst])} on {len(names)} problems, "
            "d = 1"
        ),
        numbers={"tv": found},
        worst=f"{worst[0]} at 2/beta = {worst[1]}: TV {number(flat[worst])}",
    )


@extra
def simulated_sde(context: Context) -> Finding:
    """The SDE's law once more: Euler-Maruyama draws against the Fokker-Planck cdf."""
    n = context.choose(3_000, 5_000, 20_000)
    problem = load_problem("quadratic_1d")
    field = flow.LineField(plain_numbers(problem), scale=problem.scale)

    def score(x: Array, t: float) -> Array:
        if t == 0.0:
            return -x  # of N(0, 1)
        return (t * field(x, t) - x) / (1 - t)

    draws = np.sort(
        flow.simulate(field, score, lambda t: 1.0, n, 200, np.random.default_rng(context.seed))
    )
    axis = np.linspace(-8.0, 8.0, 401)
    law = sde_law(problem.cumulant_field(problem.scale, 1), NOISES["g = 1"], axis, 1e-7, 1e-9)
    assert law.cdf is not None
    steps = np.arange(1, n + 1) / n
    gap = float(np.max(np.abs(np.interp(draws, axis, law.cdf) - steps)))
    claim = tilt_density(problem, problem.scale, axis)
    claimed = np.concatenate([[0.0], np.cumsum(0.5 * (claim[1:] + claim[:-1]) * np.diff(axis))])
    other = float(np.max(np.abs(np.interp(draws, axis, claimed) - steps)))
    bound = math.sqrt(math.log(2 / FALSE_FAILURE_RATE) / (2 * n))
    return Finding(
        name="law by the SDE with g = 1, drawn",
        role="support",
        kind="statistical",
        holds=gap <= bound,
        figure=(
            f"Kolmogorov distance {number(gap)} (bound {number(bound)}) over {n} draws; to the "
            f"claim {number(other)}"
        ),
        numbers={"gap": gap, "bound": bound, "to_claim": other},
        worst="quadratic_1d",
        mutants={"the claimed law": other > bound},
    )


def gaussian_case_is_exact(context: Context) -> Finding:
    """The assumption under which the claim holds, by ODE (d = 1, 2, 5) and SDE (d = 1)."""
    ode: dict[str, float] = {}
    generator = torch.Generator().manual_seed(context.seed)
    dims = context.choose((1, 2), (1, 2, 5))
    for dim in dims:
        problem = gaussian_along_reward(dim)
        for scale in context.choose((2.0,), (0.5, 5.0)):
            field, target = problem.cumulant_field(scale, 1), problem.tilt(Exponential(scale))
            points = problem.base.sample(24, generator)
            ode[f"d = {dim}, 2/beta = {scale:g}"] = log_gap(field, target, points, 1e-8, 1e-10)
    line = gaussian_along_reward(1)
    axis = np.linspace(-6.0, 8.0, 301 if context.profile.extras else 201)
    sde = max(
        total_variation(
            sde_law(line.cumulant_field(2.0, 1), NOISES[label], axis).density,
            tilt_density(line, 2.0, axis),
            axis,
        )
        for label in context.choose(["g = 1"], list(TRIED))
    )
    bent = replace(line, reward=quadratic_reward([[-0.05]], [0.7], 0.1))
    target, points = bent.tilt(Exponential(2.0)), bent.base.sample(24, generator)
    off = log_gap(bent.cumulant_field(2.0, 1), target, points)
    where = max(reversed(ode), key=ode.__getitem__)
    return Finding(
        name="linear reward along a Gaussian direction of the base",
        role="condition",
        kind="exact",
        holds=max(ode[where], sde) <= QUADRATURE.rtol,
        figure=f"log-density within {number(ode[where])} (ODE, d = {', '.join(map(str, dims))}), "
        f"TV {number(sde)} (SDEs, d = 1)",
        numbers={"ode": ode[where], "sde": sde},
        worst=where,
        mutants={"reward bent by 0.05 x²/2": off > QUADRATURE.rtol},
    )


@extra
def exact_formula(context: Context) -> Finding:
    """log q = log p + lambda r - lambda^2 int eta |grad m|^2 dt - lambda E r along the path."""
    names = context.choose(NAMES[:1], NAMES)
    tally = Tally(QUADRATURE, "half the integral", "no integral")
    for name in names:
        problem, plain = load_problem(name), plain_numbers(load_problem(name))
        scale = problem.scale
        field, base = flow.LineField(plain, scale=scale), flow.LineField(plain)

        def rate(
            x: Array,
            t: float,
            f: flow.LineField = field,
            b: flow.LineField = base,
            a: float = scale,
        ) -> Array:
            """eta |grad m|^2 = C^2 / eta, C = Cov(V, r | x)."""
            return ((f(x, t) - b(x, t)) / a) ** 2 * t / max(1 - t, 1e-300)

        _, energy = flow.path_integral(field, SPOTS, rate)
        mean = float(
            np.trapezoid(
                np.exp(plain.log_density(LINE[:, None])) * plain.reward(LINE[:, None]), LINE
            )
        )
        start = plain.log_density(SPOTS[:, None]) + scale * plain.reward(SPOTS[:, None])
        ours = FlowLaw(problem.cumulant_field(scale, 1)).log_density(column(SPOTS)).numpy()
        for label, factor in (("", 1.0), ("half the integral", 0.5), ("no integral", 0.0)):
            tally.compare(ours, start - factor * scale**2 * energy - scale * mean, 1.0, name, label)
    return tally.finding(
        "ODE's law = p exp(lambda r - lambda² int eta |grad m|² dt - lambda E r)",
        "instead",
        f"error {tally} on {len(names)} problems, d = 1",
    )


@extra
def smallest_counterexample(context: Context) -> Finding:
    """N(0, 1), r = -x^2/2: NFT samples N(0, exp(-lambda)); claimed is N(0, 1/(1 + lambda))."""
    problem = bowl()
    points, worst, claims = column(SPOTS), 0.0, {}
    for scale in (0.1, 1.0, 2.0):
        law = FlowLaw(problem.cumulant_field(scale, 1)).log_density(points)
        stated = GaussianSum.mixture([1.0], [[0.0]], stds=[math.exp(-scale / 2)])
        worst = max(worst, float((law - stated.log_density(points)).abs().max()))
        claims[f"{scale:g}"] = [math.exp(-scale), 1 / (1 + scale)]
        gap = float((law - problem.tilt(Exponential(scale)).log_density(points)).abs().max())
    return Finding(
        name="N(0, 1), r = -x²/2: NFT samples variance exp(-lambda)",
        role="instead",
        kind="exact",
        holds=worst <= QUADRATURE.rtol,
        figure=(
            f"log-density within {number(worst)}; at lambda = 2 variance {claims['2'][0]:.4f} "
            f"against {claims['2'][1]:.4f} claimed"
        ),
        numbers={"variances": claims},
        worst="N(0, 1), r = -x²/2",
        mutants={"1/(1 + lambda)": gap > QUADRATURE.rtol},
    )


Z4_PARTS = (
    ode_law_is_the_tilt,
    sde_laws_are_the_tilt,
    gaussian_case_is_exact,
    tends_to_the_tilt,
    exact_formula,
    smallest_counterexample,
    laws_agree,
    simulated_sde,
    *Z4_PLANES,
)


def separation_region(cells: int) -> Region:
    """TV of NFT's law to the claim: a linear reward over two Gaussians that move apart."""
    gaps, scales = np.linspace(0.0, 3.5, cells), np.linspace(0.2, 3.0, cells)
    axis = np.linspace(-7.5, 9.0, 221)
    pairs = [(g, a) for g in gaps for a in scales]
    count = len(pairs)
    means = torch.tensor([[[-g / 2], [g / 2]] for g, _ in pairs], dtype=torch.float64)
    weights = torch.tensor([[0.6, 0.4]], dtype=torch.float64).expand(count, 2)
    stds = torch.full((count, 2), 0.7, dtype=torch.float64)
    base = GaussianSum.mixture(weights, means, stds=stds)
    problem = Problem("separation", base, linear_reward([1.0], 0.0))
    a = torch.tensor([a for _, a in pairs], dtype=torch.float64)
    points = column(axis).expand(count, len(axis), 1)
    law = FlowLaw(problem.cumulant_field(a, 1), rtol=RTOL, atol=ATOL, method="dopri5")
    p = law.log_density(points).exp().numpy()
    q = exponential_tilts(problem, a).density(points).numpy()
    return Region(
        "linear reward over two Gaussians: NFT's law against the claim",
        "distance of the two Gaussians / 0.7",
        gaps / 0.7,
        "2/beta",
        scales,
        (0.5 * np.trapezoid(np.abs(p - q), axis, axis=1)).reshape(cells, cells),
        "TV",
    )
