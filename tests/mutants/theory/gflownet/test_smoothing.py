"""Mistakes in the average of a reward over noise, each told by a sum over nodes."""

from __future__ import annotations

import pytest

from tests.helpers import points
from tests.mutants.harness import mutant_module
from tests.theory.gflownet.test_smoothing import REWARDS, C, averaged
from theory.common.tolerances import QUADRATURE_TIGHT

MUTANTS = {
    "trace without its half": ("reward.constant + 0.5 * std**2", "reward.constant + std**2"),
    "all of the matrix for its trace": (
        "trace = reward.matrix.diagonal(dim1=-2, dim2=-1).sum(-1)",
        "trace = reward.matrix.sum()",
    ),
    "c for its square": ("dtype=reward.dtype) + std**2", "dtype=reward.dtype) + std"),
    "heights kept": (" / torch.linalg.det(widened).sqrt()", ""),
    "the determinant's root forgotten": ("det(widened).sqrt()", "det(widened)"),
    "widths kept": ("0.5 * (precisions + precisions.mT)", "reward.precisions"),
    "a mixed derivative": ("[0][:, i]", "[0][:, i - 1]"),
}


def is_right(module) -> bool:
    """Averages of every kind, and twice what a small noise gains over its variance."""
    x = points(4, 2)
    for reward in REWARDS.values():
        found = module.smoothed_reward(reward, C)(x)
        if not QUADRATURE_TIGHT.holds(found, averaged(reward, x, C), 1.0):
            return False
        gained = 2 * (averaged(reward, x, 1e-3) - reward(x)) / 1e-6
        if float((module.laplacian(reward, x) - gained).abs().max()) > 1e-5:
            return False
    return True


def test_the_code_as_it_stands_is_accepted():
    assert is_right(mutant_module("theory.gflownet.smoothing"))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    assert not is_right(mutant_module("theory.gflownet.smoothing", MUTANTS[name]))
