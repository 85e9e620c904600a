"""What every identity of a row has to pass, for rows that are measured by their own tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.strategies import SOME, seeds
from tests.theory.ledger.identities import spots
from theory.ledger.core.claim import PROFILES, Claim
from theory.ledger.core.identity import Identity
from theory.ledger.core.search import search

FAST = PROFILES["fast"]


def identities_of(claim: Claim) -> list[Any]:
    return [pytest.param(p, id=p.name) for p in claim.parts if isinstance(p, Identity)]


def check_routes(part: Identity) -> None:
    """Both routes on random problems of every dimension of the part."""

    @SOME
    @given(dim=st.sampled_from(part.dims), seed=seeds)
    def check(dim: int, seed: int) -> None:
        error = part.compare(part.domain.draw(dim, seed), with_mutants=False).error
        assume(not np.isnan(error))  # the second route gave up: nothing was compared
        assert error <= part.tier.rtol

    check()


def check_mutants(part: Identity) -> None:
    """Each wrong version is rejected on one of a few problems, where the true one passes."""
    alive = dict(part.mutants)
    assert alive
    for setting in spots(part):
        compared = part.compare(setting)
        assert compared.error <= part.tier.rtol
        alive = {k: v for k, v in alive.items() if not compared.mutants[k] > part.tier.rtol}
    assert not alive


def check_search(part: Identity) -> None:
    """Starts and nudges stay in the domain, and settings survive JSON."""
    found = search(part, replace(FAST, starts=2, steps=2))
    assert found.errors
    assert max(found.errors) <= part.tier.rtol
    again = part.domain.unpack(found.settings[0])
    assert part.compare(again).error == pytest.approx(found.errors[0], abs=part.tier.rtol)


# What `test_second_routes` does for every row is not done again here.
CHECKS = [check_routes, check_mutants, check_search]
# Of rows whose parts `test_properties` compares too, and whose second routes take long.
SLOW_CHECKS = [pytest.param(check_routes, marks=pytest.mark.slow), check_mutants, check_search]
