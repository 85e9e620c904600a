"""Where identities are tried: drawn, packed, nudged; and the search for the worst of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE_TIGHT
from theory.fields.paths import PATHS
from theory.ledger.core.claim import Context, Profile
from theory.ledger.core.identity import Identity
from theory.ledger.oracle import QuadratureError, conditional
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.settings.atoms import Atoms
from theory.ledger.settings.couplings import Couplings
from theory.ledger.settings.lemma import Lemmas
from theory.ledger.settings.problems import REACH, TIMES, Problems, full_rank_setting
from theory.ledger.settings.random import SPREADS
from theory.tilts.wrappers import Exponential

DOMAINS: dict[str, Any] = {
    "problems": Problems(),
    "bumps on every path": Problems(kinds=("bumps",), paths=tuple(PATHS)),
    "well-conditioned": Problems(max_condition=10.0),
    "dependent": Couplings(),
    "independent": Couplings(dependent=False),
    "lemmas": Lemmas(),
    "atoms": Atoms(),
}
DIMS = (1, 2, 5)


def text(setting: Any) -> str:
    return json.dumps(setting.pack(), sort_keys=True)


@pytest.fixture(params=DOMAINS)
def domain(request):
    return DOMAINS[request.param]


@pytest.mark.parametrize("dim", DIMS)
def test_draw_is_a_function_of_the_seed(domain, dim):
    first, again = domain.draw(dim, 3), domain.draw(dim, 3)
    assert text(first) == text(again) != text(domain.draw(dim, 4))
    assert first.dim == (1 if isinstance(domain, Atoms) else dim)


@pytest.mark.parametrize("dim", DIMS)
def test_json_and_back(domain, dim):
    """Bit for bit, and so the same quantities."""
    setting = domain.draw(dim, 5)
    back = domain.unpack(json.loads(json.dumps(setting.pack())))
    assert type(back) is type(setting)
    assert text(back) == text(setting)
    assert back.describe() == setting.describe()
    assert "\n" not in setting.describe()
    assert 10 < len(setting.describe()) < 250


def test_unpacked_settings_give_the_same_values():
    setting = Problems().draw(2, 8)
    back = Problems().unpack(json.loads(text(setting)))
    route = conditional.covariance
    assert np.array_equal(
        route(setting.case, setting.x, setting.at), route(back.case, back.x, back.at)
    )
    coupling = Couplings().draw(2, 8)
    again = Couplings().unpack(json.loads(text(coupling)))
    for one, two in ((coupling.family.factors, again.family.factors), (coupling.x, again.x)):
        assert np.array_equal(np.asarray(one), np.asarray(two))


@pytest.mark.parametrize("dim", DIMS)
def test_nudge_stays_inside(domain, dim):
    """Small steps move, and a walk of large ones is stopped at the border."""
    rng = np.random.default_rng(0)
    start = setting = domain.draw(dim, 0)
    moved = refused = 0
    for i in range(60):
        new = domain.nudge(setting, rng, 0.05 if i < 30 else 2.0)
        if new is None:
            refused += 1
            continue
        moved += 1
        assert new.dim == start.dim
        assert text(new) != text(setting)
        inside(domain, new)
        setting = new
    assert moved > 5
    assert refused > 0


def kept_tilts(kind=Problems):
    """Where a < 0 and r falls exp(a r) grows: too steep a tilt is no neighbour, a mild one is."""
    domain = kind(kinds=("quadratic",))
    case = replace(
        domain.draw(1, 0).case,
        parameters={"matrix": np.array([[-1.0]]), "vector": np.zeros(1), "constant": np.array(0.0)},
    )
    top = float(np.linalg.eigvalsh(case.covs).max())
    rng = np.random.default_rng(0)
    found = {}
    for factor in (-0.05, -0.7):
        setting = replace(domain.draw(1, 0), case=case, a=factor / top)
        found[factor] = [domain.nudge(setting, rng, 1e-3) for _ in range(5)]
    mild = [m for m in found[-0.05] if m is not None]
    for m in mild:
        assert np.isfinite(float(m.problem.tilt(Exponential(m.a)).log_z))
    return len(mild) == 5 and not any(found[-0.7])


def test_nudged_quadratics_keep_their_tilt():
    assert kept_tilts()


def inside(domain: Any, s: Any) -> None:
    if isinstance(domain, Problems):
        assert TIMES[0] <= s.t <= TIMES[1]
        assert SPREADS[0] <= s.spread <= SPREADS[1]
        assert s.case.condition <= domain.max_condition
        assert s.case.kind in domain.kinds
        assert np.isclose(s.case.weights.sum(), 1)
        assert (np.linalg.eigvalsh(s.case.covs) > 0).all()
        if s.case.kind == "bumps":
            assert (s.case.parameters["heights"] > 0).all()
            assert 1 + s.a * s.case.parameters["heights"].sum() >= 0  # the weight 1 + a r
        at, e = s.at, s.case.plane_dim
        gap = (s.case.frame.T @ s.x)[:e] - at.alpha * s.case.means
        covs = at.alpha**2 * s.case.covs + at.sigma**2 * np.eye(e)
        near = min(g @ np.linalg.solve(c, g) for g, c in zip(gap, covs, strict=True))
        assert near <= REACH**2 * (1 + ALGEBRA.rtol)
    elif isinstance(domain, Couplings):
        e = s.joint.plane_dim
        assert 0 <= s.t < 1
        assert np.array_equal(
            s.joint.factors[:, :e, :e], np.tile(np.eye(e), (len(s.joint.logits), 1, 1))
        )
        assert domain.dependent or not s.joint.factors[:, e:, :e].any()
        assert not s.joint.means[:, :e].any()  # X_0 ~ N(0, I) at every a
        assert not s.joint.factor_rates[:, :e].any()
    elif isinstance(domain, Atoms):
        for p in (s.p_k, s.p_0):
            assert p.min() > 0
            assert np.isclose(p.sum(), 1)
        assert min(s.eta_0, s.eta_1) > 0
    else:
        assert 0.05 < s.b < 20


@pytest.mark.parametrize("key", ["problems", "bumps on every path"])
@pytest.mark.parametrize("seed", range(6))
def test_draws_are_inside(key, seed):
    domain = DOMAINS[key]
    setting = domain.draw(1, seed)
    assert TIMES[0] <= setting.t <= TIMES[1]
    assert setting.case.kind in domain.kinds
    assert setting.path in domain.paths


def test_couplings_are_as_dependent_as_they_say():
    words = [DOMAINS[k].draw(1, 0).describe() for k in ("dependent", "independent")]
    assert ", dependent coupling" in words[0]
    assert ", independent coupling" in words[1]
    zeros = [Couplings().draw(1, seed).a == 0 for seed in range(40)]
    assert 5 < sum(zeros) < 35  # at a = 0 and away from it


def test_spread_that_sizes_errors_is_no_invention():
    """Setting.spread is theory's; a wrong one would loosen every comparison. Against draws."""
    rng = np.random.default_rng(0)
    for seed in range(8):
        s = Problems().draw(1, seed)
        which = rng.choice(len(s.case.weights), size=100_000, p=s.case.weights)
        y = s.case.means[which, 0] + np.sqrt(s.case.covs[which, 0, 0]) * rng.normal(size=100_000)
        r = s.case.reward(y[:, None])
        square = (r - r.mean()) ** 2
        error = square.std() / np.sqrt(len(r))
        bound = np.sqrt(2 * np.log(2 * 8 / FALSE_FAILURE_RATE))
        assert abs(square.mean() - s.spread**2) < 2 * bound * error


@pytest.mark.parametrize("seed", range(3))
def test_full_rank_settings_vary_in_every_direction(seed):
    s = full_rank_setting(5, seed)
    assert isinstance(s.case, PlaneNumbers)
    assert s.case.plane_dim == s.dim == 5
    assert (np.linalg.eigvalsh(s.case.covs) > 0).all()
    assert s.case.kind == ("linear", "quadratic", "bumps")[seed]


# --- an identity over a domain


def truth(s: Any) -> Any:
    return np.sin(3 * s.x) + s.t


SMALL = Profile("small", {1: 12, 2: 2, 5: 1}, draws=100, cells=0)


def identity(first=truth, second=truth, **more: Any) -> Identity[Any]:
    options = {"tier": ALGEBRA, "mutants": {"off": lambda s: truth(s) + 1e-3}} | more
    return Identity("planted", Problems(), first, second, **options)


def test_an_identity_that_holds():
    found = identity()(Context(SMALL, seed=1))
    assert found.holds
    assert found.mutants == {"off": True}
    assert found.numbers["settings"] == 15
    assert found.numbers["dims"] == [1, 2, 5]
    assert found.numbers["error"] == 0


def test_share_and_dims():
    found = identity(share=0.5, dims=(1, 2))(Context(SMALL))
    counts = [round(0.5 * SMALL.problems[d]) for d in (1, 2)]
    assert found.numbers["settings"] == sum(counts)
    # A small share leaves slow dimensions out, never the first.
    found = identity(share=1e-3)(Context(SMALL))
    assert found.numbers["settings"] == 1
    assert found.numbers["dims"] == [1]


def test_a_mutant_that_is_right_survives():
    assert identity(mutants={"the same": truth})(Context(SMALL)).mutants == {"the same": False}


def test_size_of_the_comparison():
    """Relative to the larger of the quantity and the size that is stated."""

    def off(s: Any) -> Any:
        return truth(s) + 5e-10

    assert not identity(off)(Context(SMALL)).holds
    assert identity(off, size=lambda s: 10.0)(Context(SMALL)).holds


def giving_up(share: float):
    def second(s: Any) -> Any:
        if (s.t * 1e6) % 1 < share:
            raise QuadratureError("too hard")
        return truth(s)

    return second


def test_second_route_that_gives_up():
    some = identity(second=giving_up(0.2))(Context(SMALL))
    assert 0 < some.numbers["gave_up"] <= 3
    assert some.holds
    assert "gave up on" in some.figure
    assert not identity(second=giving_up(0.6))(Context(SMALL)).holds
    every = identity(second=giving_up(1.0))(Context(SMALL))
    assert not every.holds
    assert every.mutants == {"off": False}


def test_first_route_without_a_number():
    """On one setting of fifteen: not to be taken for quadrature that gave up."""

    def first(s: Any) -> Any:
        return np.full(s.dim, np.nan) if s.dim == 5 else truth(s)

    found = identity(first)(Context(SMALL))
    assert not found.holds
    assert found.numbers["gave_up"] == 0


def test_second_route_without_a_number():
    with pytest.raises(ValueError, match="planted: the second route gives"):
        identity(second=lambda s: truth(s) * np.nan)(Context(SMALL))


def sampled(s: Any, n: int, rng: np.random.Generator) -> Any:
    draws = truth(s) + rng.normal(size=(n, s.dim))
    return draws.mean(0), draws.std(0) / np.sqrt(n)


def test_draws_in_full_rank():
    context = Context(replace(SMALL, draws=20_000), seed=2)
    wrong = {"off": lambda s: truth(s) + 0.2}
    found = identity(sampled=sampled, mutants=wrong)(context)
    assert found.holds
    assert found.numbers["z"] <= found.numbers["z_bound"]
    assert found.numbers["rejected_by_draws"] == {"off": True}
    # Without a wrong version that draws can see the check says nothing.
    assert not identity(sampled=sampled)(context).holds

    def first(s: Any) -> Any:
        return truth(s) + (0.2 if s.case.plane_dim == 5 else 0.0)

    assert not identity(first, sampled=sampled, mutants=wrong)(context).holds

    def lost(s: Any) -> Any:
        return truth(s) * (np.nan if s.case.plane_dim == 5 else 1.0)

    assert not identity(lost, sampled=sampled, mutants=wrong)(context).holds


# --- search and record


def test_lemmas_are_exact_rationals():
    s = Lemmas().draw(2, 0)
    for name in ("v", "y", "mu", "other"):
        assert [float(q) for q in s.exact[name]] == getattr(s, name).tolist()
    assert QUADRATURE_TIGHT.rtol > ALGEBRA.rtol
