"""zhu, Z6, Z8, Z9: concentration, the problem with two KL penalties, and its iteration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from theory.claims.atom_settings import Atoms, AtomSetting
from theory.claims.identity import Identity
from theory.claims.ledger import Context, Finding, extra, number
from theory.claims.order import fit_slope
from theory.claims.region import Region
from theory.oracle import Region as Box
from theory.oracle import integrate, simplex
from theory.oracle.integrate import Array
from theory.random_problems import Shape, random_case
from theory.recursion import TwoKL
from theory.tolerances import QUADRATURE, QUADRATURE_TIGHT

# --- Z6: where the mass goes


def _log_base(y: Array) -> Array:
    """An asymmetric mixture on the line or, times N(0, 0.9^2), in the plane; unnormalised."""
    parts = [
        np.log(0.7) - 0.5 * (y[:, 0] + 1.0) ** 2,
        np.log(0.3 / 0.8) - 0.5 * ((y[:, 0] - 1.5) / 0.8) ** 2,
    ]
    log_p = np.logaddexp(*parts)
    return np.asarray(log_p if y.shape[1] == 1 else log_p - 0.5 * (y[:, 1] / 0.9) ** 2)


# Peaks of height 1, so far apart that neither moves the other by more than 1e-20.
PEAKS = {
    1: (np.array([[-1.8], [1.6]]), np.array([[0.36], [0.16]])),
    2: (np.array([[-1.8, 0.4], [1.6, -0.7]]), np.array([[0.36, 0.25], [0.16, 0.20]])),
}


def _peaks(dim: int) -> Callable[[Array], Array]:
    centres, widths = PEAKS[dim]
    return lambda y: np.exp(-0.5 * (((y[:, None] - centres) / widths) ** 2).sum(-1)).sum(1)


def peak_masses(dim: int, strength: float) -> Array:
    """Share of p exp(strength r) around each of the two peaks."""
    centres, widths = PEAKS[dim]
    reward = _peaks(dim)
    masses = []
    for centre, width in zip(centres, widths, strict=True):
        reach = np.minimum(12 * width / np.sqrt(strength), 4 * width) + 2 * width / strength
        box = Box(centre - reach, centre + reach, centre[None])
        found = integrate(
            lambda y: np.exp(_log_base(y) + strength * (reward(y) - 1.0))[:, None], box, 1e-12
        )
        masses.append(float(found.value[0]))
    return np.asarray(masses) / sum(masses)


def peak_limit(dim: int) -> Array:
    """p(x_i) / sqrt(det(-Hess r(x_i))), normalised."""
    centres, widths = PEAKS[dim]
    weights = np.exp(_log_base(centres)) * widths.prod(1)
    return np.asarray(weights / weights.sum())


def restricted(dim: int) -> Array:
    """p(x_i), normalised: the claim."""
    weights = np.exp(_log_base(PEAKS[dim][0]))
    return np.asarray(weights / weights.sum())


def isolated_maxima(context: Context) -> Finding:
    """The claim at isolated maxima: weights of p at the maximisers."""
    rows = {f"d = {d}": [peak_masses(d, 1e4).tolist(), restricted(d).tolist()] for d in (1, 2)}
    gaps = {k: abs(a[0] - b[0]) for k, (a, b) in rows.items()}
    around = np.array([[-2.1, -1.5], [1.3, 1.9]])
    line = Box(np.array([-9.0]), np.array([9.0]), PEAKS[1][0])
    outside = 1 - simplex.tilted_masses(_log_base, _peaks(1), 1e4, around, line).sum()
    worst = max(gaps, key=lambda k: gaps[k])
    return Finding(
        "isolated maxima: weights p(x_i)", "claim", "exact",
        max(gaps.values()) <= QUADRATURE.rtol,
        f"{worst}: share of the first peak {rows[worst][0][0]:.4f} at K lambda = 1e4, "
        f"{rows[worst][1][0]:.4f} claimed; mass further than 0.3 from both (d = 1) "
        f"{number(abs(outside))}",
        {"masses": rows}, f"{worst}, peaks of widths 0.36 and 0.16",
    )  # fmt: skip


@extra
def laplace_weights(context: Context) -> Finding:
    """What holds instead: the limit has p(x_i) / sqrt(det(-Hess r)), reached like 1/(K lambda)."""
    strengths = np.geomspace(1e2, 1e4, 9)
    slopes, extrapolated, wrong = {}, 0.0, True
    for d in (1, 2):
        masses = np.array([peak_masses(d, float(s))[0] for s in strengths])
        limit = peak_limit(d)[0]
        slopes[d] = fit_slope(1 / strengths, np.abs(masses - limit), 1e-11)
        design = np.stack([strengths**-j for j in range(5)], 1)
        ahead = np.linalg.lstsq(design, masses, rcond=None)[0][0]
        extrapolated = max(extrapolated, abs(ahead - limit))
        wrong = wrong and abs(ahead - restricted(d)[0]) > QUADRATURE.rtol
    holds = extrapolated <= QUADRATURE.rtol and all(
        s.order == 1 and s.is_order for s in slopes.values()
    )
    return Finding(
        "isolated maxima: weights p(x_i) / sqrt(det(-Hess r(x_i)))", "instead", "exact", holds,
        f"extrapolated to K = infinity within {number(extrapolated)}; the rest falls like "
        f"1/(K lambda), slope {slopes[1]}",
        {"extrapolated": extrapolated, "slopes": {str(d): s.slope for d, s in slopes.items()}},
        mutants={"without the determinant": wrong},
    )  # fmt: skip


def discrete_maxima(context: Context) -> Finding:
    """States: two maximisers of five, by a climb with the strength K lambda on KL to p^0."""
    p_0 = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    m = np.array([0.3, 1.0, 0.7, 1.0, 0.9])
    found = simplex.maximise_two_kl(m, p_0, p_0, eta_0=400.0)
    best = m == m.max()
    limit = np.where(best, p_0, 0.0) / p_0[best].sum()
    error = float(np.abs(found - limit).max())
    even = np.where(best, 0.5, 0.0)
    return Finding(
        "discrete states: weights of p^0 on the maximisers", "condition", "exact",
        error <= QUADRATURE_TIGHT.rtol, f"error {number(error)} at K lambda = 400",
        {"error": error}, mutants={"equal weights": float(np.abs(found - even).max()) > 1e-2},
    )  # fmt: skip


def flat_maxima(context: Context) -> Finding:
    """Plateaux: r = 1 on [-2, -1] and [0.5, 0.8], 0.4 elsewhere, under N(0, 1)."""
    plateaux = ((-2.0, -1.0), (0.5, 0.8))
    inside = np.array([ndtr(b) - ndtr(a) for a, b in plateaux])
    errors = []
    for strength in (10.0, 60.0):
        # by quadrature: every piece is smooth
        edges = [-12.0, *plateaux[0], *plateaux[1], 12.0]
        pieces = []
        for a, b in pairwise(edges):
            r = 1.0 if (a, b) in plateaux else 0.4
            box = Box(np.array([a]), np.array([b]), np.array([[0.5 * (a + b)]]))
            total = integrate(lambda y: np.exp(-0.5 * y**2), box, 1e-12).value[0]
            pieces.append(float(total) * np.exp(strength * (r - 1)))
        share = np.array([pieces[1], pieces[3]]) / sum(pieces)
        errors.append(float(np.abs(share - inside / inside.sum()).max()))
    return Finding(
        "flat maxima: weights of p^0 on the plateaux", "condition", "exact",
        errors[-1] <= QUADRATURE_TIGHT.rtol,
        f"error {number(errors[0])} at K lambda = 10, {number(errors[1])} at 60",
        {"errors": errors}, mutants={"at K lambda = 10 already": errors[0] > QUADRATURE_TIGHT.rtol},
    )  # fmt: skip


Z6_PARTS = (isolated_maxima, discrete_maxima, flat_maxima, laplace_weights)


def peak_region(cells: int) -> Region:
    """How far the claimed weights are from the true ones, over width ratio and K lambda."""
    ratios, strengths = (
        np.geomspace(0.4, 2.5, max(cells, 15)),
        np.geomspace(10, 1000, max(cells, 15)),
    )
    y = np.linspace(-5.0, 5.0, 20001)
    log_p = _log_base(y[:, None])
    centres = PEAKS[1][0][:, 0]
    claimed = restricted(1)[0]
    errors = np.empty((len(ratios), len(strengths)))
    for i, ratio in enumerate(ratios):
        widths = 0.25 * np.array([np.sqrt(ratio), 1 / np.sqrt(ratio)])
        r = np.exp(-0.5 * ((y[:, None] - centres) / widths) ** 2).sum(1)
        for j, strength in enumerate(strengths):
            density = np.exp(log_p + strength * (r - r.max()))
            errors[i, j] = abs(density[y < 0].sum() / density.sum() - claimed)
    return Region(
        "two isolated maxima: true share of one against p(x_i)", "ratio of the peaks' widths",
        ratios, "K lambda", strengths, errors, "error of the share", "xy",
    )  # fmt: skip


# --- Z8


def two_kl_form(s: AtomSetting, share: float, tilt: float) -> Array:
    """p_k^share p_0^(1 - share) exp(tilt m)/Z."""
    log_p = share * np.log(s.p_k) + (1 - share) * np.log(s.p_0) + tilt * s.m
    parts = np.exp(log_p - log_p.max())
    return np.asarray(parts / parts.sum())


def two_kl_optimum(s: AtomSetting) -> Array:
    rule = TwoKL(s.eta_0, s.eta_1)
    return two_kl_form(s, rule.rate, rule.lam)


def _biggest(s: AtomSetting) -> float:
    return 1.0 / len(s.m)


def first_variation(context: Context) -> Finding:
    """Densities: along p exp(eps phi)/Z the objective is greatest at eps = 0."""
    dims = (1,) if context.profile.name == "fast" else (1, 2)
    worst, where, killed = 0.0, "", {"w for 1 - w": False, "eta_0 + eta_1": False}
    for dim in dims:
        for seed in range(1 if len(dims) == 1 or dim == 2 else 2):
            case = random_case(Shape(dim, 2, 4.0, "bumps", 0.3, 1), seed)
            other = random_case(Shape(dim, 2, 4.0, "linear", 0.3, 1), seed + 50)
            eta_0, eta_1 = 1.7, 0.6
            w, lam = eta_0 / (eta_0 + eta_1), eta_0 * eta_1 / (eta_0 + eta_1)
            shift = _offset(case, other, w, lam, eta_0, eta_1)
            if abs(shift) >= worst:
                worst, where = abs(shift), f"d = {dim}"
            wrong = {"w for 1 - w": (1 - w, lam), "eta_0 + eta_1": (w, eta_0 + eta_1)}
            for name, (share, tilt) in (wrong if dim == 1 else {}).items():
                off = abs(_offset(case, other, share, tilt, eta_0, eta_1))
                killed[name] = killed[name] or off > QUADRATURE.rtol
    return Finding(
        "densities: the maximum along a direction is at the closed form", "claim", "exact",
        worst <= QUADRATURE.rtol, f"maximum within {number(worst)} of eps = 0",
        {"offset": worst}, where, mutants=killed,
    )  # fmt: skip


def _offset(
    case: object, other: object, share: float, tilt: float, eta_0: float, eta_1: float
) -> float:
    """-J'(0)/J''(0): where the parabola of J(eps) has its maximum."""
    log_0, log_k, reward = case.log_density, other.log_density, case.reward  # type: ignore[attr-defined]
    one, two = case.density().region, other.density().region  # type: ignore[attr-defined]
    box = Box(
        np.minimum(one.lower, two.lower), np.maximum(one.upper, two.upper),
        np.concatenate([one.points, two.points]),
    )  # fmt: skip
    radius = 0.4
    nodes = radius * np.cos(np.pi * (np.arange(9) + 0.5) / 9)

    def value(eps: float) -> float:
        def log_p(y: Array) -> Array:
            phi = np.sin(1.3 * y[:, 0] + 0.4)
            return np.asarray(
                share * log_k(y) + (1 - share) * log_0(y) + tilt * reward(y) + eps * phi
            )

        first = simplex.regularised_objective(log_p, log_k, reward, eta_1, box)
        return first + simplex.regularised_objective(
            log_p, log_0, lambda y: 0 * y[:, 0], eta_0, box
        )

    poly = np.polynomial.Polynomial.fit(nodes, [value(float(e)) for e in nodes], 8)
    return float(-poly.deriv(1)(0.0) / poly.deriv(2)(0.0))


Z8_PARTS = (
    Identity(
        "atoms: closed form = numerical optimum",
        Atoms(),
        two_kl_optimum,
        lambda s: simplex.maximise_two_kl(s.m, s.p_k, s.p_0, s.eta_1, s.eta_0),
        {
            "w and 1 - w exchanged": lambda s: two_kl_form(
                s, 1 - s.share, TwoKL(s.eta_0, s.eta_1).lam
            ),
            "lambda = eta_0 + eta_1": lambda s: two_kl_form(s, s.share, s.eta_0 + s.eta_1),
            "eta_0 only": lambda s: two_kl_form(s, 0.0, s.eta_0),
        },
        _biggest,
        dims=(1,),
    ),
    first_variation,
)

# --- Z9 and Z10


def iterated(s: AtomSetting) -> Array:
    """The optimisation, epoch after epoch, from p_0."""
    p = s.p_0
    for _ in range(s.epochs):
        p = simplex.maximise_two_kl(s.m, p / p.sum(), s.p_0, s.eta_1, s.eta_0)
    return p


def tilted_start(s: AtomSetting, tilt: float) -> Array:
    """p_0 exp(tilt m)/Z."""
    return two_kl_form(s, 0.0, tilt)


def anchored_elsewhere(s: AtomSetting) -> Array:
    """The optimisation, epoch after epoch, from p_k, anchored at p_0."""
    p = s.p_k
    for _ in range(s.epochs):
        p = simplex.maximise_two_kl(s.m, p / p.sum(), s.p_0, s.eta_1, s.eta_0)
    return p


def pulled(s: AtomSetting, epochs: int) -> Array:
    """p_k^(w^k) p_0^(1 - w^k) exp(B_k m)/Z."""
    rule = TwoKL(s.eta_0, s.eta_1)
    return two_kl_form(s, 1 - rule.pull(epochs), rule.effective_tilt(epochs))


# The model starts from one law (sampled without guidance), the anchor is another.
OTHER_ANCHOR = Identity(
    "from p^0, anchored to another law p_ref: p^0^(w^k) p_ref^(1 - w^k) exp(B_k m)/Z",
    Atoms(),
    lambda s: pulled(s, s.epochs),
    anchored_elsewhere,
    {
        "anchored where it starts": lambda s: two_kl_form(
            s, 1.0, TwoKL(s.eta_0, s.eta_1).effective_tilt(s.epochs)
        ),
        "the anchor at once": lambda s: two_kl_form(
            s, 0.0, TwoKL(s.eta_0, s.eta_1).effective_tilt(s.epochs)
        ),
        "one epoch more": lambda s: pulled(s, s.epochs + 1),
    },
    _biggest,
    dims=(1,),
    share=0.3,
)


def limit_of_iteration(context: Context) -> Finding:
    """k to infinity: p_0 exp(eta_0 m)/Z whatever eta_1, at rate w."""
    s = Atoms().draw(1, 4)
    worst, rates = 0.0, {}
    for eta_1 in (0.5, 2.0):
        p, gaps = s.p_0, []
        limit = tilted_start(s, 1.5)
        w = 1.5 / (1.5 + eta_1)
        epochs = int(np.ceil(-30 / np.log(w)))
        for _ in range(epochs):
            p = simplex.maximise_two_kl(s.m, p / p.sum(), s.p_0, eta_1, 1.5)
            gaps.append(float(np.abs(p - limit).max()))
        worst = max(worst, gaps[-1])
        late = max(2, epochs // 2)
        rates[f"{eta_1:g}"] = [float((gaps[late] / gaps[late - 2]) ** 0.5), w]
    wrong = float(np.abs(p - tilted_start(s, 2.0)).max())
    off = max(abs(a - b) for a, b in rates.values())
    return Finding(
        "limit p^0 exp(eta_0 m)/Z, whatever eta_1; rate w", "claim", "exact",
        worst <= QUADRATURE_TIGHT.rtol and off <= 1e-3,
        f"limit within {number(worst)} for eta_1 = 0.5 and 2; rates "
        + ", ".join(f"{a:.5f} ({b:.5f} stated)" for a, b in rates.values()),
        {"error": worst, "rates": rates}, mutants={"eta_1 in the limit": wrong > 1e-3},
    )  # fmt: skip


Z9_PARTS = (
    Identity(
        "after k epochs p^0 exp(eta_0 (1 - w^k) m)/Z",
        Atoms(),
        lambda s: tilted_start(s, TwoKL(s.eta_0, s.eta_1).effective_tilt(s.epochs)),
        iterated,
        {
            "k lambda: no anchor": lambda s: tilted_start(
                s, s.epochs * TwoKL(s.eta_0, s.eta_1).lam
            ),
            "eta_0 at once": lambda s: tilted_start(s, s.eta_0),
            "one epoch more": lambda s: tilted_start(
                s, TwoKL(s.eta_0, s.eta_1).effective_tilt(s.epochs + 1)
            ),
        },
        _biggest,
        dims=(1,),
        share=0.3,
    ),
    limit_of_iteration,
)
