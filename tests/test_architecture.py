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
ORACLE_MAY_USE = {"numpy", "scipy", "mpmath"}


def imports(source: str) -> set[str]:
    """Top-level names that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert not imports(file.read_text()) & FORBIDDEN[folder], file


def test_walker_sees_a_hidden_import():
    assert "toys" in imports("def f():\n    from toys.trainer import train\n")


def test_oracle_shares_no_code():
    used = imports((ROOT / "theory" / "oracle.py").read_text())
    assert used - set(sys.stdlib_module_names) - {"__future__"} <= ORACLE_MAY_USE


def test_oracle_loads_nothing_of_the_project_at_run_time():
    """Also not by a detour: after importing it, no other module of theory is loaded, nor torch."""
    code = (
        "import sys, theory.oracle; "
        "print([m for m in sys.modules if m.startswith('theory.') or m == 'torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['theory.oracle']"


@pytest.mark.parametrize("package", ["toys", "scaleup"])
def test_what_is_not_built_says_so(package):
    done = subprocess.run(
        [sys.executable, "-m", package], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "not built yet" in done.stderr
