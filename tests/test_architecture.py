"""The house: what stands where, and where arrows between files, rooms and packages lead.

What breaks a rule today stands in a list by name; a list may only shrink, so that what no longer
breaks its rule fails until it is struck out.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("theory", "toys", "scaleup", "figures")  # what is installed
EVERYWHERE = (*PACKAGES, "benchmarks")
# The packages that each one's files may import besides its own.
BELOW = {
    "theory": set(),
    "toys": {"theory"},
    "scaleup": {"theory"},
    "figures": {"theory", "toys"},
    "benchmarks": {"theory", "toys", "scaleup"},
}
# The rooms of theory, from the ground up.
FLOORS = (
    "common", "laws", "tilts", "fields", "samplers", "problems", "evaluation", "control",
    "gflownet", "methods", "recursion", "released", "audit", "ledger",
)  # fmt: skip
Edge = tuple[str, str]
# Arrows that lead up, or close a circle of files or of rooms.
UPWARD: set[Edge] = set()
# The same of imports that only type checkers read.
UPWARD_TYPES: set[Edge] = set()
# What of the audit knows more of theory than its common room.
AUDIT_KNOWS = {"theory.audit.known_truth", "theory.audit.page.figures"}

ORACLE_MAY_USE = {"numpy", "scipy"}
FACE = {"theory.common", "theory.common.face"}

# --- what stands where

FILES, ROOMS, LINES = 12, 15, 350
# One file an item: a statement of a paper, a place where claims are tried, a question.
MANY = {"theory/ledger/domingo", "theory/ledger/settings", "figures/questions"}
LONG = {
    "benchmarks/digits.py",
    "tests/cases/test_digits.py",
    "tests/cases/test_identity.py",
    "tests/scaleup/audit/test_command.py",
    "tests/scaleup/audit/test_page.py",
    "tests/scaleup/training/test_config.py",
    "tests/scaleup/training/test_run.py",
    "tests/scaleup/training/test_trainer.py",
    "tests/theory/ledger/test_second_routes.py",
    "tests/theory/methods/test_adjoints.py",
    "tests/theory/released/test_recipe.py",
    "tests/theory/test_bad_input.py",
    "tests/toys/evaluation/test_evaluate.py",
    "tests/toys/training/test_runs.py",
    "tests/toys/training/test_trainer.py",
}


def folders() -> Iterator[Path]:
    for package in EVERYWHERE:
        for folder in (ROOT / package, *(ROOT / package).rglob("*")):
            if folder.is_dir() and any(folder.glob("*.py")):
                yield folder


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", PACKAGES)
def test_roots_hold_rooms(package):
    files = {file.name for file in (ROOT / package).glob("*.py")}
    assert files <= {"__init__.py", "__main__.py"}
    rooms = [entry for entry in (ROOT / package).iterdir() if entry.is_dir()]
    assert len([room for room in rooms if room.name != "__pycache__"]) <= ROOMS


def test_rooms_are_small():
    full = {named(f) for f in folders() if len(list(f.glob("*.py"))) - 1 > FILES}
    assert full == MANY


def test_rooms_are_packages():
    assert not [named(f) for f in folders() if not (f / "__init__.py").is_file()]


def test_files_are_short():
    files = [file for package in (*EVERYWHERE, "examples", "tests")
             for file in (ROOT / package).rglob("*.py")]  # fmt: skip
    long = {named(f) for f in files if len(f.read_text(encoding="utf-8").splitlines()) > LINES}
    assert long == LONG


# --- imports


@cache
def statements(source: str) -> dict[bool, list[ast.stmt]]:
    """Those that import anything, also inside functions, by whether they stand under
    `if TYPE_CHECKING`."""
    nodes = list(ast.walk(ast.parse(source)))
    blocks = [n for n in nodes if isinstance(n, ast.If)]
    apart = {
        id(inner)
        for block in blocks if "TYPE_CHECKING" in ast.dump(block.test)
        for part in block.body
        for inner in ast.walk(part)
    }  # fmt: skip
    found = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    return {types: [n for n in found if (id(n) in apart) == types] for types in (False, True)}


@cache
def imports(source: str, depth: int = 1, *, types: bool = False) -> frozenset[str]:
    """Names (to `depth` dots) that a module imports anywhere, also inside functions.

    types: only what stands under `if TYPE_CHECKING`; else all but this.
    """
    found = set()
    for node in statements(source)[types]:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(".".join(name.split(".")[:depth]) for name in found)


def test_walker_sees_a_hidden_import():
    assert "toys" in imports("def f():\n    from toys.training.trainer import train\n")


def test_walker_tells_types_apart():
    text = "if TYPE_CHECKING:\n    from theory.a import b\nelse:\n    import theory.c\n"
    assert imports(text, 9) == {"theory.c"}
    assert imports(text, 9, types=True) == {"theory.a.b"}


@cache
def modules() -> dict[str, Path]:
    """Every module's file, by its dotted name; a package's is its __init__.py."""
    files = [file for package in EVERYWHERE for file in (ROOT / package).rglob("*.py")]
    return {named(f.with_suffix("")).replace("/", ".").removesuffix(".__init__"): f for f in files}


def home(name: str) -> str | None:
    """The module that an imported name is in, or is; through a face."""
    known = modules()
    while name and name not in known:
        package, _, last = name.rpartition(".")
        if package in known:
            late = imports(known[package].read_text(encoding="utf-8"), 9, types=True)
            found = [n for n in late if n.rpartition(".")[2] == last]
            if known[package].name == "__init__.py" and found:
                return home(found[0])
        name = package
    return name or None


@cache
def arrows(*, types: bool = False) -> frozenset[Edge]:
    """(importer, imported), modules of ours; a face's own late imports are none."""
    found = set()
    for name, file in modules().items():
        if types and file.name == "__init__.py":
            continue
        for what in imports(file.read_text(encoding="utf-8"), 9, types=types):
            to = home(what) if what.split(".")[0] in EVERYWHERE else None
            if to is not None and to != name:
                found.add((name, to))
    return frozenset(found)


def room(module: str) -> str:
    """The folder that a module stands in."""
    return named(modules()[module].parent)


def circle(edges: set[Edge]) -> list[str]:
    """One, or none."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for one, other in edges:
        sorter.add(one, other)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def leads_up(edge: Edge) -> bool:
    """Between packages, or between floors of theory."""
    (one, *rest), (other, *above) = (name.split(".") for name in edge)
    if one != other:
        return other not in BELOW[one]
    if one != "theory" or not rest or not above or rest[0] == "__main__":
        return False
    return FLOORS.index(above[0]) > FLOORS.index(rest[0])


def offends(edge: Edge, others: set[Edge]) -> bool:
    """Whether it leads up, or closes a circle with `others`."""
    return leads_up(edge) or bool(circles(others | {edge}))


def circles(edges: set[Edge]) -> list[str]:
    """One of files, else one of rooms, else none."""
    rooms = {(room(one), room(other)) for one, other in edges}
    return circle(edges) or circle({(one, other) for one, other in rooms if one != other})


def test_walkers_see_circles():
    assert circle({("a", "b"), ("b", "c"), ("c", "a")})
    assert not circle({("a", "b"), ("a", "c"), ("b", "c")})
    assert leads_up(("theory.laws.gaussians", "theory.tilts.tilt"))
    assert leads_up(("toys.training.config", "scaleup.training.config"))
    assert home("theory.FlowLaw") == "theory.samplers.flow"
    assert home("theory.problems.problem.Problem.tilt") == "theory.problems.problem"


def test_rooms_of_theory_are_floors():
    rooms = {entry.name for entry in (ROOT / "theory").iterdir() if entry.is_dir()}
    assert rooms - {"__pycache__"} == set(FLOORS)


def test_arrows_lead_down_and_close_no_circle():
    kept = set(arrows()) - UPWARD
    assert [edge for edge in kept if leads_up(edge)] == []
    assert circles(kept) == []
    assert [edge for edge in UPWARD if edge not in arrows() or not offends(edge, kept)] == []


def test_arrows_of_types_do_not_either():
    kept = (set(arrows()) | set(arrows(types=True))) - UPWARD - UPWARD_TYPES
    assert [edge for edge in kept if leads_up(edge)] == []
    assert circles(kept) == []
    alone = arrows(types=True) - arrows()
    assert [edge for edge in UPWARD_TYPES if edge not in alone or not offends(edge, kept)] == []


def test_no_product_imports_tests():
    for file in modules().values():
        assert "tests" not in imports(file.read_text(encoding="utf-8")), file


def test_the_audit_needs_samples_only():
    """Its estimators know no theory; what has a known truth and the pictures' style do."""
    below = ("theory.audit", "theory.common")
    knows = {
        one for one, other in arrows()
        if one.startswith("theory.audit.") and not other.startswith(below)
    }  # fmt: skip
    assert knows == AUDIT_KNOWS


# --- the second route


def test_oracle_shares_no_code():
    files = list((ROOT / "theory/ledger/oracle").rglob("*.py"))
    assert len(files) > 3
    for file in files:
        used = imports(file.read_text(encoding="utf-8"), depth=3)
        foreign = {name for name in used if not name.startswith("theory.ledger.oracle")}
        tops = {name.split(".")[0] for name in foreign}
        assert tops - set(sys.stdlib_module_names) <= ORACLE_MAY_USE, file


def test_oracle_loads_nothing_of_the_project_at_run_time():
    """Also not by a detour: after importing it, no other module of theory is loaded, nor torch, but
    for the packages that hold it and the face of theory."""
    code = (
        "import sys, theory.ledger.oracle; "
        "print([m for m in sys.modules if m.startswith('theory.') or m == 'torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ast.literal_eval(done.stdout)) - {"theory.ledger", *FACE}
    assert len(loaded) > 3
    assert all(name.startswith("theory.ledger.oracle") for name in loaded)
