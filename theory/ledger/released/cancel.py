"""released, N2: what is left of the reward in the loss where student and old copy coincide.

Of one sample, with x1+- = x1_old +- b (x1 - x1_old), b = nft_beta, e = x1_old - y, D = x1 - x1_old:

    |x1+- - y|^2 = |e|^2 + b^2 |D|^2 +- 2 b D.e
    r |x1+ - y|^2 + (1 - r)|x1- - y|^2 = |e|^2 + b^2 |D|^2 + 2 b (2r - 1) D.e

so that at D = 0 the value |e|^2 has no r and the gradient 2 b (2r - 1) e has. Given X_t = x, with
v_old = E[Y|x] and C = Cov(r, Y|x): E|v+ - Y|^2 = E|v- - Y|^2 = tr Cov(Y|x) + b^2 |D|^2, the mean
gradient at D = 0 is -4 b C, and the mean loss at its minimum, D = 2 C / b, is
tr Cov(Y|x) - 4 |C|^2.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from theory.common.tolerances import ALGEBRA
from theory.ledger.core import Array, Claim, Context, Finding, Identity, Part, Region, extra, number
from theory.ledger.liu.laws import PROBLEMS, QUICK
from theory.ledger.oracle.released import loss as released_loss
from theory.ledger.released.cancel_given import GIVEN_PARTS, sizes
from theory.ledger.settings.lemma import Lemmas, LemmaSetting
from theory.methods import Policy, ProblemTask
from theory.methods.matching.nft import NFT, Normaliser
from theory.problems.problem import load_problem

PREFACTOR = 5.0  # the released code's, over nft_beta
NORMALISERS: tuple[Normaliser, ...] = ("off", "x1")

# --- one sample: theory's loss by autograd, and rationals


@lru_cache(maxsize=1)
def _task() -> ProblemTask:
    """Gives the loss its path; at t = 0 of the rectified flow x1 - y and v - Y are one."""
    return ProblemTask([load_problem("note_1d")], dtype=torch.float64)


def _loss(
    s: LemmaSetting, mu: Tensor, r: float, normaliser: Normaliser, kl_weight: float = 0.0
) -> Tensor:
    """(5/b) times theory.methods.matching.nft's loss at a student that predicts mu (d,)."""
    method = NFT(nft_beta=s.b, adaptive_normaliser=normaliser, kl_weight=kl_weight)
    row = torch.as_tensor(s.v)[None]
    batch = {
        "x": torch.zeros_like(row),
        "t": torch.zeros(1, dtype=torch.float64),
        "cond": None,
        "v_old": row,
        "y": torch.as_tensor(s.y)[None],
        "v_ref": torch.as_tensor(s.other)[None],
        "r": torch.tensor([r], dtype=torch.float64),
    }
    policy = Policy(lambda x, t, cond=None: mu[None])
    return PREFACTOR / s.b * method.loss(policy, _task(), batch)[0][0]  # type: ignore[arg-type]


def value(
    s: LemmaSetting, r: float, normaliser: Normaliser, away: float = 0.0, kl_weight: float = 0.0
) -> Array:
    """The loss at a student `away` of the way from the old copy to mu."""
    mu = torch.as_tensor(s.v + away * (s.mu - s.v))
    return np.array(float(_loss(s, mu, r, normaliser, kl_weight)))


def gradient(s: LemmaSetting, r: float, normaliser: Normaliser) -> Array:
    """Its gradient in the student's prediction where that is the old copy's, (d,)."""
    mu = torch.tensor(s.v, requires_grad=True)
    (slope,) = torch.autograd.grad(_loss(s, mu, r, normaliser), mu)
    return slope.numpy()


def _sample(s: LemmaSetting, r: Fraction, normalised: bool) -> released_loss.Sample:
    return released_loss.Sample(s.exact["v"], s.exact["y"], r, Fraction(s.b), normalised)


def _weight(s: LemmaSetting, normaliser: Normaliser) -> float:
    """w: mean |e| with the normaliser of x_1, else 1."""
    return float(np.abs(s.v - s.y).mean()) if normaliser == "x1" else 1.0


def _value_scale(s: LemmaSetting, normaliser: Normaliser) -> float:
    """The terms that cancel where r is far outside [0, 1]."""
    size = (1 + abs(s.r)) * PREFACTOR / s.b * np.sum((s.v - s.y) ** 2)
    return float(size / _weight(s, normaliser))


def _gradient_scale(s: LemmaSetting, normaliser: Normaliser) -> float:
    return float((1 + abs(s.r)) * 2 * PREFACTOR * np.abs(s.v - s.y).max() / _weight(s, normaliser))


def _second_value(s: LemmaSetting, normalised: bool) -> Array:
    """At r = 1/2, whatever the setting's r."""
    sample = _sample(s, Fraction(1, 2), normalised)
    return np.array(float(released_loss.value(sample, s.exact["v"])))


def _second_gradient(s: LemmaSetting, normalised: bool) -> Array:
    slope = released_loss.gradient(_sample(s, Fraction(s.r), normalised), s.exact["v"])
    return np.array([float(q) for q in slope] * 2)


def stated_gradient(s: LemmaSetting, normaliser: Normaliser, pull: float | None = None) -> Array:
    """10 (2r - 1) (x1_old - y) / w: nft_beta cancels against the prefactor."""
    factor = 2 * s.r - 1 if pull is None else pull
    return np.asarray(2 * PREFACTOR * factor * (s.v - s.y) / _weight(s, normaliser))


def _of_value(normaliser: Normaliser) -> Identity[LemmaSetting]:
    name = "w = 1" if normaliser == "off" else "adaptive normaliser"
    return Identity(
        f"value at any r, against r = 1/2 ({name})",
        Lemmas(),
        lambda s: value(s, s.r, normaliser),
        lambda s: _second_value(s, normaliser == "x1"),
        {
            "a hundredth of the way to another student": lambda s: value(
                s, s.r, normaliser, away=0.01
            ),
            "the penalty left in": lambda s: value(s, s.r, normaliser, kl_weight=1.0),
            "the other normaliser": lambda s: value(
                s, s.r, NORMALISERS[1 - NORMALISERS.index(normaliser)]
            ),
        },
        lambda s: _value_scale(s, normaliser),
        role="condition",
        tier=ALGEBRA,
    )


def _of_gradient(normaliser: Normaliser) -> Identity[LemmaSetting]:
    name = "w = 1" if normaliser == "off" else "adaptive normaliser held fixed"

    def both(s: LemmaSetting, stated: Array) -> Array:
        """The formula, and theory's loss by autograd."""
        return np.concatenate([stated, gradient(s, s.r, normaliser)])

    return Identity(
        f"gradient 10 (2r - 1)(x1_old - y)/w ({name})",
        Lemmas(),
        lambda s: both(s, stated_gradient(s, normaliser)),
        lambda s: _second_gradient(s, normaliser == "x1"),
        {
            "without the reward": lambda s: both(s, stated_gradient(s, normaliser, 1.0)),
            "r for 2r - 1": lambda s: both(s, stated_gradient(s, normaliser, s.r)),
            "times nft_beta": lambda s: both(s, s.b * stated_gradient(s, normaliser)),
            "at r = 1/2": lambda s: np.tile(gradient(s, 0.5, normaliser), 2),
        },
        lambda s: _gradient_scale(s, normaliser),
        role="instead",
        tier=ALGEBRA,
    )


def cancels_out(context: Context) -> Finding:
    """Of value and gradient together: the largest change as r goes from 0 to 1, relative to the
    terms; and the smallest counterexample."""
    settings = [Lemmas().draw(d, context.seed + d) for d in context.profile.problems]
    values, slopes = (
        max(
            float(np.max(np.abs(of(s, 1.0, n) - of(s, 0.0, n)))) / size(s, n)
            for s in settings
            for n in NORMALISERS
        )
        for of, size in ((value, _value_scale), (gradient, _gradient_scale))
    )
    zero = np.zeros(1)
    s = LemmaSetting(zero, np.ones(1), zero, zero, 1.0, 1.0)
    away = replace(s, mu=s.v + 0.5)
    found = {
        f"r = {r:g}": {
            "value": float(value(s, r, "off")),
            "gradient": float(gradient(s, r, "off")[0]),
        }
        for r in (0.0, 0.5, 1.0)
    }
    shown = "; ".join(
        f"{r}: value {v['value']:g}, gradient {v['gradient']:+g}" for r, v in found.items()
    )
    return Finding(
        name="value and gradient, r from 0 to 1",
        role="claim",
        kind="exact",
        holds=max(values, slopes) <= ALGEBRA.rtol,
        figure=(
            f"the value changes by {number(values)}, the gradient by {number(slopes)} of its terms"
        ),
        numbers={"value": values, "gradient": slopes, "counterexample": found},
        worst=f"d = 1, x1_old = 0, y = 1, nft_beta = 1, w = 1: {shown}",
        mutants={
            # The comparison finds nothing where r is left out, and sees it in a value elsewhere.
            "r left out of the gradient": bool(ALGEBRA.holds(gradient(s, 0.5, "off"), zero, 1.0)),
            "value half a unit from the old copy": not ALGEBRA.holds(
                value(away, 1.0, "off", 1.0), value(away, 0.0, "off", 1.0)
            ),
        },
    )


# --- how much of the logged value can move


@extra
def what_moves(context: Context) -> Finding:
    """At the released mapping (spread 1/10 of r, nothing clipped): the share of the loss's value by
    which it can fall, and how far apart v+ and v- are there."""
    names = context.choose(QUICK, PROBLEMS)
    found = {name: sizes(load_problem(name), context.choose(128, 1024)) for name in names}
    most = max(found, key=lambda k: found[k].fall)
    fall, tightest = found[most].fall, max(s.tightest for s in found.values())
    return Finding(
        name="how much of the logged value can ever move",
        role="support",
        kind="exact",
        holds=tightest <= 1 + ALGEBRA.rtol,
        figure=(
            f"under the released mapping the loss falls by {100 * fall:.2f} % of its value on the "
            f"way to its optimum ({most}, the most of {len(found)} problems), and |v+ - v-|² "
            f"there is {400 * fall:.1f} % of it; at a point never more than 4 Var(r | x): |C|² "
            f"reaches {number(tightest)} of Var(r | x) tr Cov(Y | x)"
        ),
        numbers={"fall": {k: s.fall for k, s in found.items()}, "tightest": tightest},
        worst=most,
        mutants={"half the variance would do": tightest > 0.5},
    )


# --- region: away from the old copy


def cancel_region(cells: int) -> Region:
    """What the reward adds to the mean loss, relative to the loss, at a student a share s of the
    way to the optimum: 8 s k / (1 + 4 s² k), k = E|C|² / E tr Cov(Y|X_t), on the note's problem."""
    spreads, shares = np.geomspace(0.02, 0.5, cells), np.geomspace(0.01, 1.0, cells)
    found = sizes(load_problem("note_1d"), 1024)
    k = found.pull / found.floor * spreads[:, None] ** 2
    return Region(
        "the reward's part of the mean loss",
        "spread of the mapped reward",
        spreads,
        "share of the way to the optimum",
        shares,
        8 * shares * k / (1 + 4 * shares**2 * k),
        "part of the loss",
        "xy",
    )


N2_PARTS: tuple[Part, ...] = (
    cancels_out,
    *(make(n) for make in (_of_value, _of_gradient) for n in NORMALISERS),
    *GIVEN_PARTS,
    what_moves,
)

N2 = Claim(
    id="N2",
    source="released, its loss at the start of every epoch",
    statement=(
        "When student and old copy coincide, the reward cancels out of the loss: of its value, "
        "and of its gradient."
    ),
    assumptions=(
        "One sample, prefactor 5/nft_beta, the adaptive normaliser held fixed as in the code; "
        "given X_t, v_old is the velocity of the data."
    ),
    first="the loss of theory.methods.matching.nft by autograd; closed forms of Gaussian sums",
    second=(
        "exact rational arithmetic of the loss and its differences; quadrature of the loss given "
        "X_t"
    ),
    recorded="conditional",
    remark=(
        "Of its value only. The gradient there is 10 (2r - 1)(x1_old - y)/w, whatever nft_beta: "
        "all that training goes by. What a log shows says little of it: |v+ - Y|² and |v- - Y|² "
        "have one mean at every student, and the loss can fall by 4 |Cov(r, Y|X_t)|² in all, at "
        "most 4 Var(r), 4 % under the released mapping."
    ),
    parts=N2_PARTS,
    region=cancel_region,
)
