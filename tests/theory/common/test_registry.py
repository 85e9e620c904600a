"""One registry of methods and rewards, and what lists show of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scaleup.rewards.contract.registry import REGISTRY as REWARD_KINDS
from scaleup.rewards.contract.registry import REWARDS
from theory.common.checks import unknown
from theory.common.registry import Catalogue
from theory.evaluation.problems import PROBLEMS
from theory.methods.registry import METHODS
from theory.methods.registry import REGISTRY as METHOD_KINDS

CATALOGUES = {"methods": METHODS, "problems": PROBLEMS, "rewards": REWARDS}


@pytest.mark.parametrize("name", CATALOGUES)
def test_kept_rows_are_what_is_measured(name):
    """Where one differs: `python -m benchmarks catalogues`."""
    catalogue = CATALOGUES[name]
    assert catalogue.rows() == catalogue.measure()


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUES)
def test_lists_are_shown_from_them(name):
    """Else they are right and slow: `python -m benchmarks catalogues` and commit what it writes."""
    assert CATALOGUES[name].is_fresh


def test_rows_are_made_anew_where_a_file_has_changed(tmp_path):
    made = []

    def measure():
        made.append(len(made))
        return [{"number": len(made)}]

    catalogue = Catalogue(tmp_path, measure)
    (tmp_path / "item.py").write_text("x = 1\n", encoding="utf-8")
    assert catalogue.rows() == [{"number": 1}]
    catalogue.write()
    assert catalogue.rows() == catalogue.rows() == [{"number": 2}]
    (tmp_path / "item.py").write_text("x = 2\n", encoding="utf-8")
    assert catalogue.rows() == [{"number": 3}]
    catalogue.write()
    assert catalogue.rows() == [{"number": 4}]
    (tmp_path / "item.toml").write_text("x = 2\n", encoding="utf-8")
    assert catalogue.rows() == [{"number": 5}]
    catalogue.file.write_text("{", encoding="utf-8")
    assert catalogue.rows() == [{"number": 6}]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("theory problems", "problems"),
        ("scaleup list rewards", "rewards"),
        ("scaleup list methods", "methods"),
    ],
)
def test_lists_need_no_torch(words, name):
    """Where the rows kept are of older code, the list measures them, with torch."""
    package, *rest = words.split()
    code = (
        f"import sys; from {package}.__main__ import main; status = main({rest}); "
        "sys.exit(status or 3 * ('torch' in sys.modules))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0 if CATALOGUES[name].is_fresh else 3, "")


def test_only_the_module_of_the_name_is_imported():
    """In a process that has imported none, others stay so."""
    code = "import sys; "
    for kinds, name in ((METHOD_KINDS, "ddpo"), (REWARD_KINDS, "redness")):
        code += (
            f"from {type(kinds).__module__} import Registry; Registry({kinds.noun!r}, "
            f"{kinds.package!r}, {kinds.base!r}, {kinds.without!r}).find({name!r}); "
        )
    code += "print([m for m in sys.modules if m.rpartition('.')[2] in ('nft', 'brightness')])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_an_unknown_name_is_told_the_nearest():
    said = str(unknown("schedule", "memoryles", ["constant", "memoryless"], "a number"))
    assert said == (
        "schedule must be one of constant, memoryless or a number, got 'memoryles' (did you mean "
        "'memoryless'?)"
    )
