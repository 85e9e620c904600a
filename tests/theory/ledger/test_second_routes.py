"""No second route leads to the first: by what its code names, and by what it calls.

Both walks start from every Identity's `second` and `sampled`. The first reads code objects, all
branches of them; the second watches one run. Settings hold numbers of both routes, so attributes
that lead to theory's objects are named, and everything else must be on a list of plain numbers.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

import theory
from theory.ledger import oracle
from theory.ledger.core.identity import Identity
from theory.ledger.oracle import QuadratureError
from theory.ledger.oracle.integrals.joint import JointNumbers
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.run import all_claims
from theory.ledger.settings.anchored import AnchoredSetting
from theory.ledger.settings.atoms import AtomSetting
from theory.ledger.settings.couplings import CouplingSetting
from theory.ledger.settings.gflownet import FlowSetting
from theory.ledger.settings.lemma import LemmaSetting
from theory.ledger.settings.linear import LinearSetting
from theory.ledger.settings.modes import AdvantageSetting, ModeSetting
from theory.ledger.settings.penalty import LineSetting, PenalisedSetting, TimedAtoms
from theory.ledger.settings.plane import PlaneProblem
from theory.ledger.settings.problems import Setting, full_rank_setting
from theory.ledger.settings.released import AtomBatch, BatchSetting, PromptSetting
from theory.ledger.settings.schedule import FactorSetting, ScheduleSetting
from theory.ledger.settings.steps import StepSetting

ROOT = Path(theory.__file__).parent
SETTINGS = (
    Setting,
    CouplingSetting,
    LemmaSetting,
    AtomSetting,
    PromptSetting,
    BatchSetting,
    AtomBatch,
    PenalisedSetting,
    TimedAtoms,
    LineSetting,
    ScheduleSetting,
    FactorSetting,
    LinearSetting,
    AdvantageSetting,
    ModeSetting,
    StepSetting,
    FlowSetting,
    AnchoredSetting,
)
MAY_USE = {"numpy", "scipy"} | set(sys.stdlib_module_names)
# Numbers of a setting, and what oracle's own objects and numpy's arrays have.
NUMBERS = {
    "case",
    "x",
    "t",
    "at",
    "path",
    "nft_beta",
    "a",
    "joint",
    "exact",
    "dim",
    "v",
    "y",
    "mu",
    "other",
    "r",
    "b",
    "m",
    "p_k",
    "p_0",
    "eta_0",
    "eta_1",
    "epochs",
    "scale",
    "alpha",
    "sigma",
    "dalpha",
    "dsigma",
    "weights",
    "means",
    "stds",
    "group",
    "prompts",
    "kl",
    "size",
    "A",
    "B",
    "decays",
    "flat",
    "rate",
    "most",
    "steps",
    "share",
    "frame",
    "plane_dim",
    "region",
    "log_joint",
    "T",
    "sum",
    "max",
    "ravel",
    "reward",
    "numbers",
    "shift",
    "g0",
    "g1",
    "F",
    "f",
    "Q",
    "q",
    "mean",
    "cov",
    "P",
    "p",
    "W",
    "centre",
    "gap",
    "k",
    "states",
    "x_next",
    "sigma_end",
    "first_time",
    "power",
    "form",
    "prior",
    "reward_std",
    "eta",
    "start_std",
    "without_reward",
    "next",
    "here",
    "log_weight",
    "policy_law",
    "residual_law",
    "noise",
    "flows",
    "back",
    "gaussian",
    "value",
    "slope",
    "held_slope",
    "variance",
    "log_mass",
    "covs",
    "axes",
    "log_reward",
    "smoothing",
    "parameters",
    "shifts",
    "scores",
    "rounds",
    "gains",
    "strength",
    "w_forward",
    "w_backward",
    "w_terminal",
}
BY_NAME = (vars, eval, exec, globals, locals, __import__)
# First routes in the ledger's rooms.
FIRST_HOMES = {
    f"theory.ledger.{name}"
    for name in (
        "settings.plane",
        "settings.random",
        "liu.stationary",
        "liu.noise",
        "domingo.line_chain",
    )
}
FIRST = ("problem", "family", "point", "spread", "route_path")
PARTS = [
    pytest.param(part, route, id=f"{claim.id}-{part.name}-{name}")
    for claim in all_claims()
    for part in claim.parts
    if isinstance(part, Identity)
    for name in ("second", "sampled")
    if (route := getattr(part, name)) is not None
]


# --- by code


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _texts(code: CodeType) -> set[str]:
    """Every text that could be an attribute's name: what a getattr could look up."""
    constants = [c for inner in _codes(code) for c in inner.co_consts]
    flat = [c for part in constants for c in (part if isinstance(part, tuple) else (part,))]
    names = {inner.co_qualname for inner in _codes(code)}
    return {c for c in flat if isinstance(c, str) and c.isidentifier()} - names


def _top(name: str) -> str:
    return name.split(".")[0]


def _is_oracles(name: str) -> bool:
    return name == "theory.ledger.oracle" or name.startswith("theory.ledger.oracle.")


def _is_claims(name: str) -> bool:
    """Whether code of that module is walked on: the ledger's own, that is neither route's home."""
    ledger = name.startswith("theory.ledger.")
    return ledger and not _is_oracles(name) and name not in FIRST_HOMES


def _is_allowed_module(name: str) -> bool:
    return _is_oracles(name) or _top(name) in MAY_USE


def _names(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """("value", what a global or a free variable stands for), ("attribute", name)."""
    free = inspect.getclosurevars(function).nonlocals
    for name in function.__code__.co_freevars:
        yield "value", free.get(name)
    for code in _codes(function.__code__):
        holder: Any = None  # the module that the attribute before was taken from
        for step in dis.get_instructions(code):
            if step.opname in {"IMPORT_NAME", "IMPORT_FROM"}:
                yield "import", step.argval
            if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                name = step.argval
                found = function.__globals__.get(name, getattr(builtins, name, None))
                yield "value", found
                holder = found if isinstance(found, ModuleType) else None
            elif step.opname in {"LOAD_ATTR", "LOAD_METHOD"}:
                if holder is None:
                    yield "attribute", step.argval
                else:
                    found = getattr(holder, step.argval)
                    yield "value", found
                    holder = found if isinstance(found, ModuleType) else None
            elif step.opname != "CACHE":
                holder = None


def offences(route: Any) -> set[str]:
    """What a second route refers to and must not; empty where it is independent."""
    found: set[str] = set()
    seen: set[int] = set()
    todo: list[Any] = [route]
    while todo:
        value = todo.pop()
        if id(value) in seen or value is None:
            continue
        seen.add(id(value))
        if isinstance(value, ModuleType):
            if not _is_allowed_module(value.__name__):
                found.add(f"module {value.__name__}")
        elif isinstance(value, FunctionType) and _is_claims(value.__module__):
            for kind, what in _names(value):
                if kind == "import":
                    found.add(f"import of {what} inside {value.__qualname__}")
                elif what is getattr:
                    found |= {
                        f"attribute {name} by its name in {value.__qualname__}"
                        for name in _texts(value.__code__) - NUMBERS
                    }
                elif kind == "attribute":
                    if what not in NUMBERS:
                        found.add(f"attribute {what} in {value.__qualname__}")
                    todo += _properties(what)
                else:
                    todo.append(what)
        elif any(value is name for name in BY_NAME):
            found.add(f"{value.__name__}, which hides a name from this walk")
        elif callable(value):
            home = getattr(value, "__module__", None) or "builtins"
            if not _is_allowed_module(home):
                found.add(f"{home}.{getattr(value, '__qualname__', value)}")
        elif isinstance(value, tuple | list):
            todo += value
        elif not isinstance(value, int | float | str | np.ndarray):
            found.add(f"a {type(value).__name__}")
    return found


def _properties(name: str) -> list[FunctionType]:
    """The code behind a setting's attribute of that name."""
    found = []
    for kind in SETTINGS:
        attribute = inspect.getattr_static(kind, name, None)
        if isinstance(attribute, property):
            found.append(attribute.fget)
        elif isinstance(attribute, cached_property):
            found.append(attribute.func)
        elif isinstance(attribute, FunctionType):
            found.append(attribute)
    return found


@pytest.mark.parametrize(("part", "route"), PARTS)
def test_code_names_no_first_route(part, route):
    assert offences(route) == set()


def test_there_are_routes_to_walk():
    assert len(PARTS) > 30
    assert not NUMBERS & set(FIRST)
    for name in FIRST:
        assert any(inspect.getattr_static(kind, name, None) for kind in SETTINGS)


def test_the_walk_is_deep_enough():
    """It goes through helpers in theory.ledger and through a setting's properties."""
    assert _properties("at")
    assert _properties("exact")
    helpers = {p.values[1].__name__ for p in PARTS}
    assert {"_coupling_second", "student_by_quadrature", "iterated"} <= helpers
    values = [what for kind, what in _names(Setting.at.fget) if kind == "value"]
    assert oracle.instants.instant in values


# --- by a run


def strangers(route: Callable[[], Any]) -> set[str]:
    """Files of theory, outside theory/ledger/oracle and the settings, whose code runs; and
    torch."""
    files: set[str] = set()

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)
        elif event == "c_call" and _top(getattr(argument, "__module__", "") or "") == "torch":
            files.add("torch")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        route()
    except QuadratureError:
        pass
    finally:
        sys.setprofile(before)
    own = {Path(f) for f in files if f != "torch"}
    ours = {f.relative_to(ROOT) for f in own if f.is_relative_to(ROOT)}
    homes = {"theory." + ".".join(f.with_suffix("").parts): f for f in ours}
    bad = {str(f) for home, f in homes.items() if not (_is_oracles(home) or _is_claims(home))}
    torch_ran = any("torch" in f.parts for f in own) or "torch" in files
    return bad | ({"torch"} if torch_ran else set())


def quick(part: Identity, route: Any) -> Callable[[], Any]:
    if route is part.sampled:
        kinds = part.full_rank_kinds
        setting = full_rank_setting(5, 0, kinds)
        return lambda: route(setting, 20_000, np.random.default_rng(0))
    setting = part.domain.draw(min(part.dims), 2)
    return lambda: route(setting)


@pytest.mark.parametrize(("part", "route"), PARTS)
def test_run_calls_no_first_route(part, route):
    assert strangers(quick(part, route)) == set()


# --- what settings carry


def test_cases_are_plain_numbers():
    """A PlaneProblem adds its first route, and changes nothing of what the oracle calls."""
    assert {k for k, v in vars(PlaneProblem).items() if callable(v) and not k.startswith("__")} == {
        "problem",
        "_reward",
    }
    for kind in (PlaneNumbers, JointNumbers):
        assert _is_allowed_module(kind.__module__)
    for kind in (LemmaSetting, AtomSetting):
        assert not any(hasattr(kind, name) for name in FIRST)


@pytest.mark.parametrize(
    "part", [pytest.param(p.values[0], id=p.id) for p in PARTS if p.id.endswith("-second")]
)
def test_second_route_needs_no_problem(part):
    """The same numbers without a way to the first route give the same value."""
    setting = part.domain.draw(1, 1)
    if not isinstance(setting, Setting):
        return
    case = setting.case
    names = PlaneNumbers.__dataclass_fields__
    bare: Any = PlaneNumbers(**{k: getattr(case, k) for k in names})
    try:
        whole = part.second(setting)
    except QuadratureError:
        return
    assert np.array_equal(part.second(replace(setting, case=bare)), whole)
