"""zhu, Z6: where p^0 exp(K lambda r) goes as K grows.

Limits by theory's densities and Hessians; masses by quadrature of the same problems' plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from scipy.special import ndtr
from torch.autograd.functional import hessian

from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.core import Array, Context, Finding, Region, extra, fit_slope, number
from theory.ledger.oracle import Region as Box
from theory.ledger.oracle import integrate, simplex
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.settings.plane import PlaneProblem

STRENGTHS = np.geomspace(1e2, 1e4, 9)  # K lambda


def _peaks(centres: list[list[float]], widths: list[list[float]]) -> PlaneProblem:
    """Bumps of height 1 over an asymmetric mixture on the line or, times N(0, 0.9^2), in the
    plane: so far apart that neither moves the other by more than 1e-20."""
    e = len(centres[0])
    covs = [np.diag([s**2, 0.81][:e]) for s in (1.0, 0.8)]
    precisions = np.array([np.diag(np.asarray(w) ** -2.0) for w in widths])
    return PlaneProblem(
        np.array([0.7, 0.3]),
        np.array([[-1.0, 0.0], [1.5, 0.0]])[:, :e],
        np.array(covs),
        "bumps",
        {"heights": np.ones(2), "centres": np.array(centres), "precisions": precisions},
        1.0,
        np.eye(e),
    )


CASES = {
    "d = 1": _peaks([[-1.8], [1.6]], [[0.36], [0.16]]),
    "d = 2": _peaks([[-1.8, 0.4], [1.6, -0.7]], [[0.36, 0.25], [0.16, 0.20]]),
    # One curvature, or two with one determinant.
    "d = 1, alike": _peaks([[-1.8], [1.6]], [[0.25], [0.25]]),
    "d = 2, alike": _peaks([[-1.8, 0.4], [1.6, -0.7]], [[0.36, 0.25], [0.25, 0.36]]),
}


def _names(context: Context, alike: bool = False) -> list[str]:
    return [d + ", alike" * alike for d in context.choose(("d = 1",), ("d = 1", "d = 2"))]


# --- first route: theory's density and reward


def restricted(case: PlaneProblem) -> Array:
    """p(x_i), normalised: the claim."""
    weights = case.problem().base.density(torch.as_tensor(case.parameters["centres"])).numpy()
    return np.asarray(weights / weights.sum())


def peak_limit(case: PlaneProblem) -> Array:
    """p(x_i) / sqrt(det(-Hess r(x_i))), normalised; the Hessians by automatic differentiation."""
    reward = case.problem().reward
    sizes = [
        float(torch.linalg.det(-hessian(lambda y: reward(y[None])[0], centre))) ** -0.5
        for centre in torch.as_tensor(case.parameters["centres"])
    ]
    weights = restricted(case) * np.array(sizes)
    return np.asarray(weights / weights.sum())


# --- second route: masses by quadrature


def peak_masses(case: PlaneNumbers, strength: float) -> Array:
    """Share of p exp(strength r) around each of the two peaks."""
    masses = []
    for centre, precision in zip(
        case.parameters["centres"], case.parameters["precisions"], strict=True
    ):
        width = np.diagonal(precision) ** -0.5
        reach = np.minimum(12 * width / np.sqrt(strength), 4 * width) + 2 * width / strength
        found = integrate(
            lambda y: np.exp(case.log_density(y) + strength * (case.reward(y) - 1.0))[:, None],
            Box(centre - reach, centre + reach, centre[None]),
            1e-12,
        )
        masses.append(float(found.value[0]))
    return np.asarray(masses) / sum(masses)


@lru_cache(maxsize=len(CASES))
def shares(name: str) -> tuple[Array, float]:
    """The first peak's share at STRENGTHS, and as K lambda goes to infinity: the constant of a
    polynomial in 1/(K lambda)."""
    found = np.array([peak_masses(CASES[name], float(s))[0] for s in STRENGTHS])
    design = np.stack([STRENGTHS**-j for j in range(5)], 1)
    return found, float(np.linalg.lstsq(design, found, rcond=None)[0][0])


def share_errors(names: Sequence[str]) -> dict[str, float]:
    """|share of the first peak in the limit - the claim|, {problem: error}."""
    return {name: abs(shares(name)[1] - float(restricted(CASES[name])[0])) for name in names}


def isolated_maxima(context: Context) -> Finding:
    """The claim at isolated maxima: in the limit weights of p at the maximisers."""
    gaps = share_errors(_names(context))
    worst = max(gaps, key=lambda k: gaps[k])
    found, claimed = shares(worst)[1], float(restricted(CASES[worst])[0])
    around = np.array([[-2.1, -1.5], [1.3, 1.9]])
    line = CASES["d = 1"]
    box = Box(np.array([-9.0]), np.array([9.0]), line.parameters["centres"])
    masses = simplex.tilted_masses(line.log_density, line.reward, 1e4, around, box)
    even = min(abs(shares(name)[1] - 0.5) for name in gaps)
    return Finding(
        name="isolated maxima: weights p(x_i)",
        role="claim",
        kind="exact",
        holds=max(gaps.values()) <= QUADRATURE.rtol,
        figure=(
            f"{worst}: share of the first peak {found:.4f} as K lambda grows, {claimed:.4f} "
            "claimed; mass further than 0.3 from both at K lambda = 1e4 (d = 1) "
            f"{number(abs(1 - float(masses.sum())))}"
        ),
        numbers={"errors": gaps, "share": [found, claimed]},
        worst=f"{worst}, peaks of widths 0.36 and 0.16",
        mutants={"equal weights": even > QUADRATURE.rtol},
    )


def maxima_of_one_curvature(context: Context) -> Finding:
    """Where det(-Hess r) is the same at all of them the claim is right."""
    gaps, others = (share_errors(_names(context, alike)) for alike in (True, False))
    worst = max(gaps, key=lambda k: gaps[k])
    return Finding(
        name="isolated maxima with one det(-Hess r): weights p(x_i)",
        role="condition",
        kind="exact",
        holds=gaps[worst] <= QUADRATURE.rtol,
        figure=f"share of the first peak as K lambda grows within {number(gaps[worst])}",
        numbers={"errors": gaps},
        worst=worst.removesuffix(", alike"),
        mutants={"peaks of two widths": min(others.values()) > QUADRATURE.rtol},
    )


@extra
def laplace_weights(context: Context) -> Finding:
    """What holds instead: the limit has p(x_i) / sqrt(det(-Hess r)), reached like 1/(K lambda)."""
    slopes, extrapolated = {}, 0.0
    wrong = {"without the determinant": True, "times its root": True}
    for name in _names(context):
        found, ahead = shares(name)
        limit, claimed = peak_limit(CASES[name]), restricted(CASES[name])
        slopes[name] = fit_slope(1 / STRENGTHS, np.abs(found - limit[0]), 1e-11)
        extrapolated = max(extrapolated, abs(ahead - float(limit[0])))
        inverse = claimed**2 / limit
        for label, weights in zip(wrong, (claimed, inverse / inverse.sum()), strict=True):
            wrong[label] &= abs(ahead - float(weights[0])) > QUADRATURE.rtol
    return Finding(
        name="isolated maxima: weights p(x_i) / sqrt(det(-Hess r(x_i)))",
        role="instead",
        kind="exact",
        holds=extrapolated <= QUADRATURE.rtol
        and all(s.order == 1 and s.is_order for s in slopes.values()),
        figure=f"extrapolated to K = infinity within {number(extrapolated)}; the rest falls like "
        f"1/(K lambda), slope {slopes['d = 1']}",
        numbers={"extrapolated": extrapolated, "slopes": {d: s.slope for d, s in slopes.items()}},
        mutants=wrong,
    )


def discrete_maxima(context: Context) -> Finding:
    """States: two maximisers of five, by a climb with the strength K lambda on KL to p^0."""
    p_0 = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    m = np.array([0.3, 1.0, 0.7, 1.0, 0.9])
    found = simplex.maximise_two_kl(m, p_0, p_0, eta_0=400.0)
    best = m == m.max()
    error = float(np.abs(found - np.where(best, p_0, 0.0) / p_0[best].sum()).max())
    return Finding(
        name="discrete states: weights of p^0 on the maximisers",
        role="condition",
        kind="exact",
        holds=error <= QUADRATURE_TIGHT.rtol,
        figure=f"error {number(error)} at K lambda = 400",
        numbers={"error": error},
        mutants={"equal weights": float(np.abs(found - np.where(best, 0.5, 0.0)).max()) > 1e-2},
    )


def flat_maxima(context: Context) -> Finding:
    """Plateaux: r = 1 on [-2, -1] and [0.5, 0.8], 0.4 elsewhere, under N(0, 1)."""
    plateaux = ((-2.0, -1.0), (0.5, 0.8))
    inside = np.array([ndtr(b) - ndtr(a) for a, b in plateaux])
    errors = []
    for strength in (10.0, 60.0):
        # by quadrature: every piece is smooth
        pieces = []
        for a, b in pairwise([-12.0, *plateaux[0], *plateaux[1], 12.0]):
            r = 1.0 if (a, b) in plateaux else 0.4
            box = Box(np.array([a]), np.array([b]), np.array([[0.5 * (a + b)]]))
            total = integrate(lambda y: np.exp(-0.5 * y**2), box, 1e-12).value[0]
            pieces.append(float(total) * np.exp(strength * (r - 1)))
        share = np.array([pieces[1], pieces[3]]) / sum(pieces)
        errors.append(float(np.abs(share - inside / inside.sum()).max()))
    lengths = np.array([b - a for a, b in plateaux])
    others = {"equal weights": np.full(2, 0.5), "their lengths": lengths / lengths.sum()}
    return Finding(
        name="flat maxima: weights of p^0 on the plateaux",
        role="condition",
        kind="exact",
        holds=errors[-1] <= QUADRATURE_TIGHT.rtol,
        figure=f"error {number(errors[0])} at K lambda = 10, {number(errors[1])} at 60",
        numbers={"errors": errors},
        mutants={
            k: float(np.abs(share - v).max()) > QUADRATURE_TIGHT.rtol for k, v in others.items()
        },
    )


Z6_PARTS = (
    isolated_maxima,
    discrete_maxima,
    flat_maxima,
    maxima_of_one_curvature,
    laplace_weights,
)


def peak_region(cells: int) -> Region:
    """How far the claimed weights are from the true ones, over width ratio and K lambda."""
    ratios, strengths = (
        np.geomspace(0.4, 2.5, max(cells, 15)),
        np.geomspace(10, 1000, max(cells, 15)),
    )
    y = np.linspace(-5.0, 5.0, 20001)
    case = CASES["d = 1"]
    log_p = case.log_density(y[:, None])
    centres = case.parameters["centres"][:, 0]
    claimed = restricted(case)[0]
    errors = np.empty((len(ratios), len(strengths)))
    for i, ratio in enumerate(ratios):
        widths = 0.25 * np.array([np.sqrt(ratio), 1 / np.sqrt(ratio)])
        r = np.exp(-0.5 * ((y[:, None] - centres) / widths) ** 2).sum(1)
        for j, strength in enumerate(strengths):
            density = np.exp(log_p + strength * (r - r.max()))
            errors[i, j] = abs(density[y < 0].sum() / density.sum() - claimed)
    return Region(
        "two isolated maxima: true share of one against p(x_i)",
        "ratio of the peaks' widths",
        ratios,
        "K lambda",
        strengths,
        errors,
        "error of the share",
        "xy",
    )
