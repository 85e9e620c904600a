"""Mistakes in closed forms, each seen by the comparison with the quadrature oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from theory.common.checks import check_time
from theory.common.tolerances import QUADRATURE_TIGHT
from theory.fields import cumulants, paths
from theory.fields import mixture as fields
from theory.laws.gaussians import GaussianSum
from theory.ledger.oracle.instants import instant
from theory.ledger.settings.plane import disagreement
from theory.ledger.settings.random import Shape, random_case, random_point
from theory.problems.problem import Problem
from theory.tilts import bump_rewards
from theory.tilts.moments import Series


def example(kind: str, dim: int):
    case = random_case(Shape(dim, 3, 20.0, kind, 0.6, bumps=2), seed=5)
    return case, random_point(case, instant("rectified_flow", 0.6), np.random.default_rng(6)), 0.6


def worst(drawn) -> float:
    return max(disagreement(*drawn).values())


@pytest.fixture(scope="module", params=[("bumps", 1), ("quadratic", 2), ("linear", 5)], ids=str)
def drawn(request):
    case = example(*request.param)
    assert worst(case) <= QUADRATURE_TIGHT.rtol
    return case


def test_mutant_wrong_time_factor(drawn, monkeypatch):
    """Cov(X_1 - X_0, r | x) with 1/t in place of (1 - t)/t grad m."""
    monkeypatch.setattr(paths.RectifiedFlow, "gain", lambda self, t: torch.ones_like(t))
    assert worst(drawn) > QUADRATURE_TIGHT.rtol


def test_mutant_cumulants_are_raw_moments(drawn, monkeypatch):
    """kappa_2 without the product of lower orders subtracted."""
    monkeypatch.setattr(Series, "cumulants", lambda self: self.uncentred().N)
    assert worst(drawn) > QUADRATURE_TIGHT.rtol


def test_mutant_no_determinant(drawn, monkeypatch):
    """Weights of a tilted mixture without their component-dependent normalisation."""

    def without(result, law):
        ratio = torch.logdet(result.cov) - torch.logdet(law.cov).repeat_interleave(
            result.n_components // law.n_components, -1
        )
        return replace(result, log_abs=result.log_abs - 0.5 * ratio)

    by_quadratic, by_bumps = GaussianSum.times_exp_quadratic, bump_rewards.times_bumps
    monkeypatch.setattr(
        GaussianSum,
        "times_exp_quadratic",
        lambda law, *q, **k: without(by_quadratic(law, *q, **k), law),
    )
    monkeypatch.setattr(bump_rewards, "times_bumps", lambda law, b: without(by_bumps(law, b), law))
    if drawn[0].kind == "linear":  # a linear tilt keeps every determinant: no difference
        assert worst(drawn) <= QUADRATURE_TIGHT.rtol
    else:
        assert worst(drawn) > QUADRATURE_TIGHT.rtol


def test_mutant_float32_time(drawn, monkeypatch):
    """t rounded to float32 on its way in: a leak that this comparison once found."""
    assert float(torch.tensor(drawn[2], dtype=torch.float32)) != drawn[2]

    def mutant(t, x):
        return check_time(float(torch.tensor(float(t), dtype=torch.float32)), x)

    monkeypatch.setattr(fields, "check_time", mutant)
    monkeypatch.setattr(cumulants, "check_time", mutant)
    assert worst(drawn) > QUADRATURE_TIGHT.rtol


def test_mutant_swapped_sign_of_nft(drawn, monkeypatch):
    """v*- where v*+ is meant."""
    whole = Problem.nft_perturbation
    monkeypatch.setattr(Problem, "nft_perturbation", lambda self, sign: whole(self, -sign))
    assert worst(drawn) > QUADRATURE_TIGHT.rtol
