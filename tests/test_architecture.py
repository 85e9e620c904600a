"""The arrows between the folders, and the independence of the second route, by walking imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "theory": {"toys", "scaleup", "figures", "tests"},
    "toys": {"scaleup", "figures", "tests"},
    "scaleup": {"toys", "figures", "tests"},
    "figures": {"scaleup", "tests"},
}
ORACLE_MAY_USE = {"numpy", "scipy"}


def imports(source: str, depth: int = 1) -> set[str]:
    """Names (to `depth` dots) that a module imports anywhere, also inside functions."""
    found = set()
    tree = ast.parse(source)
    types = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    apart = {id(inner) for block in types for part in block.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in apart:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[:depth]) for name in found}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert not imports(file.read_text()) & FORBIDDEN[folder], file


def test_walker_sees_a_hidden_import():
    assert "toys" in imports("def f():\n    from toys.training.trainer import train\n")


def test_oracle_shares_no_code():
    files = list((ROOT / "theory/ledger/oracle").rglob("*.py"))
    assert len(files) > 3
    for file in files:
        used = imports(file.read_text(), depth=3)
        foreign = {name for name in used if not name.startswith("theory.ledger.oracle")}
        tops = {name.split(".")[0] for name in foreign}
        assert tops - set(sys.stdlib_module_names) <= ORACLE_MAY_USE, file


def test_oracle_loads_nothing_of_the_project_at_run_time():
    """Also not by a detour: after importing it, no other module of theory is loaded, nor torch."""
    code = (
        "import sys, theory.ledger.oracle; "
        "print([m for m in sys.modules if m.startswith('theory.') or m == 'torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = ast.literal_eval(done.stdout)
    assert len(loaded) > 3
    loaded = set(loaded) - {"theory.ledger", "theory.common", "theory.common.face"}
    assert all(name.startswith("theory.ledger.oracle") for name in loaded)
