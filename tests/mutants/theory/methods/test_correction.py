"""Mistakes in nabla-DB's learnt correction (51)-(52), told by the conditions written out."""

from __future__ import annotations

import pytest

from tests.mutants.harness import overriding
from tests.theory.methods.test_gflownet import Setting
from tests.theory.methods.test_gflownet_correction import TEXT, expected_losses
from theory.common.tolerances import ALGEBRA
from theory.methods.gflownet.nabla_db import Nabla
from theory.methods.gflownet.residual_nabla_db import ADDED, ResidualNablaDB


def changed(ahead, behind):
    """The correction's scores times numbers."""

    def scores(whole, self, policy, walk, batch):
        own, full = Nabla.scores(self, policy, walk, batch), whole(policy, walk, batch)
        return full._replace(
            after=own.after + ahead * (full.after - own.after),
            before=own.before + behind * (full.before - own.before),
        )

    return {"scores": scores}


def added_here(whole, self, policy, walk, batch):
    """b at X_k of the transition in place of X_{k+1}."""
    b = policy.networks[ADDED]
    full = whole(policy, walk, batch)
    shift = walk.at(b, walk.here, walk.k) - walk.at(b, walk.after, walk.k + 1)
    return full._replace(after=full.after + shift)


def flow_of_the_next_state(whole, self, policy, task, walk, batch):
    """(52) as printed: under a gradient in X_k log F(X_{k+1}) is nothing."""
    here, after, left = whole(policy, task, walk, batch)
    return 0 * here, after, left


MUTANTS = {
    "sign ahead": changed(-1, 1),
    "sign behind": changed(1, -1),
    "none behind": changed(1, 0),
    "b of the state before": {"scores": added_here},
    "(52) as printed": {"flows": flow_of_the_next_state},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_of_the_correction_is_rejected(name):
    s = Setting(TEXT)
    expected = expected_losses(s)
    s.method = overriding(ResidualNablaDB, **MUTANTS[name])(
        steps=4, sigma_end=0.1, look_ahead="off", correction=True
    )
    assert not ALGEBRA.holds(s.losses().detach(), expected, scale=float(expected.max()))
