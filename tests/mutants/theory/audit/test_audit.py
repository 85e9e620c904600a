"""Mistakes in theory.audit's own code: each is rejected by a quick check of its module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.mutants.harness import failures, mutant_module
from tests.mutants.theory.audit import (
    conditional,
    curve_and_tilt,
    excess,
    families,
    fit,
    reweighting,
)

ROOMS = (fit, families, curve_and_tilt, reweighting, conditional, excess)
CHECKS = {name: check for room in ROOMS for name, check in room.CHECKS.items()}
CASES: Mapping[str, Any] = {
    f"{module}: {what}": (module, *mutant)
    for room in ROOMS
    for module, mutants in room.MUTANTS.items()
    for what, mutant in mutants.items()
}


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(CHECKS[name], mutant_module(f"theory.audit.{name}")) == []


@pytest.mark.parametrize("name", CASES)
def test_mutant_is_rejected(name):
    module, mistake, check = CASES[name]
    found = failures(CHECKS[module], mistake(f"theory.audit.{module}"))
    assert any(check in what for what in found), found
