"""E5: what an installed Plumbline has, and what it says of a missing extra."""

import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import requires
from pathlib import Path

import pytest

from scaleup import __main__ as command
from scaleup.training.config import RECIPES, recipe_names
from theory.common import console

ROOT = Path(__file__).resolve().parents[2]


def test_e5_every_file_of_a_package_is_in_the_wheel():
    """Recipes, fsdp.yaml, weights, problems, references: setuptools takes what pyproject names."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    for package in ("theory", "toys", "scaleup", "figures"):
        for path in (ROOT / package).rglob("*"):
            name = str(path.relative_to(ROOT / package))
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                patterns = data.get(package, [])
                assert any(fnmatch(name, p.replace("**", "*")) for p in patterns), path


def test_recipes_are_where_the_package_is():
    assert "sd15-nft" in recipe_names()
    assert RECIPES.parent == Path(command.__file__).parent
    assert (RECIPES / "fsdp.yaml").is_file()


@pytest.mark.parametrize("name", sorted(console.EXTRA))
def test_e5_a_missing_extra_is_named(name, monkeypatch, capsys):
    def missing(*words):
        raise ModuleNotFoundError(f"No module named '{name}.part'", name=f"{name}.part")

    monkeypatch.setattr(console, "parse", missing)
    assert command.main(["train"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name} must be installed for this command: `pip install ")
    assert "plumbline[scaleup]" in said
    assert said.count("\n") == 1


def test_the_extra_is_the_one_of_pyproject(monkeypatch):
    """Every module of it that is imported by another name than it is installed by is listed."""
    installed = {"PIL": "pillow"}
    extra = {text.split(">")[0] for text in requires("plumbline") or [] if "scaleup" in text}
    assert {installed.get(name, name) for name in console.EXTRA} == extra
    monkeypatch.setattr(console, "parse", lambda *words: __import__("no_such_module"))
    with pytest.raises(ModuleNotFoundError):  # a fault of ours keeps its trace
        command.main(["train"])


def test_e5_in_a_process_of_its_own():
    code = "import sys; sys.modules['diffusers'] = None; from scaleup.__main__ import main; "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main(['train']))"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: diffusers must be installed")
