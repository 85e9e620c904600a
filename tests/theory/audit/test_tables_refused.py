"""Tables that are refused, by name."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.theory.audit.test_tables import COLUMNS, KINDS, write
from theory.audit.data import readers
from theory.audit.data.tables import read_table


def refused(path: Path, data: bytes | str | dict[str, list], *words: object, **options) -> None:
    """That the file is refused, by name, with all of the words."""
    if isinstance(data, dict):
        write(path, data)
    else:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(ValueError, match=r"must|need") as caught:
        read_table(path, **options)
    assert str(path) in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must be a file, got .*a\.csv': no such file"
    ):
        read_table(tmp_path / "a.csv")
    path = write(tmp_path / "a.csv", {"reward": [1, 2]})
    with pytest.raises(
        FileNotFoundError, match=r"features of path must be a file, got .*f\.npy': no such file"
    ):
        read_table(path, features=tmp_path / "f.npy")
    refused(tmp_path / "a.tsv", "reward\n1\n2", *KINDS)
    refused(tmp_path / "a.jsonl.gz", "", *KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["reward", "prompt", "seed", "image"])
def test_a_named_column_must_be_there(kind, role, tmp_path):
    data = {"prompt": ["a", "b"], "x": [1, 2]}
    refused(
        tmp_path / f"a{kind}",
        data,
        f"{role} must be a column",
        "'prompt', 'x', got 'score'",
        **({"reward": "x"} | {role: "score"}),
    )
    refused(tmp_path / f"a{kind}", data, "reward must be", "'prompt', 'x', got 'reward'")


def test_columns_that_come_twice(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    refused(tmp_path / "a.csv", "reward,x,reward\n1,2,3\n1,2,3", "one column 'reward', got 2")
    refused(tmp_path / "a.csv", "seed,reward, seed\n1,2,3\n1,2,3", "one column 'seed', got 2")
    path = write(tmp_path / "a.csv", {"reward": [1, 2]})
    path.write_text("x,x,reward\n1,2,3\n1,2,4")
    assert read_table(path).reward.tolist() == [3, 4]
    path = tmp_path / "a.parquet"
    column = pa.array([1.0, 2.0])
    pq.write_table(pa.table([column, column], names=["reward", "reward"]), path)
    refused(path, path.read_bytes(), "one column 'reward', got 2")
    pq.write_table(pa.table([column] * 3, names=["reward", "x", "x"]), path)
    assert read_table(path).reward.tolist() == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", [(0, 2), (2, 3), (1, 3), ("1", "_1"), ("1", "_01")])
def test_numbers_of_features(kind, numbers, tmp_path):
    columns = {f"feature{i}": [1, 2] for i in numbers}
    names = [repr(name) for name in columns]
    refused(tmp_path / f"a{kind}", {"reward": [1, 2], **columns}, "from 0 or 1", *names)


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
def test_features_twice(kind, tmp_path):
    lists = [[1, 2], [3, 4]]
    both = {"reward": [1, 2], "features": lists, "feature": lists}
    refused(tmp_path / f"a{kind}", both, "'features', 'feature'")
    both = {"reward": [1, 2], "features": lists, "feature0": [1, 2]}
    refused(tmp_path / f"a{kind}", both, "'features', 'feature0'")
    np.save(tmp_path / "f.npy", np.zeros((2, 3)))
    features = tmp_path / "f.npy"
    for columns in ({"features": lists}, {"feature0": [1, 2]}):
        data = {"reward": [1, 2], **columns}
        refused(tmp_path / f"a{kind}", data, *columns, str(features), features=features)


def test_lists_in_csv(tmp_path):
    refused(tmp_path / "a.csv", {"reward": [1, 2], "features": ["[1]", "[2]"]}, "'features'")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None, True, "two", "1_0", "", "0x10"])
@pytest.mark.parametrize("column", ["reward", "feature1"])
def test_no_finite_numbers(kind, value, column, tmp_path):
    n, bad = readers.ROWS + 20, (readers.ROWS + 3, readers.ROWS + 4)
    columns = {name: [float(i) for i in range(n)] for name in ("reward", "feature1")}
    cells = [value if i in bad else x for i, x in enumerate(columns[column])]
    if kind == ".parquet" and not (value is None or isinstance(value, float)):
        cells = [value] * n  # a column of Parquet has one type
        place, count = "row 1:", f"{n} such rows"
    elif kind == ".parquet":
        place, count = f"row {bad[0] + 1}:", "2 such rows"
    else:
        place, count = f"line {bad[0] + 1 + kind.startswith('.csv')}:", "2 such rows"
    shown = "''" if value is None and kind.startswith(".csv") else repr(value).strip("'")
    shown = "nan" if value is None and kind == ".parquet" else shown
    refused(
        tmp_path / f"a{kind}",
        columns | {column: cells},
        place,
        count,
        f"{column} must be a finite number",
        ", got ",
        shown,
    )


def test_the_first_fault_of_several(tmp_path):
    columns = {"reward": [1, 2, "x"], "seed": [1, "y", "z"], "prompt": ["a", "b", ""]}
    refused(
        tmp_path / "a.csv",
        columns,
        "line 3: seed must be a whole number of 64 bits, got 'y'",
        "2 such rows",
    )


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ([1.0, np.nan], ("features[1] must be", "got nan; 1 such row")),
        ([1e39, 2.0], ("features[0] must be", "3.4e+38), got 1e+39")),
        ([1.0, None], ("features[1] must be",)),
        ([1.0], ("a list of 2",)),
        ([], ("a list of 2",)),
        (None, ("features must be a list of 2", "got None")),
    ],
)
def test_faulty_lists(kind, cell, words, tmp_path):
    columns = {"reward": [1, 2, 3], "features": [[1.0, 2.0], [3.0, 4.0], cell]}
    refused(tmp_path / f"a{kind}", columns, " 3: ", *words)


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
@pytest.mark.parametrize("cell", [[True, False], ["1", "2"], [[1.0], [2.0]], [], 1.0, "text"])
def test_columns_that_are_no_lists_of_numbers(kind, cell, tmp_path):
    columns = {"reward": [1, 2], "features": [cell, cell]}
    refused(tmp_path / f"a{kind}", columns, " 1: feature")


@pytest.mark.parametrize("value", ["true", "[1]", '{"a": 1}', "1" + "0" * 400, '"1"'])
def test_json_that_is_no_number(value, tmp_path):
    text = f'{{"reward": 1}}\n\n{{"reward": {value}}}'
    refused(tmp_path / "a.jsonl", text, "line 3: reward must be", "1 such row")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["prompt", "image"])
@pytest.mark.parametrize("value", ["", None])
def test_missing_texts(kind, column, value, tmp_path):
    columns = {"reward": [1, 2, 3], column: ["a", value, "b"]}
    place = "row 2" if kind == ".parquet" else "line 2" if "json" in kind else "line 3"
    refused(tmp_path / f"a{kind}", columns, f"{place}: {column} must be", "1 such row")


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
@pytest.mark.parametrize("value", [True, 1.5, ["a"], {"a": 1}, 2**60 * 1.0])
def test_prompts_that_are_no_texts(kind, value, tmp_path):
    columns = {"reward": [1, 2], "prompt": [value] * 2}
    refused(tmp_path / f"a{kind}", columns, " 1: prompt must be", "2 such rows")


def test_dates_are_no_numbers(tmp_path):
    dates = list(pd.to_datetime(["2020-01-01", "2021-01-01"]).as_unit("ns"))
    for column in ("prompt", "reward", "seed"):
        columns = {"reward": [1, 2], column: dates}
        refused(tmp_path / "a.parquet", columns, f"row 1: {column} must be")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1.5, 2.0**53, -1e30, np.inf, np.nan, "x", None, 2**63])
def test_seeds_that_are_no_whole_numbers(kind, value, tmp_path):
    seeds = [value, value] if kind == ".parquet" else [1, value]
    place = " 1: " if kind == ".parquet" else " 2: " if "json" in kind else " 3: "
    refused(tmp_path / f"a{kind}", {"reward": [1, 2], "seed": seeds}, place, "seed must be")


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_rows(kind, tmp_path):
    refused(tmp_path / f"a{kind}", {"reward": [1.0]}, "2 rows or more, got 1")
    if "json" not in kind:
        refused(tmp_path / f"a{kind}", {"reward": []}, "2 rows or more, got 0")


def test_empty_files(tmp_path):
    refused(tmp_path / "a.csv", "", "0 bytes", "a file with samples")
    refused(tmp_path / "a.csv", "\n\n", "empty lines alone", "a header")
    refused(tmp_path / "a.csv.gz", "", "0 bytes", "gzip")
    refused(tmp_path / "a.jsonl", "\n\n", "2 rows or more, got 0")
    refused(tmp_path / "a.parquet", "", "Parquet")


# Lines are told exactly: cells with line breaks and empty lines come before the fault.
HEAD = 'reward,prompt\n\n1,"a\nb\r\nc\rd"\n\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "2\n3,d", ("line 8: must have 2 cells, got 1",)),
        (HEAD + "2,b,\n3,d", ("line 8: must have 2 cells, got 3",)),
        (HEAD + "2,b\nx,d", ("line 9: reward must be", "got 'x'")),
        ('reward,prompt\n1,"a\nb"\n2,"c\r"\nx,d\n', ("line 6: reward must be", "got 'x'")),
        # pyarrow reads two rows of this, and says nothing.
        (HEAD + '2,"b\n3,c\n', ("line 8: ", "must be closed", "unexpected end of data")),
        (HEAD + '2,b\n3,"c"d\n', ("line 9: ", "',' expected after '\"'")),
        ('reward,"prompt\n1,a\n', ("line 1: ", "unexpected end of data")),
        ("reward,prompt\n1," + "a" * 200_000, ("line 2: ", "field larger than")),
    ],
)
def test_faulty_csv(text, words, tmp_path):
    refused(tmp_path / "a.csv", text, *words)
    refused(tmp_path / "a.csv.gz", gzip.compress(text.encode()), *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"reward": 1', ()),
        ('{"reward": 1, "prompt": "a"} x', ()),
        ("[1, 2]", ("[1, 2]",)),
        ("[" * 100_000, ()),
        ("3", ("must be a JSON object, got 3",)),
        ("null", ("None",)),
        ('{"reward": 1}', ("must have 'reward', 'prompt', as before, got 'reward'",)),
        ('{"reward": 1, "prompt": "a", "seed": 3}', ("'seed'",)),
        ('{"prompt": "a"}', ("reward must be a column", "one of 'prompt', got 'reward'")),
        ('{"reward": 1, "prompt": "\\ud800"}', ("surrogates",)),
        ('{"reward": NaN, "prompt": "b"}', ("reward must be", "got nan")),
    ],
)
def test_faulty_json(line, words, tmp_path):
    text = f'{{"reward": 1, "prompt": "a"}}\n\n{line}\n{{"reward": 1, "prompt": "a"}}\n'
    refused(tmp_path / "a.jsonl", text, "line 3", *words)


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".jsonl"])
def test_bytes_that_are_no_text(kind, tmp_path):
    data = b'{"reward": 1, "prompt": "\xf0\x9f\x8e\xa8"}\n' * 3000 + b'{"reward": "\xff"}\n'
    data = data if kind == ".jsonl" else b"reward,prompt\n" + b"1,a\n" * 2999 + b"1,\xc3\n"
    data = gzip.compress(data) if kind == ".csv.gz" else data
    refused(tmp_path / f"a{kind}", data, "line 3001: must be UTF-8 (invalid")


def test_damaged_archives(tmp_path):
    whole = gzip.compress("\n".join(["reward", *map(str, np.sin(range(999)))]).encode())
    refused(tmp_path / "a.csv.gz", whole[:-900], "end-of-stream")
    refused(tmp_path / "a.csv.gz", b"reward\n1\n2", "gzip")
    refused(tmp_path / "a.csv.gz", whole[:300] + b"\xff" * 300 + whole[600:], "gzip")


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    whole = write(path, COLUMNS).read_bytes()
    for size in range(0, len(whole), 97):
        refused(path, whole[:size], "Parquet")
    refused(path, b"PAR1" + b"\xff" * (len(whole) - 600) + whole[4 - 600 :], "Parquet")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", {"reward": [1, 2]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(path, path.read_bytes(), "pyarrow", "JSON lines")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 2)), ("shape (3, 2)", "(2, d)")),
        (np.zeros(2), ("shape (2,)",)),
        (np.zeros((2, 0)), ("shape (2, 0)",)),
        (np.zeros((2, 2), dtype=complex), ("complex128",)),
        (np.zeros((2, 2), dtype=bool), ("bool",)),
        (np.array([["1"], ["2"]]), ("<U1",)),
        (np.array([[{}], [1]], dtype=object), ("objects",)),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), ("row 2: column 2 must be", "got nan; 1 such row")),
        (
            np.array([[-1e300, 2.0], [1e300, 3.0]]),
            ("row 1: column 1 must be", "got -1e+300; 2 such rows"),
        ),
    ],
)
def test_faulty_arrays(array, words, tmp_path):
    features = tmp_path / "f.npy"
    np.save(features, array)
    path = write(tmp_path / "a.csv", {"reward": [1, 2]})
    with pytest.raises(ValueError, match=r"must|need") as caught:
        read_table(path, features=features)
    for word in (str(features), *words):
        assert word in str(caught.value)


def test_files_that_are_no_arrays(tmp_path):
    path = write(tmp_path / "a.csv", {"reward": [1, 2]})
    np.save(tmp_path / "f.npy", np.zeros((2, 3)))
    whole = (tmp_path / "f.npy").read_bytes()
    np.savez(tmp_path / "f.npz", np.zeros((2, 3)))
    for data in (b"", b"1, 2", whole[:50], whole[:-1], (tmp_path / "f.npz").read_bytes()):
        (tmp_path / "f.npy").write_bytes(data)
        with pytest.raises(ValueError, match=r"features must be a \.npy file, got .*f\.npy"):
            read_table(path, features=tmp_path / "f.npy")
