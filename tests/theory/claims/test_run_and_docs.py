"""From rows to results, tables, committed documents and the command line."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from theory.__main__ import main
from theory.claims import command, docs, run
from theory.claims.docs import BEGIN, CLOSE, END, stale, with_table, write_docs
from theory.claims.ledger import PROFILES, Claim, Context, Finding, Result
from theory.claims.region import Region
from theory.claims.render import as_json, headline, markdown, mutants, page, plain, short_markdown
from theory.claims.run import all_claims, measure, measure_all, select

FAST = PROFILES["fast"]
MAPPED = replace(FAST, cells=4)


def part(context: Context) -> Finding:
    """Its number is its seed: parts must not share one."""
    return Finding(
        "first | part", "claim", "exact", True, "error 1e-12 | of x < y",
        {"error": 1e-12, "tv": 0.25, "settings": 3, "seed": context.seed, "gone": np.nan},
        "d = 1 | x", mutants={"a | wrong one": np.bool_(True)},  # type: ignore[dict-item]
    )  # fmt: skip


def other(context: Context) -> Finding:
    return Finding("second", "support", "exact", np.bool_(True), "<b>", {"seed": context.seed})  # type: ignore[arg-type]


def failing(context: Context) -> Finding:
    return Finding("fails", "claim", "exact", False, "TV 0.3", worst="N(0, 1)")


def ordered(context: Context) -> Finding:
    return Finding("slope", "claim", "order", True, "slope 2.00", order=2)


def raising(context: Context) -> Finding:
    raise RuntimeError("no such thing")


def some_map(cells: int) -> Region:
    x = np.linspace(1.0, 2.0, cells)
    return Region("a | map", "x | size", x, "y", x, 0.04 * np.outer(x, x), "TV")


EXACT = Claim(
    "Q1", "liu, (1) | <i>", "a * b | c_d < e", "r > 0 & s", "by hand", "by | foot", "exact",
    "Mind the | pipe.", (part, other),
)  # fmt: skip
WRONG = replace(EXACT, id="Q2", recorded="false", remark="", parts=(failing,), region=some_map)
ORDER = replace(EXACT, id="Z3", recorded="order 2", parts=(ordered, other))
CLAIMS = (EXACT, WRONG, ORDER)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [measure(claim, MAPPED) for claim in CLAIMS]


@pytest.fixture
def ledger(results) -> dict[str, Any]:
    return as_json(results, "fast")


# --- select and measure


def test_select():
    assert select() == all_claims()
    assert [c.id for c in select(["Z4", "L8", "Z4"])] == ["Z4", "L8"]
    assert {c.id[0] for c in select(source="zhu")} == {"Z"}
    assert [c.id for c in select(["L2"], "liu")] == ["L2"]


@pytest.mark.parametrize(
    ("only", "source", "words"),
    [
        (["Q9"], None, "only = 'Q9': allowed are 'L1', 'L2'"),
        (["L1", "l2"], None, "only = 'l2'"),
        (["Z1"], "liu", "only = 'Z1': allowed are 'L1'"),
        ([], "ho", "source = 'ho': allowed are 'liu', 'zhu'"),
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


# --- rendering


def test_json(ledger):
    text = json.dumps(ledger, allow_nan=False)
    assert json.loads(text) == ledger
    (row, wrong, _) = ledger["rows"]
    assert row["verdict"] == row["recorded"] == "exact"
    assert row["findings"][0]["numbers"]["gone"] is None
    assert row["findings"][0]["mutants"] == {"a | wrong one": True}
    assert row["region"] is None
    assert wrong["region"]["share"]["0.05"] == 1 / 16
    assert mutants(ledger["rows"]) == (1, 1)


def test_plain():
    values = {1: (np.float64(0.5), np.inf, True, None, "x"), "n": {"m": -np.inf, "k": np.int64(3)}}
    assert plain(values) == {"1": [0.5, None, True, None, "x"], "n": {"m": None, "k": 3}}


def test_headlines(ledger):
    exact, wrong, order = ledger["rows"]
    assert headline(exact) == "error at most 1.0e-12 over 3 settings"
    assert headline(wrong) == "TV 0.3 (N(0, 1))"
    assert headline(order) == "slope 2.00"
    exact["searches"] = {"first | part": {"starts": 7, "evaluations": 90, "errors": [2e-11]}}
    assert headline(exact).endswith("; search of the first part, 7 starts: 2.0e-11")


def tables(text: str) -> list[list[str]]:
    """Groups of lines that start with a pipe."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [group for group in found if group]


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1


@pytest.mark.parametrize("write", [markdown, short_markdown])
def test_markdown_tables_have_one_width(write, ledger):
    for text in (write(ledger), write(as_json([], "fast"))):
        groups = tables(text)
        assert groups
        for group in groups:
            assert len({cells(line) for line in group}) == 1, group
            assert set(group[1]) == {"|", "-"}
    assert len(tables(markdown(ledger))) == 1 + len(CLAIMS)


def test_markdown_says_what_was_measured(ledger):
    text = markdown(ledger)
    for row in ledger["rows"]:
        assert f"## {row['id']}\n\n**{row['verdict']}** · " in text
        assert f"(#{row['id'].lower()})" in text
        assert f"| [{row['id']}](docs/LEDGER.md#{row['id'].lower()}) |" in short_markdown(ledger)
    assert "a \\* b \\| c\\_d &lt; e" in text
    assert "1 of 1 wrong versions rejected" in text
    assert "- Map (a \\| map): TV below 1 %" in text
    assert "| fails | claim | no | TV 0.3 | N(0, 1) |" in text
    ledger["rows"][0]["findings"][0]["mutants"] = {"seen": True, "blind": False}
    assert "; SURVIVED: blind" in markdown(ledger)


class Reader(HTMLParser):
    """Sections, table widths, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.widths: list[set[int]] = []
        self.links: list[str] = []
        self.images = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        options = dict(attrs)
        if tag == "section":
            self.sections.append(options["id"])
        if tag == "a":
            self.links.append(options["href"])
        if tag == "table":
            self.widths.append(set())
        if tag == "tr":
            self.count = 0
        if tag in {"td", "th"}:
            self.count += 1
        if tag == "img":
            self.images += 1
            assert options["src"].startswith("data:image/png;base64,")
            assert options["alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr":
            self.widths[-1].add(self.count)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page(ledger, results):
    reader = Reader()
    reader.feed(page(ledger, results))
    assert reader.open == []
    assert reader.sections == [claim.id for claim in CLAIMS]
    assert reader.links == [f"#{claim.id}" for claim in CLAIMS]
    assert [len(width) for width in reader.widths] == [1] * (1 + len(CLAIMS))
    assert reader.images == 1
    assert reader.text.count(EXACT.statement) == 2 * len(CLAIMS)  # nothing was taken for a tag
    assert EXACT.source in reader.text
    assert "<b>" in reader.text


def test_page_shows_what_differs(ledger, results):
    ledger["rows"][0]["recorded"] = "order 1"
    assert "exact (recorded: order 1)" in page(ledger, results)


# --- committed tables


@pytest.fixture
def root(tmp_path, ledger):
    (tmp_path / "README.md").write_text(f"# Hello\n\n{BEGIN}\nold\n{END}\n\nBye.\n")
    paths = write_docs(ledger, tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "docs/ledger.json", "docs/LEDGER.md", "README.md"
    ]  # fmt: skip
    return tmp_path


def edit(root, change) -> None:
    """Change docs/ledger.json and render the two tables from it again."""
    ledger = json.loads((root / "docs/ledger.json").read_text())
    change(ledger)
    write_docs(ledger, root)


def test_written_docs_are_fresh(root, ledger):
    assert stale(CLAIMS, root) == []
    assert stale(CLAIMS, root, ledger) == []
    readme = (root / "README.md").read_text()
    assert readme.startswith(f"# Hello\n\n{BEGIN}\n\n| |")
    assert readme.endswith(f"{END}\n\nBye.\n")
    assert "old" not in readme
    assert [p.name for p in (root / "docs").iterdir() if p.name.startswith(".")] == []
    before = readme
    write_docs(ledger, root)
    assert (root / "README.md").read_text() == before


@pytest.mark.parametrize("key", docs.TEXTS)
def test_a_text_that_has_changed(root, key):
    moved = (replace(EXACT, **{key: "else"}), *CLAIMS[1:])
    found = stale(moved, root)
    assert found[0] == f"Q1: {key} has changed since docs/ledger.json"
    assert all(line.startswith("Q1: ") for line in found)
    assert len(found) == (2 if key == "recorded" else 1)


def test_rows_that_have_changed(root):
    (found,) = stale(CLAIMS[:2], root)
    assert "has rows ['Q1', 'Q2', 'Z3'], the code ['Q1', 'Q2']" in found


def test_a_verdict_that_has_changed(root, ledger):
    ledger["rows"][1]["verdict"] = "conditional"
    assert stale(CLAIMS, root, ledger) == ["Q2: verdict conditional, docs/ledger.json has false"]

    def change(old):
        old["rows"][1]["verdict"] = "exact"

    edit(root, change)
    # Seen in every profile, also without a fresh measurement.
    assert stale(CLAIMS, root) == ["Q2: docs/ledger.json measured exact, not false"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("holds", False), ("role", "instead"), ("kind", "statistical"), ("mutants", {"x": True})],
)
def test_a_finding_that_has_changed(root, ledger, key, value):
    ledger["rows"][0]["findings"][0][key] = value
    (found,) = stale(CLAIMS, root, ledger)
    assert found == f"Q1, first | part: {key} is no longer what docs/ledger.json has"


def test_parts_that_have_changed(root, ledger):
    ledger["rows"][0]["findings"].pop()
    assert stale(CLAIMS, root, ledger) == ["Q1: its parts have changed since docs/ledger.json"]


@pytest.mark.parametrize(("factor", "seen"), [(1.04, False), (1.06, True), (0.94, True)])
def test_a_number_that_has_changed(root, ledger, factor, seen):
    assert abs(factor - 1) > CLOSE.rtol or not seen
    ledger["rows"][0]["findings"][0]["numbers"]["tv"] *= factor
    line = "Q1, first | part: tv is no longer what docs/ledger.json has"
    assert stale(CLAIMS, root, ledger) == ([line] if seen else [])


def test_rounding_errors_may_change(root, ledger):
    ledger["rows"][0]["findings"][0]["numbers"]["error"] *= 3
    assert stale(CLAIMS, root, ledger) == []


@pytest.mark.parametrize("change", ["number gone", "new number", "nan", "list"])
def test_numbers_of_another_shape(root, ledger, change):
    numbers = ledger["rows"][0]["findings"][0]["numbers"]
    if change == "number gone":
        del numbers["tv"]
    elif change == "new number":
        numbers["new"] = 1.0
    else:
        numbers["tv"] = None if change == "nan" else [0.25, 0.25]
    (found,) = stale(CLAIMS, root, ledger)
    assert "new" in found if change == "new number" else ": tv is" in found


def test_a_map_that_has_changed(root, ledger):
    ledger["rows"][1]["region"]["share"]["0.05"] = 0.9
    (found,) = stale(CLAIMS, root, ledger)
    assert found == "Q2: its map's share/0.05 is no longer what docs/ledger.json has"


def test_numbers_of_another_profile_are_not_compared(root, ledger):
    other_profile = copy.deepcopy(ledger)
    other_profile["profile"] = "thorough"
    other_profile["rows"][0]["findings"][0]["numbers"]["tv"] = 9.0
    assert stale(CLAIMS, root, other_profile) == []


def test_hand_edited_tables(root):
    for name, words in (
        ("docs/LEDGER.md", "docs/LEDGER.md is not the rendering"),
        ("README.md", "the README's table is not the rendering"),
    ):
        file = root / name
        whole = file.read_text()
        file.write_text(whole.replace("**false**", "**exact**"))
        (found,) = stale(CLAIMS, root)
        assert found.startswith(words)
        file.write_text(whole)
    (root / "README.md").write_text(whole.replace("Bye.", "Good-bye."))  # outside the marks
    assert stale(CLAIMS, root) == []


def test_no_docs(tmp_path):
    (found,) = stale(CLAIMS, tmp_path)
    assert found.endswith("docs/ledger.json is missing")


@pytest.mark.parametrize(
    "readme", ["# Hello", BEGIN, END, f"{BEGIN}{BEGIN}{END}", f"{END}\n{BEGIN}"], ids=range(5)
)
def test_readme_without_marks(root, ledger, readme):
    with pytest.raises(ValueError, match=r"README\.md: "):
        with_table(readme, "table")
    before = (root / "docs/LEDGER.md").read_text()
    (root / "README.md").write_text(readme)
    with pytest.raises(ValueError, match=r"README\.md: "):
        write_docs({**ledger, "profile": "thorough"}, root)
    assert (root / "docs/LEDGER.md").read_text() == before  # nothing was written
    with pytest.raises(ValueError, match=r"README\.md: "):
        stale(CLAIMS, root)


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
        (["--only", "Q9"], "only = 'Q9'"),
        (["--only", "Z1", "--source", "liu"], "only = 'Z1'"),
        (["--check-docs", "--only", "L7"], "--check-docs and --write-docs are about the whole"),
        (["--write-docs", "--source", "zhu"], "--check-docs and --write-docs are about the whole"),
        (["--only", "L7", "--processes", "0"], "--processes = 0"),
        (["--only", "L7", "--processes", "65"], "--processes = 65"),
    ],
)
def test_bad_options(arguments, words, capsys, tmp_path):
    status, out, err = verify(capsys, *arguments, "--profile", "fast", "--out", tmp_path)
    assert status == 2
    assert words in err
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
    assert {p.name for p in tmp_path.iterdir()} == {"ledger.json", "ledger.md", "ledger.html"}


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
    (root / "README.md").write_text("# Hello")
    status, _, err = verify(capsys, *options, "--check-docs")
    assert status == 2
    assert "README.md" in err
