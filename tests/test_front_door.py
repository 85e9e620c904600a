"""`plumbline`: every command there is, by the name that people type."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from theory.common import front_door
from theory.common.front_door import BENCHES, COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
DOOR = "import sys; from theory.common.front_door import main; sys.exit(main())"


def typed(*words: str, module: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-m", module] if module else ["-c", DOOR]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *start, *words], cwd=ROOT, env=environment, capture_output=True, text=True
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
    wrong = typed("law", "--problem", "note_1", "--field", "base")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("did you mean 'note_1d'?\n")


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
    for words in [[name, which] for which in BENCHES] if name == "bench" else [[name]]:
        assert main([*words, "--help"]) == 0
        assert sys.argv[-1] == "--help"
        package, *command = sys.argv[:-1]
        assert asked.pop() == package
        text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / package).rglob("*.py"))
        named = r'(add_parser\(\s*|^    )"{}"'
        assert all(re.search(named.format(word), text, re.M) for word in command)


def test_what_is_not_known(capsys):
    assert main(["lwa"]) == 2
    assert capsys.readouterr().err.endswith("did you mean 'law'?\n")
    assert main(["bench", "toy"]) == 2
    assert "did you mean 'toys'" in capsys.readouterr().err
