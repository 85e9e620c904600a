"""N8: the old copy replaced after every step, by row, identity and mutant."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.theory.ledger.examined import CHECKS, identities_of
from theory.common.tolerances import ALGEBRA
from theory.ledger.core.claim import PROFILES
from theory.ledger.core.worst import summary
from theory.ledger.oracle.released import steps as released_steps
from theory.ledger.released import every_step as row
from theory.ledger.run import measure
from theory.ledger.settings.steps import Steps, StepSetting
from theory.methods.matching.nft import NFT


def test_the_row():
    result = measure(row.N8, replace(PROFILES["fast"], extras=True))
    assert result.verdict == row.N8.recorded == "exact"
    for finding in result.findings:
        assert finding.holds, finding
        assert all(finding.mutants.values()), finding
    assert result.region is None


def test_the_search_is_on_record():
    found = summary("N8", row.STEPS.name)
    assert found["starts"] >= 200
    assert max(found["errors"]) <= ALGEBRA.rtol


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("part", identities_of(row.N8))
def test_identity(part, check):
    check(part)


def one(r: float, nft_beta: float = 1.0) -> StepSetting:
    """x = 1, y = 3, student (1/2 + B A) x with A = 1, B = 0, two steps of 1/64."""
    m = np.ones((1, 1))
    return StepSetting(m, 3 * m, np.array([r]), 0.5 * m, m, 0 * m, nft_beta, 1 / 64, 2)


def test_two_steps_by_hand():
    """dl/dB = 10 (2r - 1) e x A x, dl/dA = 10 (2r - 1) e B x²; e = (1/2 + BA) - 3."""
    pull = 10 * Fraction(1, 2)  # r = 3/4
    a, b = Fraction(1), Fraction(0)
    for _ in range(2):
        e = Fraction(1, 2) + a * b - 3
        a, b = a - pull * e * b / 64, b - pull * e * a / 64
    wanted = [float(a), float(b)]
    assert released_steps.descended(one(0.75).numbers, 1 / 64, 2).tolist() == wanted
    for beta in (0.1, 1.0, 7.0):
        assert ALGEBRA.holds(row.descended(one(0.75, beta)), np.array(wanted))


def test_nothing_moves_at_one_half():
    s = one(0.5)
    assert row.descended(s).tolist() == [1.0, 0.0]
    assert row.descended(s, refresh=5).tolist() == [1.0, 0.0]  # e and v_old as at the first step


def test_kept_copies_do_depend_on_nft_beta():
    """What replacing removes: with the copy kept two values of nft_beta part."""
    kept = [row.descended(one(0.75, beta), refresh=5) for beta in (0.5, 2.0)]
    assert not ALGEBRA.holds(kept[0], kept[1], 1.0)
    replaced = [row.descended(one(0.75, beta)) for beta in (0.5, 2.0)]
    assert ALGEBRA.holds(replaced[0], replaced[1], 1.0)


def test_wrong_code_is_seen(monkeypatch):
    """Branches exchanged; an old copy that does not follow."""
    settings = [Steps().draw(1, seed) for seed in range(4)]

    def worst() -> float:
        return max(row.STEPS.compare(s, False).error for s in settings)

    assert worst() <= ALGEBRA.rtol
    with monkeypatch.context() as patch:
        whole = NFT.loss
        patch.setattr(NFT, "loss", lambda self, p, t, b: whole(self, p, t, {**b, "r": 1 - b["r"]}))
        assert worst() > ALGEBRA.rtol
    with monkeypatch.context() as patch:
        patch.setattr(NFT, "after_step", lambda self, policy, step: None)
        assert worst() > ALGEBRA.rtol


def test_the_students_start_alike():
    s = Steps().draw(2, 1)
    x = torch.tensor(s.x)
    found = row.Adapted(s)(x, torch.zeros(len(x)))
    assert ALGEBRA.holds(found.detach().numpy(), s.x @ (s.W + s.B @ s.A).T)
