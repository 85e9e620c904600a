"""From rows to results, and the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.theory.ledger.made_up import CLAIMS, EXACT, FAST, WRONG, raising
from theory.__main__ import main
from theory.ledger import command, run
from theory.ledger.core.claim import Claim, Result
from theory.ledger.run import all_claims, measure, measure_all, select

# --- select and measure


def test_select():
    assert select() == all_claims()
    assert [c.id for c in select(["Z4", "L8", "Z4"])] == ["Z4", "L8"]
    assert {c.id[0] for c in select(source="zhu")} == {"Z"}
    assert [c.id for c in select(["L2"], "liu")] == ["L2"]


@pytest.mark.parametrize(
    ("only", "source", "words"),
    [
        (["Q9"], None, "only must be one of L1, L2, .*got 'Q9'"),
        (["L1", "l2"], None, "only must .*got 'l2'"),
        (["Z1"], "liu", "only must be one of L1, .*got 'Z1'"),
        ([], "ho", "source must be one of liu, zhu, .*got 'ho'"),
    ],
)
def test_select_what_is_not_there(only, source, words):
    with pytest.raises(ValueError, match=words):
        select(only, source)


def test_measure(results):
    exact, wrong, order = results
    assert [r.verdict for r in results] == ["exact", "false", "order 2"]
    assert all(r.agrees for r in results)
    seeds = [f.numbers["seed"] for r in (exact, order) for f in r.findings if "seed" in f.numbers]
    assert len(set(seeds)) == len(seeds) == 3  # a seed of its own, by row and by part
    assert wrong.region.errors.shape == (4, 4)
    assert exact.region is None
    assert measure(WRONG, FAST).region is None  # no map without cells
    assert measure(EXACT, FAST).findings[0].numbers["seed"] == seeds[0]
    assert exact.seconds >= 0


def test_measure_all_keeps_the_order_and_tells():
    told = []
    found = measure_all(CLAIMS[::-1], FAST, 1, told.append)
    assert [r.claim.id for r in found] == ["Z3", "Q2", "Q1"] == [r.claim.id for r in told]


def test_a_row_that_raises_is_named():
    with pytest.raises(RuntimeError, match="no such thing") as caught:
        measure_all([EXACT, replace(EXACT, id="Q7", parts=(raising,))], FAST, 1)
    assert caught.value.__notes__ == ["while measuring Q7"]


def comparable(found: list[Result]) -> list[tuple[str, Any]]:
    return [(r.claim.id, r.findings) for r in found]


def test_one_process_or_two():
    rows = select(["L7", "Z9"])
    told: list[str] = []
    one = measure_all(rows, FAST, 1)
    two = measure_all(rows, FAST, 2, lambda result: told.append(result.claim.id))
    assert comparable(one) == comparable(two)
    assert sorted(told) == ["L7", "Z9"]
    assert [r.verdict for r in two] == ["exact", "exact"]
    assert all(r.agrees for r in two)


# --- command line


def verify(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main(["verify", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.fixture
def rows(monkeypatch):
    """The ledger in the code, made up."""

    def use(*claims: Claim) -> None:
        monkeypatch.setattr(run, "SOURCES", {"liu": claims, "zhu": ()})

    use(*CLAIMS)
    return use


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "Q9"], "only must .*got 'Q9'"),
        (["--only", "Z1", "--source", "liu"], "only must .*got 'Z1'"),
        (["--check-docs", "--only", "L7"], "--check-docs and --write-docs need the whole"),
        (["--write-docs", "--source", "zhu"], "--check-docs and --write-docs need the whole"),
        (["--only", "L7", "--processes", "0"], "--processes must .*got 0"),
        (["--only", "L7", "--processes", "65"], "--processes must .*got 65"),
    ],
)
def test_bad_options(arguments, words, capsys, tmp_path):
    status, out, err = verify(capsys, *arguments, "--profile", "fast", "--out", tmp_path)
    assert status == 2
    assert re.search(words, err)
    assert err.startswith("error: ")
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--profile", "slow"], ["--source", "ho"], ["--only"]])
def test_unknown_options(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        verify(capsys, *arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_real_row(capsys, tmp_path):
    status, out, err = verify(
        capsys, "--only", "L7", "--profile", "fast", "--out", tmp_path, "--json"
    )
    assert status == 0
    data = json.loads(out)
    assert data["profile"] == "fast"
    assert data == json.loads((tmp_path / "ledger.json").read_text())
    assert [row["id"] for row in data["rows"]] == ["L7"]
    assert data["rows"][0]["verdict"] == "exact"
    assert "L7: exact (" in err
    assert {p.name for p in tmp_path.iterdir()} == {"ledger.json", "ledger", "ledger.html"}


def test_table(rows, capsys, tmp_path):
    status, out, err = verify(capsys, "--processes", 1, "--profile", "fast", "--out", tmp_path)
    assert status == 0
    assert "3 rows, 1 of 1 wrong versions rejected" in out
    assert all(claim.id in out for claim in CLAIMS)
    assert err.count("CPU-s") == 3


def test_a_verdict_that_is_not_on_record(rows, capsys, tmp_path):
    rows(EXACT, replace(WRONG, recorded="exact"))
    status, out, err = verify(capsys, "--processes", 1, "--profile", "fast", "--out", tmp_path)
    assert status == 1
    assert "Q2: measured false, recorded exact" in err
    assert "Q1: measured" not in err
    assert "recorded exact" in " ".join(out.split())
    # --write-docs must not put it into the tables.
    status, *_ = verify(
        capsys, "--processes", 1, "--profile", "fast", "--out", tmp_path, "--write-docs"
    )
    assert status == 1


def test_check_and_write_docs(rows, root, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "ROOT", root)
    options = ["--processes", 1, "--profile", "fast", "--out", tmp_path / "out"]
    status, _, err = verify(capsys, *options, "--check-docs")
    assert status == 1  # the fixture's rows were measured with a map
    assert "stale: Q2: its map's" in err
    status, _, err = verify(capsys, *options, "--write-docs")
    assert status == 0
    assert err.count("wrote ") == 3
    assert verify(capsys, *options, "--check-docs")[0] == 0
    rows(replace(EXACT, statement="another"), *CLAIMS[1:])
    status, _, err = verify(capsys, *options, "--check-docs")
    assert status == 1
    assert "stale: Q1: statement has changed" in err
    assert "make ledger" in err
