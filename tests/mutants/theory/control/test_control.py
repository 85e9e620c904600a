"""Mistakes in theory.control, theory.fields.diffusion and theory.samplers.chain are rejected by
quick checks."""

from __future__ import annotations

import pytest

from tests.mutants.harness import every, failures, mutant_module
from tests.mutants.theory.control import (
    adjoints,
    critical,
    grids,
    linear,
    processes,
    schedules,
    values_and_equations,
    wells_and_chains,
)

CHECKS, CASES = every(
    (
        values_and_equations,
        grids,
        schedules,
        linear,
        wells_and_chains,
        processes,
        adjoints,
        critical,
    )
)


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(CHECKS[name], mutant_module(f"theory.{name}")) == []


@pytest.mark.parametrize("name", CASES)
def test_mutant_is_rejected(name):
    module, mistake, check = CASES[name]
    found = failures(CHECKS[module], mistake(f"theory.{module}"))
    assert any(check in what for what in found), found
