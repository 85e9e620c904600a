"""Faces give their names late, and are all that README, docs and examples import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACES = ("theory", "theory.methods", "theory.audit", "toys", "scaleup")
PAGES = ["README.md", "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", FACES)
def test_every_name_is_there(name):
    package = import_module(name)
    assert len(package.__all__) > 4
    assert dir(package) == package.__all__
    for public in package.__all__:
        assert hasattr(package, public)


def test_none_is_a_submodule_too():
    """Which Python would put in its place as soon as anything imports it."""
    for name in FACES:
        package = import_module(name)
        for public in package.__all__:
            folder = Path(package.__path__[0])
            assert not (folder / public).exists()
            assert not (folder / f"{public}.py").exists()


def test_a_name_that_is_not_there():
    with pytest.raises(ImportError, match="cannot import name 'Tlit' from 'theory'"):
        from theory import Tlit  # noqa: F401


def test_importing_faces_loads_no_library():
    """Not torch nor any other, and of the project nothing but faces."""
    code = f"import sys, {', '.join(FACES)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "scipy", "sklearn", "matplotlib", "diffusers"}
    ours = {m for m in loaded if m.split(".")[0] in ("theory", "toys", "scaleup")}
    assert ours == {*FACES, "theory.common", "theory.common.face"}


def shown() -> dict[str, str]:
    """Python that users read, by where it stands."""
    pages = [ROOT / name for name in PAGES] + sorted((ROOT / "docs").rglob("*.md"))
    blocks = {
        f"{page.name}, block {k}": text
        for page in pages
        for k, text in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    }
    examples = {f.name: f.read_text(encoding="utf-8") for f in (ROOT / "examples").glob("*.py")}
    return blocks | examples


@pytest.mark.parametrize("where", shown())
def test_users_import_from_faces(where):
    nodes = list(ast.walk(ast.parse(shown()[where])))
    used = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    used += [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    ours = {m for m in used if m.split(".")[0] in ("theory", "toys", "scaleup", "figures")}
    assert ours <= set(FACES)


def test_there_is_something_to_read():
    assert len(shown()) > 4
