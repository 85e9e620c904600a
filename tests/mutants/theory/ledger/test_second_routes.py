"""Second routes that lead to the first, each caught by one of the walks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.theory.ledger.test_second_routes import offences, strangers
from theory.fields import mixture as fields
from theory.ledger.liu.identities import covariance, guided
from theory.ledger.oracle import conditional
from theory.ledger.settings.problems import Setting, full_rank_setting


def _helper(s):
    return s.problem.base_field(s.point, s.t)


def _hidden_import(s):
    from theory.ledger.zhu import points

    return points.guidance(s)


def _in_a_branch(s):
    return conditional.covariance(s.case, s.x, s.at) if s.t >= 0 else covariance(s)


def _nested(s):
    def inside(r):
        return r * s.spread

    return conditional.velocity(s.case, s.x, s.at, inside)


def _captured() -> Callable[[Setting], Any]:
    law = Setting.problem
    return lambda s: law.func(s).base_field(s.x, s.t)


WRONG: dict[str, Callable[[Any], Any]] = {
    "theory.fields.mixture": lambda s: fields.MixtureField(s.x)(s.x, s.t),
    "a first route": covariance,
    "a first route with a factor": lambda s: guided(s, 2.0),
    "attribute problem": lambda s: s.problem.base_field(s.x, s.t),
    "attribute of the case": lambda s: s.case.problem(),
    "attribute point": lambda s: np.asarray(s.point),
    "attribute spread": lambda s: s.spread * conditional.covariance(s.case, s.x, s.at),
    "attribute family": lambda s: s.family.velocity(s.x, s.t, s.a),
    "a helper": lambda s: _helper(s),
    "hidden import": _hidden_import,
    "in a branch not taken": _in_a_branch,
    "in a nested function": _nested,
    "captured": _captured(),
    "by its name": lambda s: getattr(s, "problem").base_field,  # noqa: B009
}


@pytest.mark.parametrize("name", WRONG)
def test_mutant_routes_are_caught(name, monkeypatch):
    """As if they stood in theory.ledger."""
    route = WRONG[name]
    for function in (route, _helper):
        monkeypatch.setattr(function, "__module__", "theory.ledger.liu.rows")
    found = offences(route)
    assert found


@pytest.mark.parametrize("name", ["a first route", "by its name", "attribute spread"])
def test_mutant_runs_are_caught(name):
    route = WRONG[name]
    setting = Setting.unpack(full_rank_setting(2, 1).pack())
    if name == "by its name":

        def run():
            return route(setting)(setting.point, setting.t)
    else:

        def run():
            return route(setting)

    first = {"fields/mixture.py", "problems/problem.py", "tilts/conditional.py"}
    assert first & strangers(run)
