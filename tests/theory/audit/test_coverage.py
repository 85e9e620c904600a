"""The cells of the coverage bench: their sizes, their estimands, what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.theory.audit.synthetic import SIGMAS, gaussians
from theory.audit import coverage
from theory.audit.coverage import SPREADS, Cell, count, mean_tilt, own_mean
from theory.audit.families.families import FAMILIES
from theory.common.tolerances import FALSE_FAILURE_RATE


@pytest.mark.parametrize("spread", SPREADS)
def test_sizes(spread):
    n0, n1 = Cell(spread, 50, 0.0).sizes
    assert min(n0.min(), n1.min()) >= 1
    rows = n0 + n1
    assert {"one large": 0.85 < rows[0] / rows.sum() < 0.95, "few": rows.max() <= 4}.get(
        spread, True
    )
    assert Cell(spread, 50, 0.0).ordinary == (spread != "one large")


def test_own_mean_is_what_many_rows_say():
    """Four prompts of 40,000 rows: their likeliest tilt is the estimand, not their plain mean."""
    cell = Cell("equal", 4, 1.0, 0.5)
    tilts = np.array([0.2, 0.9, 1.4, 2.0])
    rng = np.random.default_rng(0)
    pooled = gaussians(rng, 4, 40_000, 40_000, tilts).pooled
    fitted = FAMILIES["exponential"].fit(pooled)
    error = 1 / np.sqrt(fitted.fit.information[0, 0]) / pooled.spread
    assert abs(own_mean(cell, tilts) - fitted.parameters["a"]) < SIGMAS * error
    assert abs(tilts.mean() - fitted.parameters["a"]) > SIGMAS * error


@pytest.mark.slow
def test_mean_tilt_of_prompts_like_these():
    """Where tilts differ, larger ones say less of themselves: a little below their mean, for the
    same reason by simulation and by quadrature over the tilts' law."""
    cell = Cell("equal", 10, 1.0, 0.3)
    law = 1.0 + 0.3 * stats.norm.ppf((np.arange(400) + 0.5) / 400)
    many = own_mean(Cell("equal", 400, 1.0, 0.3), law)
    assert abs(mean_tilt(cell) - many) < (1 - many) / 2  # and so told from the plain mean
    assert 0.01 < 1 - mean_tilt(cell) < 0.05
    assert mean_tilt(Cell("equal", 10, 1.0)) == 1.0


@pytest.mark.slow
def test_mean_tilt_is_not_that_of_the_prompts_drawn(monkeypatch):
    """Two draws that are each other's mirror image agree, whatever tilts a few large prompts have:
    two independent ones differ by 0.7 of an interval's standard error."""
    cell = Cell("power", 2000, 1.0, 0.3)
    rows = sum(cell.sizes)
    error = cell.differ * np.sqrt((rows**2).sum()) / rows.sum()
    monkeypatch.setattr(coverage, "SIMULATED", int(2 * rows.sum()))
    found = []
    for seed in range(6):
        monkeypatch.setattr(coverage, "ESTIMAND_SEED", seed)
        found.append(mean_tilt.__wrapped__(cell))
    assert np.std(found) < error / 3


@pytest.mark.parametrize("spread", ["one large", "power"])
def test_counts(spread):
    """A quick look at two of the bench's cells: the level within the false-failure rate."""
    found = count(Cell(spread, 10, 0.0, 0.3), 0, 60)
    law = stats.binom(found["concludes"], 0.95)
    assert found["drawn"] == found["concludes"] == 60
    assert found["holds"] >= law.ppf(FALSE_FAILURE_RATE)
    assert found["like"] == (60 if spread == "power" else 0)
    assert found["one"] == 0
