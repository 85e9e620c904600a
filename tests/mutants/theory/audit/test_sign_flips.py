"""Mistakes in the sign flips, each rejected by their level."""

from __future__ import annotations

import numpy as np
import pytest

from tests.theory.audit.test_sign_flips import check_levels
from theory.audit.estimators import sign_flips

WRONG = {
    "the sum alone": ("_statistic", lambda w, c: w),
    "the other skewness": ("_statistic", lambda w, c: w - c * (2 * w**2 + 1) / 6),
    "no third term": ("_statistic", lambda w, c: w + c * (2 * w**2 + 1) / 6),
    "few as many": ("_signs", lambda count: np.ones((4, count))),
    "the rest by the sum alone": ("_sum_at", lambda value, c: value),
}


@pytest.mark.parametrize("name", WRONG)
def test_mutants_are_rejected(monkeypatch, name):
    monkeypatch.setattr(sign_flips, *WRONG[name])
    assert not check_levels()
