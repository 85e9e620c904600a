"""Users' files of samples: every kind exactly, the kinds alike, and an error for each fault."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.audit.data import readers
from theory.audit.data.tables import read_table

KINDS = (".csv", ".csv.gz", ".parquet", ".jsonl", ".ndjson")
PROMPTS = [
    "a, b",
    "NA",
    'she said "no"',
    "two\nlines",
    "None",
    "null",
    "двa 図 🎨",
    "NA",
    " a",
    "3",
]
COLUMNS = {
    "image": [f"out/{i}.png" for i in range(10)],
    "prompt": PROMPTS,
    "unused": [None] * 10,
    "seed": [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, 5, 6, 7, 8, 9],
    "reward": [0.1, -0.0, 1e-320, 1.7e308, 1 / 3, -2.5, 3, 4, 5, 6],
}


def write(path: Path, columns: dict[str, list]) -> Path:
    """The columns as a file of the kind that the name says."""
    if path.name.endswith((".csv", ".csv.gz")):
        text = io.StringIO()
        # csv before Python 3.13 leaves a lone \r unquoted.
        writer = csv.writer(text, quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif path.suffix == ".parquet":
        pd.DataFrame(columns).to_parquet(path)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        text = "\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows))
        path.write_text(text, encoding="utf-8", newline="")
    return path


# --- what is read


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_exactly(kind, tmp_path):
    path = write(tmp_path / f"samples{kind}", COLUMNS)
    table = read_table(path)
    assert table.source == str(path)
    assert table.prompts == tuple(dict.fromkeys(PROMPTS))
    assert [table.prompts[i] for i in table.prompt] == PROMPTS
    assert table.reward.dtype == np.float64
    assert table.reward.tobytes() == np.array(COLUMNS["reward"], dtype=np.float64).tobytes()
    assert table.seed is not None
    assert table.seed.dtype == table.prompt.dtype == np.int64
    assert table.seed.tolist() == COLUMNS["seed"]
    assert table.images == tuple(COLUMNS["image"])
    assert table.features is None


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_reward_is_needed(kind, tmp_path):
    table = read_table(write(tmp_path / f"a{kind}", {"reward": [1.5, 2.5]}))
    assert (table.prompts, table.prompt.tolist()) == (("",), [0, 0])
    assert (table.seed, table.features, table.images) == (None, None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_other_names(kind, tmp_path):
    columns = {"score": [1, 2], "caption": ["a", "b"], "noise": [3, 4], "file": ["x", "y"]}
    path = write(tmp_path / f"a{kind}", columns | {"prompt": [None, None], "seed": ["?", "?"]})
    table = read_table(path, reward="score", prompt="caption", seed="noise", image="file")
    assert table.seed is not None
    assert (table.prompts, table.seed.tolist(), table.images) == (("a", "b"), [3, 4], ("x", "y"))


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_as_prompts_are_texts(kind, tmp_path):
    table = read_table(write(tmp_path / f"a{kind}", {"reward": [1, 2], "prompt": [3, -7]}))
    assert table.prompts == ("3", "-7")


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_written_as_floats(kind, tmp_path):
    table = read_table(write(tmp_path / f"a{kind}", {"reward": [1, 2], "seed": [3.0, -7.0]}))
    assert table.seed is not None
    assert table.seed.tolist() == [3, -7]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names",
    [("feature1", "feature0"), ("feature_2", "feature_01"), ("feature.1", "feature 0")],
)
def test_numbered_features_come_by_number(kind, names, tmp_path):
    columns = {names[0]: [1.5, 2.5, -3], "feature_note": ["x"] * 3, names[1]: [4, 5, 6]}
    table = read_table(write(tmp_path / f"a{kind}", {"reward": [1, 2, 3], **columns}))
    assert table.features is not None
    assert table.features.dtype == np.float32
    assert table.features.tolist() == [[4, 1.5], [5, 2.5], [6, -3]]


def test_ten_features_are_not_sorted_as_text(tmp_path):
    columns = {f"z{i}": [i, -i] for i in reversed(range(11))}
    table = read_table(
        write(tmp_path / "a.csv", {"reward": [1, 2], **columns}), feature_columns="z"
    )
    assert table.features is not None
    assert table.features[0].tolist() == list(range(11))


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", ["feature", "features"])
def test_features_in_one_column_of_lists(kind, name, tmp_path):
    path = write(tmp_path / f"a{kind}", {"reward": [1, 2], name: [[1, 0.1, 3], [4, 5, 6]]})
    table = read_table(path)
    assert table.features is not None
    assert np.array_equal(table.features, np.array([[1, 0.1, 3], [4, 5, 6]], dtype=np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, ">f4"])
def test_features_in_a_file_of_their_own(dtype, tmp_path):
    wanted = np.arange(2 * 1500 * 3).reshape(3000, 3)[::-1] % 100
    np.save(tmp_path / "f.npy", wanted.astype(dtype))
    path = write(tmp_path / "a.csv", {"reward": list(range(3000))})
    table = read_table(path, features=tmp_path / "f.npy")
    assert table.features is not None
    assert table.features.dtype == np.float32
    assert np.array_equal(table.features, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_many_blocks(kind, tmp_path):
    n = 2 * readers.ROWS + 3
    columns = {"prompt": [f"p{i % 1000}" for i in range(n)], "reward": [i / 7 for i in range(n)]}
    columns |= {"seed": list(range(n)), "feature0": [i / 3 for i in range(n)]}
    table = read_table(write(tmp_path / f"a{kind}", columns))
    assert table.reward.tolist() == columns["reward"]
    assert [table.prompts[i] for i in table.prompt] == columns["prompt"]
    assert table.seed is not None
    assert table.seed.tolist() == columns["seed"]
    assert table.features is not None
    assert np.array_equal(table.features[:, 0], np.float32(columns["feature0"]))


def test_a_reward_is_no_feature(tmp_path):
    path = write(tmp_path / "a.csv", {"feature0": [1, 2], "feature1": [3, 4], "feature2": [5, 6]})
    table = read_table(path, reward="feature0")
    assert table.features is not None
    assert table.features.tolist() == [[3, 5], [4, 6]]


def test_csv_of_spreadsheets(tmp_path):
    path = tmp_path / "a.CSV"
    path.write_bytes(b"\xef\xbb\xbf\r\nreward, prompt\r\n 1 ,a\r\n\r\n2,b")
    table = read_table(path)
    assert (table.reward.tolist(), table.prompts) == ([1, 2], ("a", "b"))


def test_keys_in_any_order(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"reward": 1, "prompt": "a", "x": 1}\r\n\n{"prompt": "b", "reward": 2}\n')
    assert read_table(path).prompts == ("a", "b")


def test_types_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame(
        {
            "reward": [Decimal("1.5"), Decimal("2.5"), Decimal("3.5")],
            "prompt": pd.Categorical(["b", "a", "b"]),
            "prompt.length": [1, 1, 1],
            "seed": np.array([1, 2**63 - 1, 3], dtype=np.uint64),
        }
    )
    frame.to_parquet(path)
    table = read_table(path)
    assert table.reward.tolist() == [1.5, 2.5, 3.5]
    assert (table.prompts, table.prompt.tolist()) == (("b", "a"), [0, 1, 0])
    assert table.seed is not None
    assert table.seed.tolist() == [1, 2**63 - 1, 3]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(TEXTS, FLOATS), min_size=2, max_size=6))
def test_any_prompts_and_rewards_survive(tmp_path_factory, rows):
    prompts, rewards = [p for p, _ in rows], [r for _, r in rows]
    folder = tmp_path_factory.getbasetemp()
    for kind in KINDS:
        columns = {"prompt": prompts, "reward": rewards}
        table = read_table(write(folder / f"any{kind}", columns))
        assert [table.prompts[i] for i in table.prompt] == prompts
        assert table.prompts == tuple(dict.fromkeys(prompts))
        assert table.reward.tobytes() == np.array(rewards).tobytes()
