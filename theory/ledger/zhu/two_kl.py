"""zhu, Z8, Z9 and what Z10 needs of them: the problem with two KL penalties, and its iteration."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.core import Array, Context, Finding, Identity, Tally, number
from theory.ledger.oracle import Region as Box
from theory.ledger.oracle import simplex
from theory.ledger.settings.atoms import Atoms, AtomSetting
from theory.ledger.settings.plane import PlaneProblem
from theory.ledger.settings.random import Shape, random_case
from theory.recursion import TwoKL

# --- Z8


def two_kl_form(s: AtomSetting, share: float, tilt: float) -> Array:
    """p_k^share p_0^(1 - share) exp(tilt m)/Z."""
    return np.asarray(softmax(share * np.log(s.p_k) + (1 - share) * np.log(s.p_0) + tilt * s.m))


def two_kl_optimum(s: AtomSetting) -> Array:
    rule = TwoKL(s.eta_0, s.eta_1)
    return two_kl_form(s, rule.rate, rule.lam)


def _biggest(s: AtomSetting) -> float:
    return 1.0 / len(s.m)


def first_variation(context: Context) -> Finding:
    """Densities: along p exp(eps phi)/Z the objective is greatest at eps = 0."""
    dims = context.choose((1,), (1, 2))
    eta_0, eta_1 = 1.7, 0.6
    w, lam = eta_0 / (eta_0 + eta_1), eta_0 * eta_1 / (eta_0 + eta_1)
    wrong = {"w for 1 - w": (1 - w, lam), "eta_0 + eta_1": (w, eta_0 + eta_1)}
    tally = Tally(QUADRATURE, *wrong)
    for dim in dims:
        for seed in range(1 if len(dims) == 1 or dim == 2 else 2):
            case = random_case(Shape(dim, 2, 4.0, "bumps", 0.3, 1), seed)
            other = random_case(Shape(dim, 2, 4.0, "linear", 0.3, 1), seed + 50)
            tally.add(abs(_offset(case, other, w, lam, eta_0, eta_1)), f"d = {dim}")
            for name, (share, tilt) in (wrong if dim == 1 and seed == 0 else {}).items():
                tally.add(abs(_offset(case, other, share, tilt, eta_0, eta_1)), wrong=name)
    return Finding(
        name="densities: the maximum along a direction is at the closed form",
        role="claim",
        kind="exact",
        holds=tally.error <= QUADRATURE.rtol,
        figure=f"maximum within {number(tally.error)} of eps = 0",
        numbers={"offset": tally.error},
        worst=tally.worst,
        mutants=tally.mutants,
    )


def _offset(
    case: PlaneProblem, other: PlaneProblem, share: float, tilt: float, eta_0: float, eta_1: float
) -> float:
    """-J'(0)/J''(0): where the parabola of J(eps) has its maximum."""
    log_0, log_k = case.log_density, other.log_density
    one, two = case.density().region, other.density().region
    box = Box(
        np.minimum(one.lower, two.lower),
        np.maximum(one.upper, two.upper),
        np.concatenate([one.points, two.points]),
    )
    nodes = 0.4 * np.cos(np.pi * (np.arange(9) + 0.5) / 9)

    def value(eps: float) -> float:
        def log_p(y: Array) -> Array:
            phi = np.sin(1.3 * y[:, 0] + 0.4)
            return np.asarray(
                share * log_k(y) + (1 - share) * log_0(y) + tilt * case.reward(y) + eps * phi
            )

        return simplex.penalised(log_p, case.reward, [(log_k, eta_1), (log_0, eta_0)], box)

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


def _carried_on(s: AtomSetting, p: Array) -> Array:
    """The optimisation, epoch after epoch, from p, anchored at p_0."""
    for _ in range(s.epochs):
        p = simplex.maximise_two_kl(s.m, p / p.sum(), s.p_0, s.eta_1, s.eta_0)
    return p


def iterated(s: AtomSetting) -> Array:
    """From p_0."""
    return _carried_on(s, s.p_0)


def tilted_start(s: AtomSetting, tilt: float) -> Array:
    """p_0 exp(tilt m)/Z."""
    return two_kl_form(s, 0.0, tilt)


def pulled(s: AtomSetting, epochs: int) -> Array:
    """p_k^(w^k) p_0^(1 - w^k) exp(B_k m)/Z."""
    rule = TwoKL(s.eta_0, s.eta_1)
    return two_kl_form(s, 1 - rule.pull(epochs), rule.effective_tilt(epochs))


# The model starts from one law (sampled without guidance), the anchor is another.
OTHER_ANCHOR = Identity(
    "from p^0, anchored to another law p_ref: p^0^(w^k) p_ref^(1 - w^k) exp(B_k m)/Z",
    Atoms(),
    lambda s: pulled(s, s.epochs),
    lambda s: _carried_on(s, s.p_k),
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
    return Finding(
        name="limit p^0 exp(eta_0 m)/Z, whatever eta_1; rate w",
        role="claim",
        kind="exact",
        holds=worst <= QUADRATURE_TIGHT.rtol and max(abs(a - b) for a, b in rates.values()) <= 1e-3,
        figure=f"limit within {number(worst)} for eta_1 = 0.5 and 2; rates "
        + ", ".join(f"{a:.5f} ({b:.5f} stated)" for a, b in rates.values()),
        numbers={"error": worst, "rates": rates},
        mutants={"eta_1 in the limit": wrong > 1e-3},
    )


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
