"""Mistakes in theory.audit's own code: each is rejected by a quick check of its module."""

from __future__ import annotations

import pytest

from tests.mutants.harness import every, failures, mutant_module
from tests.mutants.theory.audit import (
    conditional,
    curve_and_tilt,
    excess,
    families,
    fit,
    reweighting,
)

CHECKS, CASES = every((fit, families, curve_and_tilt, reweighting, conditional, excess))


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(CHECKS[name], mutant_module(f"theory.audit.{name}")) == []


@pytest.mark.parametrize("name", CASES)
def test_mutant_is_rejected(name):
    module, mistake, check = CASES[name]
    found = failures(CHECKS[module], mistake(f"theory.audit.{module}"))
    assert any(check in what for what in found), found
