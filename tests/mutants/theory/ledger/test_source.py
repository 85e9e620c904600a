"""Mistakes in theory's own code: each must be rejected by the ledger's identities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.theory.ledger.identities import ROWS, spots
from theory.common.tolerances import QUADRATURE
from theory.fields import paths
from theory.fields.guidance import GuidedField
from theory.fields.mixture import MixtureField
from theory.laws.couplings import CouplingFamily
from theory.laws.gaussians import GaussianSum
from theory.ledger.core.claim import PROFILES, Context
from theory.ledger.liu import rows as liu
from theory.ledger.oracle import flow
from theory.ledger.zhu import guidance as zhu_guidance
from theory.ledger.zhu import points
from theory.ledger.zhu import two_kl as zhu_two_kl
from theory.problems.problem import Problem
from theory.recursion import TwoKL
from theory.tilts import bump_rewards
from theory.tilts.bumps import BumpsGiven
from theory.tilts.moments import Series


def whole_slope(edit: Callable[[dict[str, Any]], None]) -> Callable[..., torch.Tensor]:
    """CouplingFamily.velocity_slope, piece by piece; `edit` changes the pieces."""

    def slope(self: CouplingFamily, x: torch.Tensor, t: float, a: float) -> torch.Tensor:
        p = self._condition(x, t, a)
        inverse = torch.linalg.inv(p.factors)
        weights = torch.softmax(self.logits + a * self.logit_rates, 0)
        pieces: dict[str, Any] = {
            "mean": p.mean,
            "cov": p.cov,
            "move": p.move,
            "weights": p.weights,
            "rates": self.logit_rates - weights @ self.logit_rates,
            "trace": (inverse @ self.factor_rates).diagonal(dim1=-2, dim2=-1).sum(-1),
            "score": inverse.mT @ inverse @ self.mean_rates[..., None],
            "left": inverse.mT @ inverse @ self.factor_rates @ inverse,
            "inverse": inverse,
            "family": self,
            "subtract": 1.0,
            "curvature": 1.0,
        }
        edit(pieces)
        left, cov = pieces["left"], pieces["cov"]
        square = 0.5 * (left + left.mT)
        gap = pieces["mean"] - p.centre[:, None, :]
        linear = pieces["score"][..., 0][:, None, :]
        value = (pieces["rates"] - pieces["trace"])[:, None] + (linear * gap).sum(-1)
        value = value + ((gap @ square) * gap).sum(-1)
        value = value + pieces["curvature"] * (square * cov).sum((-2, -1))[:, None]
        product = value[..., None] * p.move
        product = product + (linear + 2 * gap @ square) @ cov @ p.difference.mT
        w = p.weights
        mean = (w[..., None] * p.move).sum(0)
        outer = mean * (w * value).sum(0)[:, None]
        return (w[..., None] * product).sum(0) - pieces["subtract"] * outer

    return slope


def _without_trace(p):
    p["trace"] = 0 * p["trace"]


def _transposed(p):
    p["left"] = p["inverse"] @ p["inverse"].mT @ p["family"].factor_rates @ p["inverse"]


def _rate_not_transposed(p):
    p["left"] = p["inverse"].mT @ p["inverse"] @ p["family"].factor_rates.mT @ p["inverse"]


def _weights_stand(p):
    p["rates"] = 0 * p["rates"]


def _means_stand(p):
    p["score"] = 0 * p["score"]


def _no_curvature(p):
    p["curvature"] = 0.0


def _product(p):
    p["subtract"] = 0.0


def _nothing(p):
    pass


SLOPES = [
    _without_trace,
    _transposed,
    _rate_not_transposed,
    _weights_stand,
    _means_stand,
    _no_curvature,
    _product,
]


@cache
def _second(row: str, index: int, dim: int, seed: int) -> tuple[Any, Any]:
    part = ROWS[row].parts[index]
    return part, part.second(part.domain.draw(dim, seed))


def rejected(row: str, index: int = 0, dims: tuple[int, ...] = (1,), count: int = 4) -> bool:
    """Whether the comparison is beyond its tier somewhere, with the code as it now stands."""
    for seed in range(count):
        for dim in dims:
            part, theirs = _second(row, index, dim, seed)  # as it was without the mistake
            alike = replace(part, second=lambda s, theirs=theirs: theirs, mutants={})
            if not alike.compare(part.domain.draw(dim, seed)).error <= part.tier.rtol:
                return True
    return False


def mixing(settings_: Any) -> bool:
    """Whether a coupling's mixture has several components."""
    return len(settings_.joint.logits) > 1


@pytest.mark.parametrize("row", ["L3", "L4"])
def test_slope_of_couplings_in_pieces(row, monkeypatch):
    """The pieces without an edit are the slope itself."""
    monkeypatch.setattr(CouplingFamily, "velocity_slope", whole_slope(_nothing))
    assert not rejected(row, dims=(1, 2), count=1)


@pytest.mark.parametrize("row", ["L3", "L4"])
@pytest.mark.parametrize("edit", SLOPES, ids=lambda e: e.__name__.strip("_"))
def test_mutant_slopes_of_couplings(row, edit, monkeypatch):
    monkeypatch.setattr(CouplingFamily, "velocity_slope", whole_slope(edit))
    if edit in (_without_trace, _no_curvature):
        # With the mixture's weights: of one Gaussian, a constant in u drops out of a covariance.
        part = ROWS[row].parts[0]
        assert any(mixing(part.domain.draw(1, seed)) for seed in range(4))
    assert rejected(row) or rejected(row, dims=(2,), count=1)


GAIN = ("L1", "L5", "L6", "L11", "Z3")


def _patch_gain(monkeypatch):
    """(1 - t)/t for the rectified flow, with 1/t in its place."""
    monkeypatch.setattr(paths.RectifiedFlow, "gain", lambda self, t: 1 / t)


def _patch_raw_moments(monkeypatch):
    """E[X_1 r^j | x] of an X_1 that is not measured from its posterior mean."""
    whole = Series.cumulants

    def wrong(self):
        return whole(self) + self.uncentred().F[..., None]

    monkeypatch.setattr(Series, "cumulants", wrong)


def _patch_nft_sign(monkeypatch):
    whole = Problem.cumulant_field
    monkeypatch.setattr(Problem, "cumulant_field", lambda self, a, k: whole(self, -a, k))


def _patch_noised(monkeypatch):
    """sigma for sigma^2 in the noised covariances."""
    whole = GaussianSum.noised
    monkeypatch.setattr(
        GaussianSum,
        "noised",
        lambda self, x, alpha, sigma: whole(self, x, alpha, torch.as_tensor(sigma) ** 0.5),
    )


def _patch_velocity(monkeypatch):
    whole = MixtureField.__call__
    monkeypatch.setattr(
        MixtureField, "__call__", lambda self, x, t, cond=None: whole(self, x, t) + 1e-7 * x
    )


def _patch_tilt(monkeypatch):
    """Tilted weights without the determinants of the tilted covariances."""

    def without(found, law):
        terms = found.n_components // law.n_components
        ratio = torch.logdet(found.cov) - torch.logdet(law.cov).repeat_interleave(terms, -1)
        return replace(found, log_abs=found.log_abs - 0.5 * ratio)

    by_quadratic, by_bumps = GaussianSum.times_exp_quadratic, bump_rewards.times_bumps
    monkeypatch.setattr(
        GaussianSum,
        "times_exp_quadratic",
        lambda law, *q, **k: without(by_quadratic(law, *q, **k), law),
    )
    monkeypatch.setattr(bump_rewards, "times_bumps", lambda law, b: without(by_bumps(law, b), law))


def _patch_bumps(monkeypatch):
    """Every component meets the square of each bump."""
    whole = BumpsGiven.of

    def wrong(post, bumps):
        found = whole(post, bumps)
        return replace(found, log_mean=2 * found.log_mean)

    monkeypatch.setattr(BumpsGiven, "of", wrong)


def _patch_exchanged(monkeypatch):
    rate = property(lambda self: self.eta_1 / (self.eta_0 + self.eta_1))
    monkeypatch.setattr(TwoKL, "rate", rate)


def _patch_lam(monkeypatch):
    monkeypatch.setattr(TwoKL, "lam", property(lambda self: self.eta_0 * self.eta_1))


def _patch_rate_for_lam(monkeypatch):
    rate, lam = TwoKL.rate, TwoKL.lam
    monkeypatch.setattr(TwoKL, "rate", lam)
    monkeypatch.setattr(TwoKL, "lam", rate)


def _patch_tilt_of_epochs(monkeypatch):
    monkeypatch.setattr(
        TwoKL, "effective_tilt", lambda self, k: self.eta_0 * (1 - self.rate ** (k + 1))
    )


SOURCE = [
    (_patch_gain, "L1", 0),
    (_patch_gain, "L5", 1),
    (_patch_gain, "L6", 1),
    (_patch_gain, "L2", 0),
    (_patch_gain, "Z3", 0),
    (_patch_raw_moments, "L6", 2),
    (_patch_raw_moments, "L5", 0),
    (_patch_raw_moments, "Z3", 0),
    (_patch_nft_sign, "L6", 2),
    (_patch_nft_sign, "Z3", 0),
    (_patch_noised, "L1", 0),
    (_patch_noised, "L2", 0),
    (_patch_noised, "L11", 0),
    (_patch_velocity, "L1", 0),
    (_patch_velocity, "L11", 2),
    (_patch_tilt, "L11", 2),
    (_patch_bumps, "L2", 0),
    (_patch_exchanged, "Z8", 0),
    (_patch_lam, "Z8", 0),
    (_patch_rate_for_lam, "Z8", 0),
    (_patch_exchanged, "Z9", 0),
    (_patch_tilt_of_epochs, "Z9", 0),
]


@pytest.mark.parametrize(
    ("patch", "row", "index"), SOURCE, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_mutant_of_the_source(patch, row, index, monkeypatch):
    assert not rejected(row, index)
    patch(monkeypatch)
    assert rejected(row, index)


def test_lemma_mutant(monkeypatch):
    """L7's first route is the lemma itself: 1 part in 1e9 of the factor is seen."""
    part = ROWS["L7"].parts[0]
    off = replace(part, first=lambda s: s.v + (2 * s.r - 1) / s.b * (s.y - s.v) * (1 + 1e-9))
    assert any(off.compare(s).error > part.tier.rtol for s in spots(part, count=60))


def test_first_route_without_a_number_fails():
    """nan says that the second route gave up; a first route must not hide behind it."""
    part = replace(ROWS["L7"].parts[0], first=lambda s: np.full(s.dim, np.nan))
    error = part.compare(part.domain.draw(1, 0)).error
    assert error == np.inf


# --- guided laws (Z10)


def guided_gap(weight: float = 1.5) -> float:
    """log-density of the guided sampler by theory, against scipy on sums over a grid."""
    one, other = (flow.LineField(zhu_guidance.MIXED.plain(c)) for c in (True, False))

    def theirs(x, t):
        return one(x, t) + weight * (one(x, t) - other(x, t))

    y = np.array([-1.0, 0.3, 1.4])
    ours = zhu_guidance.guided_densities(zhu_guidance.MIXED, (weight,), y)[0]
    return QUADRATURE.error(ours, flow.density(theirs, y, 0.1), 1.0)


def test_guided_law_and_its_mutants(monkeypatch):
    assert guided_gap() <= QUADRATURE.rtol
    whole = GuidedField._mix
    with monkeypatch.context() as patch:
        patch.setattr(GuidedField, "_mix", lambda self, a, b, inner: whole(self, b, a, inner))
        assert guided_gap() > QUADRATURE.rtol
    with monkeypatch.context() as patch:
        patch.setattr(GuidedField, "_mix", lambda self, a, b, inner: a - self.weight * (a - b))
        assert guided_gap() > QUADRATURE.rtol


def test_parts_of_function_kind_in_the_fast_profile():
    """Z10's findings and the limits of Z9 hold, and reject their own mutants."""
    context = Context(PROFILES["fast"])
    for part in (zhu_two_kl.limit_of_iteration, points.factor_is_not_two_over_beta):
        found = part(context)
        assert found.holds
        assert all(found.mutants.values())
    assert liu.ROWS[0].id == "L1"
