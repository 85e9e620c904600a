"""The search for the worst setting, and its record."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from tests.theory.ledger.test_settings import giving_up, identity, truth
from theory.ledger.core.claim import Context, Profile
from theory.ledger.core.search import KEPT, search
from theory.ledger.core.worst import recorded, summary, write


def planted(s: Any) -> Any:
    """Right up to t = 0.9; beyond, wrong by (t - 0.9)."""
    return truth(s) + max(s.t - 0.9, 0.0)


SEARCH = Profile("search", {1: 1}, draws=100, cells=0, starts=24, steps=12)


def test_search_finds_a_planted_error(tmp_path):
    part = identity(planted)
    quick = [part.compare(part.domain.draw(1, seed)).error for seed in range(5)]
    assert max(quick) <= part.tier.rtol  # a handful of draws does not see it
    found = search(part, SEARCH)
    assert found.starts == SEARCH.starts
    assert found.evaluations > SEARCH.starts
    assert found.errors[0] > 0.01 > part.tier.rtol
    assert list(found.errors) == sorted(found.errors, reverse=True)
    assert len(found.settings) <= KEPT
    worst = part.domain.unpack(json.loads(json.dumps(found.settings[0])))
    assert worst.t > 0.9
    assert part.compare(worst).error == found.errors[0]
    assert search(part, SEARCH) == found  # a function of the seed
    # What is on record is tried again by a profile that would not have found it.
    tiny = Profile("tiny", {1: 1}, draws=100, cells=0)
    assert part(Context(tiny, seed=0)).holds
    again = part(Context(tiny, seed=0, recorded=found.settings))
    assert not again.holds
    assert again.worst == worst.describe()
    assert again.numbers["settings"] == 1 + len(found.settings)


def test_search_of_what_is_right_finds_nothing():
    found = search(identity(), replace(SEARCH, starts=2, steps=5))
    assert set(found.errors) == {0.0}


def test_search_leaves_places_where_quadrature_gives_up():
    found = search(identity(planted, giving_up(0.5)), SEARCH)
    assert not any(np.isnan(found.errors))
    assert 0 < found.gave_up < found.evaluations
    assert search(identity(planted), SEARCH).gave_up == 0
    nothing = search(identity(second=giving_up(1.0)), replace(SEARCH, starts=2, steps=2))
    assert nothing.errors == ()
    assert nothing.gave_up == nothing.evaluations > 0


def test_search_only_in_the_dimensions_of_the_part():
    found = search(identity(dims=(5,)), replace(SEARCH, starts=2, steps=1))
    assert all(len(s["x"]) == 5 for s in found.settings)


def test_record(tmp_path):
    place = tmp_path / "worst.json"
    one = search(identity(planted), replace(SEARCH, starts=2, steps=3))
    write("Q1", one, place)
    write("Q2", replace(one, starts=9), place)
    data = json.loads(place.read_text())
    assert list(data) == ["Q1/planted", "Q2/planted"]
    assert data["Q1/planted"]["settings"] == list(one.settings)
    assert data["Q2/planted"]["starts"] == 9
    assert data["Q1/planted"]["gave_up"] == one.gave_up
    write("Q1", replace(one, starts=3), place)  # in place of what was there
    assert json.loads(place.read_text())["Q1/planted"]["starts"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["worst.json"]
    assert recorded("Q1", "planted") == ()
    assert summary("Q1", "planted") == {}
