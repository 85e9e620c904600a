"""The theorems and the exact rows, over random problems: theory's closed form = second route.

PLUMBLINE_PROFILE=ci takes 50 examples a row in place of 22 or fewer, thorough takes 1,000.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.strategies import seeds
from tests.theory.ledger.identities import ROWS, parts_of, spots
from theory.ledger.core.identity import Identity
from theory.ledger.oracle import couplings

EXAMPLES = {"": (20, 2), "ci": (46, 4), "thorough": (940, 60)}
PROFILE = os.environ.get("PLUMBLINE_PROFILE", "")
# Examples of a row on the line and off it, shared by its parts; slow second routes get fewer.
LINE, OFF_LINE = EXAMPLES[PROFILE]
SLOW = {} if PROFILE else {"Z1": 5}


def examine(
    row: str, part: Identity, prepare: Callable[[Any], Any] = lambda s: s, share: float = 1.0
) -> None:
    """Compare both routes on the row's examples, `share` of them, divided among its parts."""
    identities = [p for p in ROWS[row].parts if isinstance(p, Identity)]
    plane = tuple(d for d in part.dims if d > 1)

    def check(dim: int, seed: int) -> None:
        setting = prepare(part.domain.draw(dim, seed))
        error = part.compare(setting, with_mutants=False).error
        assume(not np.isnan(error))  # the second route gave up: nothing was compared
        assert error <= part.tier.rtol, setting.describe()

    for dims, count in (((1,), SLOW.get(row, LINE)), (plane, OFF_LINE)):
        whole, left = divmod(int(share * count), len(identities))
        most = whole + (identities.index(part) < left)  # the first parts take what is left
        if dims and most:
            profile = settings(
                derandomize=True,
                deadline=None,
                max_examples=most,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            profile(given(dim=st.sampled_from(dims), seed=seeds)(check))()


@pytest.mark.parametrize(("row", "part"), parts_of("L1", "L6"))
def test_theorem_1_1(row, part):
    """v* = v0 + (2/beta) m_t (vhat - v0), its perturbations, and the three forms of the step."""
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("L7"))
def test_lemma_1_2(row, part):
    """The pointwise contrast is a square about v + (2r - 1)/beta (y - v)."""
    examine(row, part)


@pytest.mark.parametrize("at_zero", [True, False], ids=["at a = 0", "away"])
@pytest.mark.parametrize(("row", "part"), parts_of("L3", "L4"))
def test_theorem_1_3_couplings(row, part, at_zero):
    """The slope is the conditional covariance: dependent couplings (L3), independent ones (L4)."""

    def moved(setting):
        away = setting.a if setting.a else 0.35
        return replace(setting, a=0.0 if at_zero else away)

    examine(row, part, moved, 0.5)


@pytest.mark.parametrize(("row", "part"), parts_of("L5"))
def test_theorem_1_3_tilts(row, part):
    """pi_1 exp(a r): the slope is Cov_a(X_1 - X_0, r | X_t), at a = 0 and away from it."""
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("L2"))
def test_reward_weighted_density(row, part):
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("L11"))
def test_weighted_losses(row, part):
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("Z2"))
def test_guidance(row, part):
    """m_t (v+ - v_old) against eta_t grad m_t, on every path."""
    examine(row, part, share=0.3)


@pytest.mark.parametrize(("row", "part"), parts_of("N8"))
def test_old_copy_replaced_every_step(row, part):
    examine(row, part, share=0.3)


@pytest.mark.parametrize(("row", "part"), parts_of("Z1"))
def test_ratio_of_marginals(row, part):
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("Z3"))
def test_implied_score(row, part):
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("Z8"))
def test_two_penalties(row, part):
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("Z9", "Z10"))
def test_two_penalties_iterated(row, part):
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("N4"))
def test_old_copies(row, part):
    """Full updates and tilts of a schedule, and averaged factors against averaged products."""
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("N5"))
def test_normalised_errors(row, part):
    """Errors of x1 and of the velocity have one stationary point at every (x, t)."""
    examine(row, part)


@pytest.mark.parametrize(("row", "part"), parts_of("L12", "L13", "N1", "N2", "N3"))
def test_exact_parts_of_other_rows(row, part):
    """Rows that are conditional as a whole, and what of them is exact."""
    examine(row, part, share=0.3)


@pytest.mark.parametrize(("row", "part"), parts_of("Z5"))
def test_what_holds_instead(row, part):
    """Rows that are not exact, and the identity that replaces them."""
    examine(row, part, share=0.3)


def test_every_exact_row_is_here():
    """Every identity of every exact row is among the parameters above."""
    tested = {
        (mark.args[1][i].values[0], mark.args[1][i].values[1].name)
        for name, test in globals().items()
        if name.startswith("test_")
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "parametrize" and mark.args[0] == ("row", "part")
        for i in range(len(mark.args[1]))
    }
    exact = {
        (claim.id, part.name)
        for claim in ROWS.values()
        if claim.recorded == "exact"
        for part in claim.parts
        if isinstance(part, Identity)
    }
    assert exact <= tested
    assert {row for row, _ in exact} == {
        claim.id for claim in ROWS.values() if claim.recorded == "exact"
    }


HARD = {"L4": 1_000_993, "L5": 5_000_157}  # stencils of the second route were too wide here


@pytest.mark.parametrize("row", HARD)
def test_places_that_were_once_wrong(row):
    """A late time with a moving mixture; a narrow peak on a wide shoulder. mpmath agreed with the
    first route, the second was off by 5e-4 and 2e-7."""
    part = ROWS[row].parts[0]
    assert part.compare(part.domain.draw(1, HARD[row])).error <= part.tier.rtol


def test_wide_stencil_is_rejected(monkeypatch):
    part = ROWS["L4"].parts[0]
    monkeypatch.setattr(couplings, "LARGEST", 1.0)
    assert part.compare(part.domain.draw(1, HARD["L4"])).error > 1000 * part.tier.rtol


# --- declared mutants


@pytest.mark.parametrize(("row", "part"), parts_of(*ROWS))
def test_declared_mutants(row, part):
    """Each wrong version is rejected on one of a few problems, where the true one passes."""
    alive = dict(part.mutants)
    assert alive
    for setting in spots(part):
        compared = part.compare(setting)
        if not np.isnan(compared.error):
            assert compared.error <= part.tier.rtol
            alive = {k: v for k, v in alive.items() if not compared.mutants[k] > part.tier.rtol}
        if not alive:
            return
    raise AssertionError(f"survived: {', '.join(alive)}")


def test_printed_factor_is_no_factor():
    """Z2: with 2/beta, printed beside the sign of proportionality, for eta_t: beyond the tier
    wherever the gradient is no zero, so that its sign is seen."""
    (part,) = [p for p in ROWS["Z2"].parts if isinstance(p, Identity)]
    found = [part.compare(s).mutants for s in spots(part)]
    errors = [m["factor 2/beta"] for m in found if m["sign"] > part.tier.rtol]
    assert len(errors) >= 4
    assert min(errors) > 1e6 * part.tier.rtol


CONTROL = ("D1", "D2", "D3", "D4", "D5", "D6", "D8", "D9", "D11", "D12", "D13", "D14", "D15")


@pytest.mark.parametrize(("row", "part"), parts_of(*CONTROL))
def test_stochastic_control(row, part):
    """Paths, value functions, optimal laws and adjoints: the exact rows of domingo."""
    examine(row, part, share=1.0 if PROFILE == "thorough" else 0.25)
