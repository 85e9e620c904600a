"""Mistakes in theory.audit's own code: each is rejected by a quick check of its module."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from tests.mutants.harness import mutant_module
from tests.mutants.theory.audit import (
    conditional,
    curve_and_tilt,
    excess,
    families,
    fit,
    reweighting,
)

ELSEWHERE = {
    "inclusion": "fit.inclusion",
    "likelihood": "fit.likelihood",
    **{name: f"families.{name}" for name in families.FAMILIES},
}

ROOMS = (fit, families, curve_and_tilt, reweighting, conditional, excess)
CHECKS = {name: check for room in ROOMS for name, check in room.CHECKS.items()}
MUTANTS = {what: mutant for room in ROOMS for what, mutant in room.MUTANTS.items()}


def mutated(name: str, *edits: tuple[str, str]) -> ModuleType:
    return mutant_module(f"theory.audit.{ELSEWHERE.get(name, f'estimators.{name}')}", *edits)


def failures(name: str, module: ModuleType) -> list[str]:
    """What fails; a mutant may also be unable to go on."""
    try:
        return [what for what, good in CHECKS[name](module).items() if not good]
    except ValueError as error:
        return [str(error)]


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(name, mutated(name)) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    module, old, new = MUTANTS[name]
    with np.errstate(all="ignore"):
        assert failures(module, mutated(module, (old, new)))
