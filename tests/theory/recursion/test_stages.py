"""What each method's optimum reaches of exp(a r), against routes that share no code with it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

import theory.recursion.stages as frontier
from theory.common.tolerances import ALGEBRA, QUADRATURE_2D, QUADRATURE_TIGHT
from theory.evaluation.grids import tilt_on_grid
from theory.problems.problem import load_problem
from theory.recursion import Recursion, carry
from theory.recursion.flow import Velocity
from theory.recursion.moments import Fields
from theory.recursion.stages import (
    reached,
    reached_by_draws,
    staged_laws,
    stages_for,
    total_variation,
    weight_share,
)
from theory.tilts.wrappers import Exponential

NOTE = load_problem("note_1d")


# --- a second route: quadrature of two stages in d = 1, and an ODE by scipy

NODES = np.linspace(-8.0, 8.0, 1001)
LAST = 0.96  # from here to t = 1 one implicit step: the posterior gets narrower than the nodes


def _base(y: np.ndarray) -> np.ndarray:
    parts = zip((0.65, 0.35), (-1.2, 1.1), (0.6, 0.9), strict=True)
    return sum(w * np.exp(-(((y - m) / s) ** 2) / 2) / s for w, m, s in parts) / math.sqrt(
        2 * math.pi
    )


def _posterior(q: np.ndarray, x: np.ndarray, t: float) -> tuple[np.ndarray, ...]:
    """(E[Y|x], E[r|x], Cov(Y, r|x)) under data density q on NODES, Y = X_1 - X_0."""
    noise = (x[:, None] - t * NODES) / (1 - t)
    weight = np.exp(-(noise**2) / 2 + (noise**2).min(1, keepdims=True) / 2) * q
    weight /= weight.sum(1, keepdims=True)
    y, r = NODES - noise, np.exp(-((NODES - 2) ** 2) / 2)
    mean, reward = (weight * y).sum(1), weight @ r
    return mean, reward, (weight * y * r).sum(1) - mean * reward


def _first(h: float):
    """The first stage's field."""
    q = _base(NODES)

    def field(t: float, x: np.ndarray) -> np.ndarray:
        u, _, cov = _posterior(q, x, t)
        return u + h * cov

    return field


def _density(field, points: np.ndarray) -> np.ndarray:
    """Of the flow's law: x_0 of points and its slope by differences between neighbours."""
    late = points.copy()
    for _ in range(6):
        late = points - (1 - LAST) * field(LAST, late)
    back = solve_ivp(
        lambda s, x: -field(LAST - s, x), (0, LAST), late, method="RK45", rtol=1e-4, atol=1e-5
    )
    x0 = back.y[:, -1]
    return np.exp(-(x0**2) / 2) / math.sqrt(2 * math.pi) * np.gradient(x0, points, edge_order=2)


@pytest.mark.parametrize("kind", ["nft", "explicit"])
def test_two_stages_against_quadrature(kind):
    h = 1.5
    first = _first(h)
    coarse = np.linspace(-5, 5, 161)
    one = np.interp(NODES, coarse, _density(first, coarse), left=0, right=0)

    def second(t: float, x: np.ndarray) -> np.ndarray:
        old = first(t, x)
        u, m, cov = _posterior(one, x, t)
        return old + h * cov + h * (m - (0.5 if kind == "nft" else 0.0)) * (u - old)

    points = np.linspace(-2, 4, 121)
    expected = _density(second, points)[2:-2]
    error = {}
    for name in ("nft", "explicit"):
        law = staged_laws(NOTE, name, h, 2)[-1]
        error[name] = np.abs(np.interp(points, law.axes[0], law.density)[2:-2] - expected).max()
    assert error[kind] < 0.01 * expected.max()
    assert max(error.values()) > 2 * error[kind]


def _random_fields(rng: np.random.Generator) -> tuple[Velocity, Fields]:
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((3, 5, *shape))

    names = {f.name: f for f in dataclasses.fields(Fields)}
    vectors = {"u", "cov", "grad_mean", "score"}
    made = {n: normal(2) if n in vectors else normal() for n in names}
    return Velocity(normal(2), normal()), Fields(**made)


def test_a_stage_is_the_regression_on_its_loss_s_target():
    """nft: v + h E[(r - 1/2)(Y - v)]; explicit: v + h E[r (Y - v)]; with divergences."""
    old, f = _random_fields(np.random.default_rng(4))
    h, m = 0.6, f.mean[..., None]
    both = f.cov + m * f.u  # E[r Y | x]
    div_both = f.div_cov + (f.grad_mean * f.u).sum(-1) + f.mean * f.div_u
    goal = {
        "explicit": (
            old.v + h * (both - m * old.v),
            old.div + h * (div_both - (f.grad_mean * old.v).sum(-1) - f.mean * old.div),
        )
    }
    v, div = goal["explicit"]
    goal["nft"] = v - 0.5 * h * (f.u - old.v), div - 0.5 * h * (f.div_u - old.div)
    for kind, (v, div) in goal.items():
        new = frontier._stage(kind, old, f, h)
        assert ALGEBRA.holds(new.v[1:], v[1:], 1.0)
        assert ALGEBRA.holds(new.div[1:], div[1:], 1.0)
        assert np.array_equal(new.v[0], old.v[0])
    assert not ALGEBRA.holds(goal["nft"][0], goal["explicit"][0], 1.0)


def test_nft_stages_are_the_online_recursion():
    stages, h = 4, 0.5
    laws = staged_laws(NOTE, "nft", h, stages)
    spec = Recursion(nft_beta=2 / h, mode="student")
    trusted = carry(NOTE, spec, stages, list(laws[0].axes))
    for mine, theirs in zip(laws, trusted, strict=True):
        assert QUADRATURE_2D.holds(mine.density, theirs.density, theirs.density.max())
    refit = carry(NOTE, Recursion(nft_beta=2 / h, mode="refit"), stages, list(laws[0].axes))
    gap = np.abs(refit.laws[-1].density - laws[-1].density).max()
    assert gap > 10 * QUADRATURE_2D.rtol * laws[-1].density.max()


@pytest.mark.slow
def test_one_stage_is_one_law_for_both_first_order_losses():
    both = [reached(NOTE, kind, 3.0) for kind in ("nft", "explicit")]
    assert both[0] == both[1]
    staged = staged_laws(NOTE, "nft", 3.0, 1)[-1]
    target = tilt_on_grid(NOTE.tilt(Exponential(3.0)), staged.axes)
    tv = 0.5 * np.abs(staged.density - target.density).sum() * np.diff(staged.axes[0])[0]
    assert tv == pytest.approx(both[0].tv.value, rel=1e-3)


@pytest.mark.slow
def test_error_falls_as_one_over_stages():
    """In K stages of a/K the bias is of first order in 1/K; both losses, and the unbiased ones."""
    for kind in ("nft", "explicit"):
        eight, sixteen = (reached(NOTE, kind, 3.0, k).share for k in (8, 16))
        assert 1.8 < eight / sixteen < 2.2
    for kind in ("implicit", "weighted"):
        exact = reached(NOTE, kind, 3.0)
        assert exact.tv.value <= max(exact.tv.floor, QUADRATURE_TIGHT.rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["note_1d", "bump_2d"])
def test_draws_against_the_grid(name):
    problem, total = load_problem(name), 3.0
    drawn = reached_by_draws(problem, "nft", total, n=4000)
    law = staged_laws(problem, "nft", total, 1)[-1]
    exact = frontier._compared(law, problem, total)
    assert abs(drawn.tv.value - exact.tv.value) < drawn.tv.floor + exact.tv.floor
    assert exact.tv.value > 3 * drawn.tv.floor  # so that no distance at all would be seen
    assert abs(drawn.to_go - exact.to_go) < 0.03
    assert reached_by_draws(problem, "implicit", total, n=100).tv.value == 0


def test_many_dimensions():
    wide = load_problem("wide_64d")
    near, far = (reached_by_draws(wide, "nft", a, n=200) for a in (4.0, 16.0))
    assert near.share < 0.6 * far.share


# --- the effective share of weighted draws


def _weight_share_by_quadrature(h: float, before: float) -> float:
    def r(y: float) -> float:
        return math.exp(-((y - 2) ** 2) / 2)

    def total(a: float) -> float:
        return quad(
            lambda y: float(_base(np.array(y))) * math.exp(a * r(y)),
            -12,
            12,
            epsabs=0,
            epsrel=1e-11,
            limit=400,
            points=[-1.2, 1.1, 2.0],
        )[0]

    return total(before + h) ** 2 / (total(before) * total(before + 2 * h))


@settings(max_examples=15, deadline=None)
@given(total=st.floats(0.1, 12.0), stages=st.integers(1, 4))
def test_weight_share(total, stages):
    h = total / stages
    every = [_weight_share_by_quadrature(h, j * h) for j in range(stages)]
    found = weight_share(NOTE, total, stages)
    assert QUADRATURE_TIGHT.holds(found, min(every))
    wrong = _weight_share_by_quadrature(h, -h)  # one stage off
    assert stages > 1 or not QUADRATURE_TIGHT.holds(found, wrong)
    assert 0 < found < 1


def test_weight_share_in_64_dimensions_against_draws():
    wide = load_problem("wide_64d")
    weight = (4.0 * wide.reward(wide.base.sample(20_000, torch.Generator().manual_seed(0)))).exp()
    drawn = float(weight.mean() ** 2 / weight.square().mean())
    assert weight_share(wide, 4.0) == pytest.approx(drawn, rel=0.02)
    assert weight_share(wide, 8.0) < 0.8 * drawn


def test_total_variation_of_two_normals():
    x = torch.randn(40_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = total_variation(-0.5 * x**2, -0.5 * (x - 1) ** 2)
    expected = math.erf(0.5 / math.sqrt(2))
    assert abs(found.value - expected) < found.floor
    assert abs(found.value - 2 * expected) > found.floor  # the sum without its half


# --- how many stages


def test_stages_for():
    stages, shares = np.array([2.0, 4, 8]), np.array([0.4, 0.2, 0.1])
    for share in (0.3, 0.15, 0.1, 0.02):
        assert stages_for(share, stages, shares) == pytest.approx(0.8 / share)
    with pytest.raises(ValueError, match="at least two, falling"):
        stages_for(0.1, stages, shares[::-1])


def test_a_grid_that_loses_mass_is_refused(monkeypatch):
    monkeypatch.setitem(frontier.NODES, 1, 32)
    with pytest.raises(ValueError, match=r"must lose|leave"):
        staged_laws(NOTE, "nft", 4.0, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reached(NOTE, "other", 1.0), "kind must be one of nft, .*got 'other'"),
        (lambda: reached(NOTE, "nft", 0.0), "total must .*got 0.0"),
        (lambda: reached(NOTE, "nft", 1.0, 0), "stages must .*got 0"),
        (lambda: reached(load_problem("wide_64d"), "nft", 1.0), "must have d = 1 or 2 .*got 64"),
        (lambda: staged_laws(NOTE, "implicit", 1.0, 2), "kind must .*got 'implicit'"),
        (lambda: reached_by_draws(NOTE, "nft", 1.0, n=1), "n must .*got 1"),
        (lambda: weight_share(NOTE, -1.0), "total must .*got -1.0"),
        (lambda: stages_for(0.0, np.ones(2), np.ones(2)), "share must .*got 0.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
