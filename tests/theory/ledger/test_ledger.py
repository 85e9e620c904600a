"""What a row is and how its verdict follows; that the ledger is whole."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from theory.ledger.core.claim import (
    BROKEN,
    PAPERS,
    PROFILES,
    Claim,
    Context,
    Extra,
    Finding,
    Result,
    extra,
    is_extra,
    number,
    verdict,
)
from theory.ledger.core.identity import Identity
from theory.ledger.run import SOURCES, all_claims, measure

CLAIMS = {claim.id: claim for claim in all_claims()}
VERDICTS = {"exact", "order 1", "order 2", "order 3", "statistical", "conditional", "false"}


def finding(role="claim", kind="exact", holds=True, order=None, mutants=None, name="part"):
    return Finding(name, role, kind, holds, "", order=order, mutants=mutants or {})


EXACT = finding()
DRAWN = finding(kind="statistical")
FAILED = finding(holds=False)


def order(k: int) -> Finding:
    return finding(kind="order", order=k)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([EXACT], "exact"),
        ([EXACT, EXACT], "exact"),
        ([DRAWN], "statistical"),
        ([EXACT, DRAWN], "statistical"),
        ([order(2)], "order 2"),
        ([order(3), order(1)], "order 1"),
        ([EXACT, order(2)], "order 2"),
        ([DRAWN, order(2)], "order 2"),
        ([FAILED], "false"),
        ([EXACT, FAILED], "false"),
        ([order(2), FAILED], "false"),
        ([finding(kind="order", order=2, holds=False)], "false"),
        ([FAILED, finding("condition")], "conditional"),
        ([EXACT, FAILED, finding("condition")], "conditional"),
        ([EXACT, finding("condition")], "exact"),
        ([], BROKEN),
    ],
    ids=str,
)
def test_verdict(findings, expected):
    assert verdict(findings) == expected
    assert verdict(findings[::-1]) == expected


@pytest.mark.parametrize("role", ["instead", "support"])
@pytest.mark.parametrize("claims", [[EXACT], [DRAWN], [order(2)], [FAILED]], ids=str)
def test_other_roles_are_no_part_of_the_verdict(role, claims):
    assert verdict([*claims, finding(role)]) == verdict(claims)
    assert verdict([finding(role)]) == BROKEN  # without a claim there is nothing to judge


@pytest.mark.parametrize("role", ["condition", "instead", "support"])
@pytest.mark.parametrize("claims", [[EXACT], [DRAWN], [order(2)], [FAILED]], ids=str)
@pytest.mark.parametrize("others", [[], [finding("condition")]], ids=str)
def test_broken_by_a_failed_part(role, claims, others):
    assert verdict([*claims, *others, finding(role, holds=False)]) == BROKEN


@pytest.mark.parametrize("role", ["claim", "condition", "instead", "support"])
@pytest.mark.parametrize("holds", [True, False])
def test_broken_by_a_surviving_mutant(role, holds):
    survived = finding(role, holds=holds, mutants={"seen": True, "not seen": False})
    assert verdict([EXACT, survived]) == BROKEN
    assert verdict([FAILED, finding("condition"), survived]) == BROKEN


def test_killed_mutants_change_nothing():
    assert verdict([replace(EXACT, mutants={"seen": True})]) == "exact"


def test_every_combination_has_one_known_verdict():
    """All triples of all parts: never an unnamed verdict, and broken wins over all others."""
    kinds = [EXACT, DRAWN, order(1), order(2), FAILED]
    others = [finding(r, holds=h) for r in ("condition", "instead", "support") for h in (1, 0)]
    for triple in itertools.product([*kinds, *others], repeat=3):
        found = verdict(triple)
        assert found in VERDICTS | {BROKEN}
        sound = any(f.role == "claim" for f in triple)
        sound = sound and all(f.holds for f in triple if f.role != "claim")
        assert (found != BROKEN) == sound


@pytest.mark.parametrize(("key", "value"), [("role", "claims"), ("kind", "approximate")])
def test_unknown_role_or_kind(key, value):
    with pytest.raises(ValueError, match=f"{key} must be .*got '{value}'"):
        finding(**{key: value})


def test_result_compares_with_the_record():
    claim = Claim("Q1", "", "", "", "", "", "exact", "", ())
    assert Result(claim, (EXACT,), 0.0).agrees
    assert not Result(claim, (FAILED,), 0.0).agrees
    assert not Result(replace(claim, recorded="order 2"), (order(1),), 0.0).agrees
    assert Result(replace(claim, recorded="order 2"), (order(2),), 0.0).agrees


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (12.0, "12"),
        (9999.4, "1e+04"),
        (12345.0, "1.2e+04"),
        (1e-3, "0.001"),
        (9.4e-4, "9.4e-04"),
        (-0.5, "-0.5"),
        (-2e-9, "-2.0e-09"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_extra_parts_are_left_out():
    def part(context):
        return EXACT

    marked = extra(part)
    assert marked == Extra(part)
    assert marked(Context(PROFILES["fast"])) is EXACT
    assert is_extra(marked)
    assert not is_extra(part)
    identities = [p for claim in all_claims() for p in claim.parts if isinstance(p, Identity)]
    assert {is_extra(p) for p in identities if p.role == "claim"} == {False}
    assert {is_extra(p) for p in identities if p.role == "instead"} == {True}
    claim = replace(CLAIMS["L7"], parts=(part, marked))
    assert [len(measure(claim, PROFILES[name]).findings) for name in ("fast", "default")] == [1, 2]


# --- the rows


def test_profiles():
    assert list(PROFILES) == ["fast", "default", "thorough"]
    amounts = [(sum(p.problems.values()), p.draws, p.cells) for p in PROFILES.values()]
    assert amounts == sorted(amounts)
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert set(profile.problems) == {1, 2, 5}
    assert sum(PROFILES["thorough"].problems.values()) == 1000
    assert PROFILES["thorough"].starts > 0
    assert PROFILES["fast"].starts == PROFILES["default"].starts == 0


def test_every_statement_has_a_row():
    wanted = {
        "liu": [f"L{i}" for i in range(1, 14)],
        "zhu": [f"Z{i}" for i in range(1, 12)],
        "released": [f"N{i}" for i in range(1, 9)],
        "domingo": [f"D{i}" for i in range(1, 16)],
        "nabla": [f"G{i}" for i in range(1, 14)],
    }
    assert {paper: [c.id for c in claims] for paper, claims in SOURCES.items()} == wanted
    assert list(SOURCES) == list(PAPERS)
    for paper, claims in SOURCES.items():
        for claim in claims:
            assert claim.source.startswith(paper)


@pytest.mark.parametrize("claim", all_claims(), ids=lambda c: c.id)
def test_row_is_whole(claim):
    for key in ("source", "statement", "assumptions", "first", "second", "recorded"):
        text = getattr(claim, key)
        assert text == text.strip()
        assert text
    assert claim.parts
    assert claim.recorded in VERDICTS
    assert claim.recorded == "exact" or callable(claim.region)
    if claim.recorded in {"conditional", "false"}:
        assert claim.remark  # what is wrong, in words


@pytest.mark.parametrize("claim", all_claims(), ids=lambda c: c.id)
def test_identities_have_names_and_mutants_of_their_own(claim):
    identities = [part for part in claim.parts if isinstance(part, Identity)]
    assert len({part.name for part in identities}) == len(identities)
    for part in identities:
        # One that is expected to fail can have no mutant; every other needs one.
        assert part.mutants or (part.role == "claim" and claim.recorded == "false")
        assert 0 < part.share <= 1
        assert part.dims


def test_exact_rows_are_measured_with_mutants():
    """Rows on record as exact: an identity with mutants."""
    exact = [claim for claim in all_claims() if claim.recorded == "exact"]
    without = [
        claim.id
        for claim in exact
        if not any(isinstance(p, Identity) and p.role == "claim" and p.mutants for p in claim.parts)
    ]
    assert len(exact) > 10
    assert not without
