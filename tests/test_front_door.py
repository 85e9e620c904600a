"""`plumbline`: every command there is, by the name that people type."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from theory.common import front_door, signals
from theory.common.front_door import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
DOOR = "import sys; from theory.common.front_door import main; sys.exit(main())"


def typed(*words: str, module: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    start = ["-m", module] if module else ["-c", DOOR]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *start, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_list_needs_no_library():
    code = (
        "import sys; from theory.common.front_door import main; main([]); "
        "sys.exit(bool({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for name, (_, what) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert what in done.stdout


def test_it_is_the_same_as_the_module():
    ours, theirs = typed("problems"), typed("problems", module="theory")
    assert ours.stdout == theirs.stdout != ""
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr) == (0, "")


@pytest.mark.slow
def test_its_workers_find_their_way():
    """Processes that are spawned import the main module again."""
    done = typed("verify", "--profile", "fast", "--only", "L7", "L8", "--processes", "2")
    assert done.returncode == 0
    assert "L8" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there(name, monkeypatch):
    """What it stands for is a command of that module."""
    asked = []
    monkeypatch.setattr(front_door.runpy, "run_module", lambda package, **_: asked.append(package))
    monkeypatch.setattr(sys, "argv", ["plumbline"])
    assert main([name, "--help"]) == 0
    package, *words = COMMANDS[name][0].split()
    assert [*asked, *words, "--help"] == sys.argv
    module = import_module(f"{package}.__main__")
    known = getattr(module, "COMMANDS", None) or module.parser().format_help()
    assert all(word in known for word in words[:1])


def test_benches_need_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(front_door, "ROOT", tmp_path)
    assert main(["bench"]) == 2
    assert "bench measures the floors in a checkout" in capsys.readouterr().err


def test_benches_run_from_any_folder(tmp_path):
    assert "python -m benchmarks toys" in typed("bench", "toys", "--help", cwd=tmp_path).stdout
    listed = typed("bench", cwd=tmp_path)
    assert listed.returncode == 0
    assert all(
        f"    {name} " in listed.stdout for name in ("theory", "toys", "scaleup", "light", "size")
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of a module that is imported already
def test_what_is_not_known(capsys, monkeypatch):
    """The nearest known names, at every level."""
    monkeypatch.setattr(signals, "catch", lambda: None)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["lwa"]) == 2
    assert capsys.readouterr().err.endswith("(did you mean 'law'?)\n")
    for words, needle in (
        (["bench", "toy"], "did you mean 'toys'"),
        (["law", "--field", "nfr"], "did you mean 'nft'"),
        (["law", "--problem", "note_1", "--field", "base"], "(did you mean 'note_1d'"),
        (["problems", "--jsn"], "did you mean '--json'"),
        (["law", "--problem", "note_1d", "--field", "nft", "--nftbeta", "2"], "'--nft-beta'"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert needle in capsys.readouterr().err
