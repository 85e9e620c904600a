"""Mistakes in the early refusal of laws that are too thin for a grid, and in quantiles on one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.mutants.harness import mutant_module
from theory.common.tolerances import QUADRATURE
from theory.evaluation import report
from theory.evaluation.choices import choose_field
from theory.evaluation.grids import RoundTrip, make_grid, mixture_on_grid
from theory.laws import distances
from theory.problems.problem import load_problem

# --- laws that are denser than one a cell


def refuses(check, pushed, *axes) -> bool:
    try:
        check(pushed, axes, "another field")
    except ValueError:
        return True
    return False


def on_the_line(share: float, spacing: float) -> RoundTrip:
    """100 points of one share each: a part of them as near as `spacing` from 0 on, others far."""
    near = round(share * 100)
    gaps = np.array([0.02] * (100 - near) + [spacing] * near)
    end = torch.as_tensor(np.cumsum(gaps) - gaps[: 100 - near].sum())[:, None]
    shares = torch.full((100,), 0.01, dtype=torch.float64)
    return RoundTrip(end, shares, torch.ones(1), end, None)


def in_the_plane(share: float, density: float) -> RoundTrip:
    """100 points of one share each, a part of them of this density, others of density 1."""
    points = torch.zeros(100, 2, dtype=torch.float64)
    log = torch.zeros(100, dtype=torch.float64)
    log[: round(share * 100)] = float(np.log(density))
    return RoundTrip(points, torch.full_like(log, 0.01), torch.ones(1), points, log)


EVEN = np.linspace(-4, 4, 161)  # steps of 0.05: thin below a spacing of 0.01 * 0.05
WIDER = np.concatenate([np.linspace(-4, -0.05, 80), np.linspace(0, 4, 41)])  # of 0.1 from 0 on
PLANE = (np.linspace(-4, 4, 161), np.linspace(-4, 4, 81))  # cells of 0.005


def right_refusals(module=report) -> bool:
    check = module._check_cells
    return (
        refuses(check, on_the_line(0.3, 4e-4), EVEN)
        and not refuses(check, on_the_line(0.2, 4e-4), EVEN)
        and not refuses(check, on_the_line(0.3, 6e-4), EVEN)
        and refuses(check, on_the_line(0.3, 6e-4), WIDER)
        and refuses(check, in_the_plane(0.3, 210), *PLANE)
        and not refuses(check, in_the_plane(0.2, 210), *PLANE)
        and not refuses(check, in_the_plane(0.3, 190), *PLANE)
    )


def test_the_refusals_are_right():
    assert right_refusals()


CELLS = {
    "shares not halved": ("(shares[1:] + shares[:-1]) / 2", "shares[1:] + shares[:-1]"),
    "one step for all cells": ("np.diff(axis))", "np.full(len(axis) - 1, axis[1] - axis[0]))"),
    "sparse for dense": ("shares * cells > np.diff(end)", "shares * cells < np.diff(end)"),
    "spacing for its mass": ("shares * cells > np.diff(end)", "cells > np.diff(end)"),
    "the cell's sign": ("+ math.log(cell) > 0", "- math.log(cell) > 0"),
    "the cell left out": ("pushed.log_density + math.log(cell) > 0", "pushed.log_density > 0"),
    "one axis alone": ("np.prod([a[1] - a[0] for a in axes])", "axes[0][1] - axes[0][0]"),
}


@pytest.mark.parametrize("name", CELLS)
def test_mutant_of_the_early_refusal_is_rejected(name):
    assert not right_refusals(mutant_module(report.__name__, CELLS[name]))


@pytest.mark.parametrize("most", [0.1, 0.5])
def test_another_share_of_thin_mass_is_rejected(most, monkeypatch):
    monkeypatch.setattr(report, "MOST_THIN", most)
    assert not right_refusals()


def test_the_refusal_is_early(monkeypatch):
    """Without it the whole work is done first."""
    problem = load_problem("note_1d")
    calls = []

    def work(*given):
        calls.append(given)
        raise ValueError("the work is done")

    def thin(*given):
        raise ValueError("thin")

    monkeypatch.setattr(report, "flow_and_back", work)
    monkeypatch.setattr(report, "_check_cells", thin)
    for early in (True, False):
        with pytest.raises(ValueError, match="thin" if early else "the work is done"):
            report.law_report(problem, choose_field(problem, "base"))
        monkeypatch.setattr(report, "_check_cells", lambda *given: None)
    assert len(calls) == 1


# --- quantiles


def right_quantiles(module=distances) -> bool:
    """By the mixture's own cdf; beyond what the grid reaches, its ends."""
    problem = load_problem("note_1d")
    whole = mixture_on_grid(problem.base, make_grid(problem, problem.base_field, {}))
    law = module.GridLaw(whole.axes, whole.log_density, whole.cdf)
    u = np.linspace(0.001, 0.999, 199)
    beyond = module.GridLaw(law.axes, law.log_density, 0.1 + 0.8 * law.cdf)
    with np.errstate(all="ignore"):
        found = problem.base.cdf(torch.as_tensor(law.quantile(u)))
        low, high = beyond.quantile(np.array([0.05, 0.95]))
    ends = low == law.axes[0][0] and law.axes[0][-40] < high <= law.axes[0][-1]
    return bool(ends and QUADRATURE.holds(found, u, scale=1.0))


def test_the_quantiles_are_right():
    assert right_quantiles()


def with_slopes(of):
    """Another slope of the cdf's spline."""
    return lambda whole: lambda y, cdf, slope: whole(y, cdf, of(slope))


def straight(whole):
    return lambda y, cdf, slope: lambda x: np.interp(x, y, cdf)


SPLINES = {
    "straight between points": straight,
    "level at the points": with_slopes(lambda slope: 0 * slope),
    "slopes of half": with_slopes(lambda slope: slope / 2),
    "slopes of the next point": with_slopes(lambda slope: np.roll(slope, -1)),
}


@pytest.mark.parametrize("name", SPLINES)
def test_mutant_of_the_quantiles_spline_is_rejected(name):
    assert not right_quantiles(mutant_module(distances.__name__, CubicHermiteSpline=SPLINES[name]))


QUANTILES = {
    "levels beyond the grid": ("np.clip(u, cdf[0], cdf[-1])", "np.asarray(u)"),
    "the cell after": ("np.searchsorted(cdf, level) - 1", "np.searchsorted(cdf, level)"),
    "the level's complement": ("spline(x) - u", "spline(x) - (1 - u)"),
}


@pytest.mark.parametrize("name", QUANTILES)
def test_mutant_of_the_quantiles_is_rejected(name):
    assert not right_quantiles(mutant_module(distances.__name__, QUANTILES[name]))
