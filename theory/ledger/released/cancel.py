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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from theory.common.tolerances import ALGEBRA
from theory.ledger.core.claim import Claim, Context, Finding, extra, number
from theory.ledger.core.identity import Identity
from theory.ledger.core.region import Region
from theory.ledger.liu.identities import covariance
from theory.ledger.liu.laws import PROBLEMS, QUICK
from theory.ledger.oracle import conditional
from theory.ledger.oracle.integrals.integrate import Array
from theory.ledger.oracle.released import loss as released_loss
from theory.ledger.oracle.released.loss import Sample
from theory.ledger.settings.lemma import Lemmas, LemmaSetting
from theory.ledger.settings.problems import Problems, Setting
from theory.methods import Policy, ProblemTask
from theory.methods.matching.nft import NFT, Normaliser
from theory.methods.matching.reward_mapping import SPREAD
from theory.problems.problem import Problem, load_problem
from theory.tilts.conditional import reward_moments

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
        "x": torch.zeros_like(row), "t": torch.zeros(1, dtype=torch.float64), "cond": None,
        "v_old": row, "y": torch.as_tensor(s.y)[None], "v_ref": torch.as_tensor(s.other)[None],
        "r": torch.tensor([r], dtype=torch.float64),
    }  # fmt: skip
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


def _sample(s: LemmaSetting, r: Fraction, normalised: bool) -> Sample:
    return Sample(s.exact["v"], s.exact["y"], r, Fraction(s.b), normalised)


def _plain_gap(s: LemmaSetting) -> Array:
    return s.v - s.y


def _value_scale(normaliser: Normaliser) -> Callable[[LemmaSetting], float]:
    def size(s: LemmaSetting) -> float:
        """The terms that cancel where r is far outside [0, 1]."""
        gap = _plain_gap(s)
        unit = np.abs(gap).mean() if normaliser == "x1" else 1.0
        return float((1 + abs(s.r)) * PREFACTOR / s.b * np.sum(gap**2) / unit)

    return size


def _gradient_scale(normaliser: Normaliser) -> Callable[[LemmaSetting], float]:
    def size(s: LemmaSetting) -> float:
        gap = np.abs(_plain_gap(s))
        unit = gap.mean() if normaliser == "x1" else 1.0
        return float((1 + abs(s.r)) * 2 * PREFACTOR * gap.max() / unit)

    return size


def _second_value(normalised: bool) -> Callable[[LemmaSetting], Array]:
    """At r = 1/2, whatever the setting's r."""

    def second(s: LemmaSetting) -> Array:
        return np.array(
            float(released_loss.value(_sample(s, Fraction(1, 2), normalised), s.exact["v"]))
        )

    return second


def _second_gradient(normalised: bool) -> Callable[[LemmaSetting], Array]:
    def second(s: LemmaSetting) -> Array:
        slope = released_loss.gradient(_sample(s, Fraction(s.r), normalised), s.exact["v"])
        return np.array([float(q) for q in slope] * 2)

    return second


def stated_gradient(s: LemmaSetting, normaliser: Normaliser, pull: float | None = None) -> Array:
    """10 (2r - 1) (x1_old - y) / w: nft_beta cancels against the prefactor."""
    gap, factor = _plain_gap(s), 2 * s.r - 1 if pull is None else pull
    unit = np.abs(gap).mean() if normaliser == "x1" else 1.0
    return np.asarray(2 * PREFACTOR * factor * gap / unit)


def _of_value(normaliser: Normaliser) -> Identity[LemmaSetting]:
    name = "w = 1" if normaliser == "off" else "adaptive normaliser"
    return Identity(
        f"value at any r, against r = 1/2 ({name})",
        Lemmas(),
        lambda s: value(s, s.r, normaliser),
        _second_value(normaliser == "x1"),
        {
            "a hundredth of the way to another student": lambda s: value(
                s, s.r, normaliser, away=0.01
            ),
            "the penalty left in": lambda s: value(s, s.r, normaliser, kl_weight=1.0),
            "the other normaliser": lambda s: value(
                s, s.r, NORMALISERS[1 - NORMALISERS.index(normaliser)]
            ),
        },
        _value_scale(normaliser),
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
        _second_gradient(normaliser == "x1"),
        {
            "without the reward": lambda s: both(s, stated_gradient(s, normaliser, 1.0)),
            "r for 2r - 1": lambda s: both(s, stated_gradient(s, normaliser, s.r)),
            "times nft_beta": lambda s: both(s, s.b * stated_gradient(s, normaliser)),
            "at r = 1/2": lambda s: np.tile(gradient(s, 0.5, normaliser), 2),
        },
        _gradient_scale(normaliser),
        role="instead",
        tier=ALGEBRA,
    )


def cancels_out(context: Context) -> Finding:
    """Of value and gradient together: the largest change as r goes from 0 to 1, relative to the
    terms; and the smallest counterexample."""
    settings = [Lemmas().draw(d, context.seed + d) for d in context.profile.problems]
    values, slopes = (
        max(
            float(np.max(np.abs(of(s, 1.0, n) - of(s, 0.0, n)))) / size(n)(s)
            for s in settings
            for n in NORMALISERS
        )
        for of, size in ((value, _value_scale), (gradient, _gradient_scale))
    )
    one, zero = np.ones(1), np.zeros(1)
    s = LemmaSetting(zero, one, zero, zero, 1.0, 1.0)
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
        "value and gradient, r from 0 to 1", "claim", "exact",
        max(values, slopes) <= ALGEBRA.rtol,
        f"the value changes by {number(values)}, the gradient by {number(slopes)} of its terms",
        {"value": values, "gradient": slopes, "counterexample": found},
        f"d = 1, x1_old = 0, y = 1, nft_beta = 1, w = 1: {shown}",
        mutants={
            # The comparison finds nothing where r is left out, and sees it in a value elsewhere.
            "r left out of the gradient": bool(ALGEBRA.holds(gradient(s, 0.5, "off"), zero, 1.0)),
            "value half a unit from the old copy": not ALGEBRA.holds(
                value(_moved(s), 1.0, "off", 1.0), value(_moved(s), 0.0, "off", 1.0)
            ),
        },
    )  # fmt: skip


def _moved(s: LemmaSetting) -> LemmaSetting:
    """The same with a student half a unit away."""
    return LemmaSetting(s.v, s.y, s.v + 0.5, s.other, s.r, s.b)


# --- given X_t = x: theory's closed forms, and quadrature

SETTINGS = Problems()


def spread_of_target(s: Setting) -> float:
    """tr Cov(Y | x), Y = X_1 - X_0: Cov(X_1 | x) / (1 - t)^2."""
    inside = s.problem.base_field.posterior_covariance(s.point, s.t)[0]
    return float(torch.diagonal(inside).sum()) / (1 - s.t) ** 2


def branch_mean(s: Setting, share: float = 1.0) -> float:
    """tr Cov(Y | x) + b^2 |D|^2 at the student that is D = x away from the old copy."""
    return spread_of_target(s) + share * s.nft_beta**2 * float(s.x @ s.x)


def mean_values(s: Setting, share: float = 1.0, pull: float = -4.0) -> Array:
    """E|v+ - Y|^2, E|v- - Y|^2 and the mean loss there: what the reward adds is -4 b D.C."""
    mean = branch_mean(s, share)
    return np.array([mean, mean, mean + pull * s.nft_beta * float(s.x @ covariance(s))])


def least_value(s: Setting, factor: float = 4.0) -> Array:
    """tr Cov(Y | x) - 4 |C|^2: nft_beta has gone."""
    c = covariance(s)
    return np.array(spread_of_target(s) - factor * float(c @ c))


def _least_by_quadrature(s: Setting) -> Array:
    best = conditional.nft_minimiser(s.case, s.x, s.at, s.nft_beta)
    step = best - conditional.velocity(s.case, s.x, s.at)
    return np.array(released_loss.branch_means(s.case, s.x, s.at, s.nft_beta, step)[2])


def _mean_size(s: Setting) -> float:
    return 1.0 + branch_mean(s)


GIVEN_PARTS = (
    Identity(
        "mean gradient -4 beta Cov(r, Y | x)",
        SETTINGS,
        lambda s: -4 * s.nft_beta * covariance(s),
        lambda s: released_loss.gradient_at_old(s.case, s.x, s.at, s.nft_beta),
        {
            "no reward in it": lambda s: 0 * covariance(s),
            "sign": lambda s: 4 * s.nft_beta * covariance(s),
            "2 for 4": lambda s: -2 * s.nft_beta * covariance(s),
        },
        lambda s: 1.0 + 4 * s.nft_beta * s.spread,
        role="instead",
        dims=(1, 2),
    ),
    Identity(
        "mean |v+ - Y|² = mean |v- - Y|², at any student",
        SETTINGS,
        mean_values,
        lambda s: released_loss.branch_means(s.case, s.x, s.at, s.nft_beta, s.x),
        {
            "the step left out": lambda s: mean_values(s, 0.0),
            "2 for 4 in what the reward adds": lambda s: mean_values(s, pull=-2.0),
            "nothing added": lambda s: mean_values(s, pull=0.0),
        },
        _mean_size,
        role="instead",
        dims=(1, 2),
        share=0.6,
    ),
    Identity(
        "least mean loss tr Cov(Y | x) - 4 |C|²",
        SETTINGS,
        least_value,
        _least_by_quadrature,
        {
            "2 for 4": lambda s: least_value(s, 2.0),
            "4/beta for 4": lambda s: least_value(s, 4 / s.nft_beta),
            "nothing falls": lambda s: least_value(s, 0.0),
        },
        _mean_size,
        role="instead",
        dims=(1, 2),
        share=0.6,
    ),
)

# --- how much of the logged value can move

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
TIMES = 0.5 * (NODES + 1)


@dataclass(frozen=True)
class Sizes:
    """floor = E[tr Cov(Y | X_t)], pull = E|C|² for r in units of its standard deviation, over X_t
    and over t on [0, 1] by weights; tightest: the largest |C|² / (Var(r | x) tr Cov(Y | x))."""

    floor: float
    pull: float
    tightest: float

    @property
    def fall(self) -> float:
        """What the released mapping lets the loss fall by, as a share of it."""
        return 4 * self.pull / SPREAD**2 / self.floor


def sizes(problem: Problem, draws: int) -> Sizes:
    """Times weigh as (1 - t)^2, as the loss on predictions of the data has them."""
    generator = torch.Generator().manual_seed(7)
    floor = pull = tightest = 0.0
    spread = reward_moments(problem.base, problem.moments)[1]
    for t, weight in zip(TIMES.tolist(), (0.5 * WEIGHTS).tolist(), strict=True):
        x1 = problem.base.sample(draws, generator)
        noise = torch.randn(x1.shape, dtype=torch.float64, generator=generator)
        x = t * x1 + (1 - t) * noise
        post = problem.base_field.posterior(x, t)
        trace = torch.diagonal(post.covariance(), dim1=-2, dim2=-1).sum(-1)  # (1 - t)^2 tr Cov(Y)
        c = (1 - t) * problem.conditional_reward.covariance(x, t) / spread
        series = problem.moments.series(post, 2)
        inside = (2 * series.F[..., 2] - series.F[..., 1] ** 2) / spread**2
        floor += weight * float(trace.mean())
        pull += weight * float((c**2).sum(-1).mean())
        tightest = max(tightest, float(((c**2).sum(-1) / (inside * trace)).max()))
    return Sizes(floor, pull, tightest)


@extra
def what_moves(context: Context) -> Finding:
    """At the released mapping (spread 1/10 of r, nothing clipped): the share of the loss's value by
    which it can fall, and how far apart v+ and v- are there."""
    fast = context.profile.name == "fast"
    names = QUICK if fast else PROBLEMS
    found = {name: sizes(load_problem(name), 128 if fast else 1024) for name in names}
    most = max(found, key=lambda k: found[k].fall)
    fall, tightest = found[most].fall, max(s.tightest for s in found.values())
    return Finding(
        "how much of the logged value can ever move", "support", "exact",
        tightest <= 1 + ALGEBRA.rtol,
        f"under the released mapping the loss falls by {100 * fall:.2f} % of its value on the way "
        f"to its optimum ({most}, the most of {len(found)} problems), and |v+ - v-|² there is "
        f"{400 * fall:.1f} % of it; at a point never more than 4 Var(r | x): |C|² reaches "
        f"{number(tightest)} of Var(r | x) tr Cov(Y | x)",
        {"fall": {k: s.fall for k, s in found.items()}, "tightest": tightest}, most,
        mutants={"half the variance would do": tightest > 0.5},
    )  # fmt: skip


# --- region: away from the old copy


def cancel_region(cells: int) -> Region:
    """What the reward adds to the mean loss, relative to the loss, at a student a share s of the
    way to the optimum: 8 s k / (1 + 4 s² k), k = E|C|² / E tr Cov(Y|X_t), on the note's problem."""
    spreads, shares = np.geomspace(0.02, 0.5, cells), np.geomspace(0.01, 1.0, cells)
    found = sizes(load_problem("note_1d"), 1024)
    k = found.pull / found.floor * spreads[:, None] ** 2
    errors = 8 * shares * k / (1 + 4 * shares**2 * k)
    return Region(
        "the reward's part of the mean loss", "spread of the mapped reward", spreads,
        "share of the way to the optimum", shares, errors, "part of the loss", "xy",
    )  # fmt: skip


def parts() -> Sequence[Callable[[Context], Finding]]:
    of_samples = [make(n) for make in (_of_value, _of_gradient) for n in NORMALISERS]
    return (cancels_out, *of_samples, *GIVEN_PARTS, what_moves)


N2 = Claim(
    "N2",
    "released, its loss at the start of every epoch",
    "When student and old copy coincide, the reward cancels out of the loss: of its value, and of "
    "its gradient.",
    "One sample, prefactor 5/nft_beta, the adaptive normaliser held fixed as in the code; given "
    "X_t, v_old is the velocity of the data.",
    "the loss of theory.methods.matching.nft by autograd; closed forms of Gaussian sums",
    "exact rational arithmetic of the loss and its differences; quadrature of the loss given X_t",
    "conditional",
    "Of its value only. The gradient there is 10 (2r - 1)(x1_old - y)/w, whatever nft_beta: all "
    "that training goes by. What a log shows says little of it: |v+ - Y|² and |v- - Y|² have one "
    "mean at every student, and the loss can fall by 4 |Cov(r, Y|X_t)|² in all, at most 4 Var(r), "
    "4 % under the released mapping.",
    tuple(parts()),
    cancel_region,
)
