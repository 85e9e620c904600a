"""N1, N3, N4: verdicts, identities over random settings, mutants, searches, independence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from tests.strategies import seeds
from tests.theory.ledger import test_second_routes as walk
from theory.ledger.core.claim import PROFILES, Context, is_extra
from theory.ledger.core.identity import Identity
from theory.ledger.core.search import search
from theory.ledger.released import penalty as released_penalty
from theory.ledger.released import penalty_laws
from theory.ledger.released import schedule as released_schedule
from theory.ledger.released.penalty import N3
from theory.ledger.released.reward.beyond import code_path, code_path_covariances
from theory.ledger.released.reward.mapping import N1
from theory.ledger.released.schedule import N4
from theory.ledger.run import measure
from theory.ledger.settings.penalty import LineSetting, PenalisedSetting, TimedAtoms
from theory.ledger.settings.released import AtomBatch, BatchSetting, PromptSetting
from theory.ledger.settings.schedule import FactorSetting, ScheduleSetting
from theory.released.mapping import gaussian_batch_share
from theory.released.penalty import Penalty

CLAIMS = (N1, N3, N4)
PARTS = [
    pytest.param(part, id=f"{claim.id}-{part.name[:40]}")
    for claim in CLAIMS
    for part in claim.parts
    if isinstance(part, Identity)
]
SETTINGS = (
    PromptSetting,
    BatchSetting,
    AtomBatch,
    PenalisedSetting,
    TimedAtoms,
    LineSetting,
    ScheduleSetting,
    FactorSetting,
)
# Plain numbers of these settings that second routes read.
NUMBERS = {
    "weights",
    "means",
    "stds",
    "group",
    "prompts",
    "kl",
    "size",
    "A",
    "B",
    "decays",
    "flat",
    "rate",
    "most",
    "steps",
    "share",
    "ravel",
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_verdict_of_the_fast_profile(claim):
    result = measure(claim, PROFILES["fast"])
    assert result.agrees


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_verdict_with_extras(claim):
    """Everything that the default profile measures, on fewer settings and draws."""
    result = measure(claim, replace(PROFILES["fast"], extras=True, draws=50_000, cells=5))
    assert result.agrees
    for finding in result.findings:
        assert finding.role == "claim" or finding.holds, finding
        assert all(finding.mutants.values()), finding
    assert (result.region is None) == (claim.recorded == "exact")
    if result.region is not None:
        assert np.isfinite(result.region.errors).all()


def test_fast_parts_are_few():
    assert sum(not is_extra(p) for c in CLAIMS for p in c.parts) == 6


@pytest.mark.parametrize("part", PARTS)
def test_identity(part):
    @settings(derandomize=True, deadline=None, max_examples=6, database=None)
    @given(seed=seeds)
    def check(seed):
        setting = part.domain.draw(min(part.dims), seed)
        assert part.compare(setting, with_mutants=False).error <= part.tier.rtol, setting.pack()

    check()


@pytest.mark.parametrize("part", PARTS)
def test_mutants_are_rejected(part):
    alive = set(part.mutants)
    for seed in range(12):
        compared = part.compare(part.domain.draw(min(part.dims), seed))
        assert compared.error <= part.tier.rtol
        alive -= {k for k, v in compared.mutants.items() if v > part.tier.rtol}
        if not alive:
            return
    raise AssertionError(f"survived: {alive}")


@pytest.mark.parametrize("part", PARTS)
def test_search_for_the_worst(part):
    """Nudged settings stay in the domain, and what is found can be tried again."""
    found = search(part, replace(PROFILES["thorough"], starts=3, steps=4), seed=5)
    assert found.evaluations > 3
    assert found.errors
    assert found.errors[0] <= part.tier.rtol
    again = part.domain.unpack(found.settings[0])
    assert again.pack() == found.settings[0]
    assert part.compare(again, with_mutants=False).error == pytest.approx(found.errors[0])
    assert again.describe()


# --- independence


@pytest.mark.parametrize("part", PARTS)
def test_second_routes_are_independent(part, monkeypatch):
    monkeypatch.setattr(walk, "NUMBERS", walk.NUMBERS | NUMBERS)
    monkeypatch.setattr(walk, "SETTINGS", (*walk.SETTINGS, *SETTINGS))
    assert walk.offences(part.second) == set()
    assert walk.strangers(walk.quick(part, part.second)) == set()


def test_a_first_route_would_be_caught(monkeypatch):
    monkeypatch.setattr(walk, "NUMBERS", walk.NUMBERS | NUMBERS)
    monkeypatch.setattr(walk, "SETTINGS", (*walk.SETTINGS, *SETTINGS))
    part = released_penalty.LAW
    assert walk.offences(part.first)
    assert walk.strangers(walk.quick(part, part.first))


# --- what else must be seen


def test_draws_reject_a_wrong_std(monkeypatch):
    """The code path with an unbiased standard deviation is told from the closed form."""
    value, error = code_path_covariances(4, 1, 4000, 3)
    assert abs(value - gaussian_batch_share(4, 1)) < 5 * error
    assert abs(value * np.sqrt(3 / 4) - gaussian_batch_share(4, 1)) > 5 * error


def test_too_few_draws_would_be_seen():
    finding = code_path(Context(replace(PROFILES["fast"], draws=2_000)))
    assert finding.numbers["batches"] == 20


@pytest.mark.slow
def test_penalty_of_velocities_alone_is_told_from_the_recipe():
    assert penalty_laws.recipe_gap(1, 0.3) < 1e-7
    assert penalty_laws.recipe_gap(1, 0.3, 0.31) > 1e-4


def test_wrong_penalty_in_the_source_is_seen(monkeypatch):
    """A mistake in theory's own omega: the identities of N3 reject it."""
    right = Penalty.pull
    monkeypatch.setattr(Penalty, "pull", lambda self, t: right(self, t) * (1 - np.asarray(t)))
    for part in (released_penalty.ONE_EPOCH, released_penalty.MATCHED, released_penalty.LAW):
        errors = [part.compare(part.domain.draw(1, s), False).error for s in range(4)]
        assert max(errors) > part.tier.rtol


def test_wrong_ramp_in_the_source_is_seen(monkeypatch):
    rule = released_schedule.Schedule
    right = rule.full_updates
    monkeypatch.setattr(rule, "full_updates", lambda self, k, steps=1: right(self, k, steps) - 1)
    part = released_schedule.UPDATES
    assert part.compare(part.domain.draw(1, 0), False).error > part.tier.rtol
