"""Closed forms against the quadrature oracle, over random problems."""

from __future__ import annotations

import pytest
from hypothesis import assume, given

from tests.strategies import MANY, SOME, cases
from theory.common.tolerances import QUADRATURE_TIGHT
from theory.ledger.oracle import QuadratureError
from theory.ledger.settings.plane import disagreement


def check(drawn) -> None:
    case, x, t = drawn
    try:
        errors = disagreement(case, x, t)
    except QuadratureError:
        assume(False)  # the second route gave up: nothing was compared
    wrong = {name: e for name, e in errors.items() if not e <= QUADRATURE_TIGHT.rtol}
    assert not wrong


@pytest.mark.slow
@given(cases(dims=(1,)))
@MANY
def test_line(drawn):
    check(drawn)


@pytest.mark.slow
@given(cases(dims=(2,)))
@SOME
def test_plane(drawn):
    check(drawn)


@given(cases(dims=(3, 4, 5)))
@SOME
def test_rotated_plane(drawn):
    check(drawn)
