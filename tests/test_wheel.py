"""A wheel has all that the commands need: built, installed into an environment of its own, called
from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def called(*words: object, cwd: Path, status: int = 0) -> str:
    """What a command prints, in an environment that knows no checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment's commands: the wheel in it, its libraries those of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
    # Building leaves files beside the source, so of a copy; of tracked files only.
    listed = called("git", "-C", ROOT, "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = folder / "built"
    called(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", built, source, cwd=folder)
    called(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    (wheel,) = built.glob("plumbline-*.whl")
    python = environment / "bin" / "python"
    called(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(called(python, "-c", code, cwd=folder).strip())
    # A folder on the path, whose .pth files are not read: an editable install there stays asleep.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return environment / "bin"


def test_it_is_the_wheel_that_is_imported(installed, tmp_path):
    for package in ("theory", "toys", "scaleup", "figures"):
        code = f"import {package}; print({package}.__file__)"
        found = Path(called(installed / "python", "-c", code, cwd=tmp_path).strip())
        assert found.is_relative_to(installed.parent)
    for package in ("benchmarks", "tests"):
        code = f"import {package}"
        assert "ModuleNotFoundError" in called(
            installed / "python", "-c", code, cwd=tmp_path, status=1
        )


def test_commands_of_the_theory(installed, tmp_path):
    door = installed / "plumbline"
    assert "note_1d" in called(door, "problems", cwd=tmp_path)
    assert "d = 1" in called(
        door, "law", "--problem", "note_1d", "--field", "base", "--no-picture", cwd=tmp_path
    )
    assert "L7" in called(
        door, "verify", "--profile", "fast", "--only", "L7", "--processes", "1", cwd=tmp_path
    )
    said = called(door, "bench", cwd=tmp_path, status=2)
    assert "bench measures the floors in a checkout" in said


def test_lists_are_kept_in_it(installed, tmp_path):
    code = (
        "from theory.methods.registry import METHODS; from theory.evaluation.problems import "
        "PROBLEMS; from scaleup.rewards.contract.registry import REWARDS; "
        "print(all(c.file.is_file() for c in (METHODS, PROBLEMS, REWARDS)))"
    )
    assert called(installed / "python", "-c", code, cwd=tmp_path).strip() == "True"
    assert "brightness" in called(installed / "plumbline", "rewards", cwd=tmp_path)
    assert "nft" in called(installed / "plumbline", "methods", cwd=tmp_path)


def test_an_audit_of_two_files(installed, tmp_path):
    for name, shift in (("base", 0.0), ("tuned", 0.3)):
        rows = [f"{(i * 0.618034) % 1 + shift}" for i in range(200)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["reward", *rows]) + "\n")
    words = ["audit", "--base", "base.csv", "--tuned", "tuned.csv", "--permutations", "20"]
    said = called(installed / "plumbline", *words, cwd=tmp_path)
    assert "200 base and 200 tuned samples" in said
    assert (tmp_path / "results/audit/audit.html").is_file()


def test_recipes_and_weights_of_scaleup(installed, tmp_path):
    code = (
        "from scaleup import builtin_folder, load_config; "
        "from scaleup.training.config import recipe_names; "
        "print([load_config(name, {}).digest for name in recipe_names() "
        "if load_config(name, {}).model == 'builtin'] or [load_config(None, {}).digest]); "
        "print(sorted(f.name for f in builtin_folder().iterdir()))"
    )
    said = called(installed / "python", "-c", code, cwd=tmp_path)
    assert "unet" in said
    assert "--learning-rate" in called(installed / "plumbline", "tune", "--help", cwd=tmp_path)
