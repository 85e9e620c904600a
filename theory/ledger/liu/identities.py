"""liu, L1 to L7 and L11: theory's fields against the oracle, at random problems and points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from theory import ExactField, Exponential, TruncatedExponential
from theory.ledger.core import Array, Identity, row
from theory.ledger.oracle import conditional, couplings, importance
from theory.ledger.settings.couplings import Couplings, CouplingSetting
from theory.ledger.settings.problems import Problems, Setting

ANY = Problems()
POSITIVE = Problems(kinds=("bumps",))


# --- first routes: theory's closed forms at one point


def base_velocity(s: Setting) -> Array:
    return row(s.problem.base_field(s.point, s.t))


def mean_reward(s: Setting) -> float:
    return float(s.problem.conditional_reward.mean(s.point, s.t)[0])


def covariance(s: Setting) -> Array:
    return row(s.problem.conditional_reward.covariance(s.point, s.t))


@lru_cache(maxsize=1)
def _weighted_field(s: Setting) -> ExactField:
    """Made once for the claim and its wrong versions."""
    return s.problem.reward_weighted_field()


def weighted_velocity(s: Setting) -> Array:
    """vhat = E[r (X_1 - X_0) | x] / m: the tilt's own field where r > 0, else from the moments."""
    if s.case.kind == "bumps":
        return row(_weighted_field(s)(s.point, s.t))
    return base_velocity(s) + covariance(s) / mean_reward(s)


def guided(s: Setting, factor: float) -> Array:
    """v0 + factor m (vhat - v0)."""
    v0 = base_velocity(s)
    return v0 + factor * mean_reward(s) * (weighted_velocity(s) - v0)


def by_covariance(s: Setting, factor: float) -> Array:
    """v0 + factor Cov(r, X_1 - X_0 | x)."""
    return base_velocity(s) + factor * covariance(s)


# --- L1 to L6: the optimum and the slopes of velocities


def _l1_second(s: Setting) -> Array:
    return conditional.nft_minimiser(s.case, s.x, s.at, s.nft_beta)


def _l1_perturbation(sign: int) -> Callable[[Setting], Array]:
    """v0 +- nft_beta (v* - v0) of the numerical minimiser."""

    def second(s: Setting) -> Array:
        v0 = conditional.velocity(s.case, s.x, s.at)
        return v0 + sign * s.nft_beta * (_l1_second(s) - v0)

    return second


L1_PARTS = (
    Identity(
        "v* minimises the loss",
        ANY,
        lambda s: guided(s, 2 / s.nft_beta),
        _l1_second,
        {
            "1/beta for 2/beta": lambda s: guided(s, 1 / s.nft_beta),
            "m_t left out": lambda s: (
                base_velocity(s) + 2 / s.nft_beta * (weighted_velocity(s) - base_velocity(s))
            ),
            "sign of the step": lambda s: guided(s, -2 / s.nft_beta),
            "2 beta for 2/beta": lambda s: guided(s, 2 * s.nft_beta),
        },
        lambda s: 1.0 + 2 / s.nft_beta * s.spread,
        sampled=lambda s, n, rng: importance.nft_minimiser(
            importance.Draw(s.case, s.x, s.at, n, rng), s.nft_beta
        ),
    ),
    Identity(
        "v*+ = v0 + 2 m_t (vhat - v0)",
        ANY,
        lambda s: guided(s, 2.0),
        _l1_perturbation(1),
        {"2/beta for 2": lambda s: guided(s, 2 / s.nft_beta), "v*-": lambda s: guided(s, -2.0)},
        lambda s: 1.0 + 2 * s.spread,
        share=0.4,
    ),
    Identity(
        "v*- = v0 - 2 m_t (vhat - v0)",
        ANY,
        lambda s: guided(s, -2.0),
        _l1_perturbation(-1),
        {"v*+": lambda s: guided(s, 2.0)},
        lambda s: 1.0 + 2 * s.spread,
        share=0.4,
    ),
)

L2_PARTS = (
    Identity(
        "vhat = velocity of pi_1 r / Z",
        POSITIVE,
        lambda s: base_velocity(s) + covariance(s) / mean_reward(s),
        lambda s: conditional.velocity(s.case, s.x, s.at, lambda r: r),
        {
            # At the case's own scale: exp(r) of a large r has too many terms.
            "velocity of pi_1 exp(a r)": lambda s: row(
                s.problem.tilted_field(Exponential(s.case.scale))(s.point, s.t)
            ),
            "velocity of pi_1 (1 + r)": lambda s: row(
                s.problem.tilted_field(TruncatedExponential(1.0, 1))(s.point, s.t)
            ),
            "not divided by m_t": lambda s: base_velocity(s) + covariance(s),
        },
        sampled=lambda s, n, rng: importance.velocity(
            importance.Draw(s.case, s.x, s.at, n, rng), lambda r: r
        ),
        full_rank_kinds=("bumps",),
    ),
)


def _coupling_first(s: CouplingSetting) -> Array:
    return row(s.family.velocity_slope(s.point, s.t, s.a))


def _coupling_second(s: CouplingSetting) -> Array:
    """In the plane by quadrature along the fibre; nothing moves in the other directions."""
    joint, e = s.joint, s.joint.plane_dim
    return joint.frame[:, :e] @ couplings.velocity_slope(
        lambda a: lambda x0, x1: joint.log_joint(x0, x1, a),
        s.a,
        (joint.frame.T @ s.x)[:e],
        s.t,
        joint.region(s.a, reach=1.0),
    )


def _without_posterior_mean(s: CouplingSetting) -> Array:
    """Raw product in place of the covariance: the slope of the conditional mean's numerator."""
    family, h = s.family, 1e-6
    gap = family.velocity(s.point, s.t, s.a + h) - family.velocity(s.point, s.t, s.a - h)
    return row(gap / (2 * h) + family.velocity(s.point, s.t, s.a))


def coupling_parts(dependent: bool) -> tuple[Identity[CouplingSetting], ...]:
    """The covariance against the slope of quadrature velocities, for random families."""
    return (
        Identity(
            "slope = conditional covariance",
            Couplings(dependent),
            _coupling_first,
            _coupling_second,
            {
                "sign": lambda s: -_coupling_first(s),
                "product for covariance": _without_posterior_mean,
                "slope at a = 0 for the one at a": lambda s: row(
                    s.family.velocity_slope(s.point, s.t, 0.0 if s.a else 0.3)
                ),
            },
            share=0.4,
        ),
    )


def _tilted_covariance(s: Setting, a: float) -> Array:
    """Cov_a(X_1 - X_0, r | x) under the tilted base."""
    law = s.problem.tilt(Exponential(a)).law
    assert law is not None
    return row(replace(s.problem, base=law).conditional_reward.covariance(s.point, s.t))


L5_PARTS = (
    Identity(
        "slope at a = Cov_a(X_1 - X_0, r | X_t)",
        ANY,
        lambda s: _tilted_covariance(s, s.a),
        lambda s: conditional.tilted_velocity_slope(s.case, s.x, s.at, s.a),
        {
            "covariance under the base": covariance,
            "sign": lambda s: -_tilted_covariance(s, s.a),
            "covariance with X_1": lambda s: (1 - s.t) * _tilted_covariance(s, s.a),
        },
        lambda s: s.spread,
    ),
    Identity(
        "at a = 0",
        ANY,
        covariance,
        lambda s: conditional.tilted_velocity_slope(s.case, s.x, s.at, 0.0),
        {
            "covariance with X_1": lambda s: (1 - s.t) * covariance(s),
            "grad m_t for the covariance": lambda s: row(
                s.problem.conditional_reward.gradient(s.point, s.t)
            ),
        },
        lambda s: s.spread,
        share=0.4,
        sampled=lambda s, n, rng: importance.covariance(importance.Draw(s.case, s.x, s.at, n, rng)),
    ),
)


def _three_forms(name: str, factor: Callable[[Setting], float]) -> tuple[Identity[Setting], ...]:
    """Every form by theory against another form by quadrature."""
    slope = conditional.tilted_velocity_slope

    def size(s: Setting) -> float:
        return 1.0 + abs(factor(s)) * s.spread

    wrong = {
        "half the step": lambda s: by_covariance(s, 0.5 * factor(s)),
        "sign": lambda s: by_covariance(s, -factor(s)),
        "Cov(2r - 1, .) with the same factor": lambda s: by_covariance(s, 2 * factor(s)),
    }
    return (
        Identity(
            f"{name}: m_t (vhat - v0) against the slope at a = 0",
            ANY,
            lambda s: guided(s, factor(s)),
            lambda s: (
                conditional.velocity(s.case, s.x, s.at) + factor(s) * slope(s.case, s.x, s.at, 0.0)
            ),
            wrong,
            size,
        ),
        Identity(
            f"{name}: Cov(r, X_1 - X_0) against m_t (vhat - v0)",
            ANY,
            lambda s: by_covariance(s, factor(s)),
            lambda s: _guided_by_quadrature(s, factor(s)),
            wrong,
            size,
            share=0.4,
        ),
        Identity(
            f"{name}: the field that Problem states against Cov(r, X_1 - X_0)",
            ANY,
            lambda s: row(s.problem.cumulant_field(factor(s), 1)(s.point, s.t)),
            lambda s: (
                conditional.velocity(s.case, s.x, s.at)
                + factor(s) * conditional.covariance(s.case, s.x, s.at)
            ),
            wrong,
            size,
            share=0.4,
        ),
    )


def _guided_by_quadrature(s: Setting, factor: float) -> Array:
    """v0 + factor (E[r V | x] - m v0), r shifted away from zero: Cov does not see the shift."""
    v0 = conditional.velocity(s.case, s.x, s.at)
    mean = conditional.mean_reward(s.case, s.x, s.at)
    shift = 10 * (1 + abs(mean))
    lifted = conditional.velocity(s.case, s.x, s.at, lambda r: r + shift)
    return v0 + factor * (mean + shift) * (lifted - v0)


L6_PARTS = (
    *_three_forms("v*", lambda s: 2 / s.nft_beta),
    *_three_forms("v*+", lambda s: 2.0)[:2],
    *_three_forms("v*-", lambda s: -2.0)[:2],
)
