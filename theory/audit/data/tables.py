"""Samples of one model from a user's file, whatever trainer wrote it.

    .csv, .csv.gz     a header with a column of rewards; every row as long as it
    .parquet          the same columns (pyarrow reads them)
    .jsonl, .ndjson   one object a line, with the same keys

Files are read in blocks of rows, and only the columns that are used are kept.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.columns import SETTINGS, Plan, choose_columns, quoted
from theory.audit.data.readers import ROWS, Block, csv_blocks, jsonl_blocks, parquet_blocks

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".jsonl", ".ndjson")
LEAST = 2  # samples
LARGEST_EXACT = 2**53  # a float from here on may stand for another whole number than was meant
MOST_VALUES = 100  # of a setting, that are kept


@dataclass(frozen=True, eq=False)
class Table:
    """n samples of one model from a file.

    source: the path as given, for messages. reward: (n,). prompts: the distinct ones, in order of
    first appearance; ("",) where the file has none. prompt: (n,), index into prompts. seed: (n,).
    features: (n, d). images: n paths of pictures, as in the file. None: the file has none.
    settings: the values of columns that say how a row was sampled (SETTINGS), each once. ignored:
    columns that are none of these.
    """

    source: str
    reward: NDArray[np.float64]
    prompts: tuple[str, ...]
    prompt: NDArray[np.int64]
    seed: NDArray[np.int64] | None
    features: NDArray[np.float32] | None
    images: tuple[str, ...] | None
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def read_table(
    path: Path,
    *,
    reward: str = "reward",
    prompt: str | None = None,
    seed: str | None = None,
    image: str | None = None,
    feature_columns: str = "feature",
    features: Path | None = None,
    name: str = "path",
) -> Table:
    """The samples in a file.

    reward, prompt, seed, image: names of columns; the last three, unless told, are "prompt",
    "seed" and "image" where the file has them. feature_columns: what the names of columns of
    features begin with, before their numbers ("feature0", "feature_1", "feature.2": from 0 or 1,
    none left out); in Parquet and JSON lines also one column of lists, of this name or with an s.
    features: a .npy file (n, d) instead, row by row as in path. name: path's, in errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a damaged one; a column that it does not have, or has
            twice; rows of other columns than the first; a reward or a feature that is no finite
            number, a prompt or an image that is no text or empty, a seed that is no whole number
            of 64 bits (the first line or row, its value and how many are told); fewer than 2
            rows; features in both files, or not of shape (n, d).
        OSError: the file cannot be read.
    """
    for which, file in ((name, path), (f"features of {name}", features)):
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"{which} must be a file, got {str(file)!r}: no such file")
    kind = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if kind is None:
        raise ValueError(
            f"{name} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {str(path)!r}"
        )
    if path.stat().st_size == 0:
        what = {".parquet": "a whole Parquet file", ".csv.gz": "a whole gzip file of CSV"}
        whole = what.get(kind, "a file with samples")
        raise ValueError(f"{name} must be {whole}, got {str(path)!r}: a file of 0 bytes")
    asked = {"reward": reward, "prompt": prompt, "seed": seed, "image": image}

    def choose(where: str, names: Sequence[str]) -> Plan:
        plan = choose_columns(where, names, asked, feature_columns)
        if features is not None and plan.features:
            raise ValueError(
                f"features must be in one place, got {str(features)!r} and {quoted(plan.features)} "
                f"of {where}"
            )
        return plan

    rows = _Rows(path, "row" if kind == ".parquet" else "line", text=kind.startswith(".csv"))
    read = {".parquet": parquet_blocks, ".csv": csv_blocks, ".csv.gz": csv_blocks}.get(
        kind, jsonl_blocks
    )
    for block in read(path, choose):
        rows.add(block)
    return rows.table(features)


# --- cells


def _quick(
    cells: Any, text: bool, kind: type[int] | type[float], dtype: type[np.generic]
) -> NDArray[Any] | None:
    """All cells at once, where each is plainly of this kind; float also takes int."""
    if isinstance(cells, np.ndarray):
        return cells.astype(dtype) if cells.dtype.kind in ("i" if kind is int else "iuf") else None
    if set(map(type, cells)) <= ({str} if text else {int, kind}):
        try:
            if not (text and "_" in "".join(cells)):
                return np.fromiter(map(kind, cells), dtype, len(cells))
        except (ValueError, OverflowError):
            pass
    return None


def _number(cell: Any, text: bool) -> float:
    """A number, NaN where there is none; text: whether numbers are written as text."""
    # bool is an int, and float() reads "1_0".
    known = str if text else (int, float, Decimal, np.integer, np.floating)
    if not isinstance(cell, known) or isinstance(cell, bool) or (text and "_" in str(cell)):
        return math.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return math.nan


def _whole(cell: Any, text: bool) -> int | None:
    """A whole number of 64 bits (3.0 is one), or None."""
    number = _number(cell, text)
    if not number.is_integer():
        return None
    whole = int(number)
    if abs(whole) >= LARGEST_EXACT:
        try:
            whole = int(str(cell))
        except ValueError:
            return None
    return whole if -(2**63) <= whole < 2**63 else None


def _text(cell: Any) -> str:
    """A text, or a whole number as text; "" for anything else."""
    whole = None if isinstance(cell, str) else _whole(cell, text=False)
    return cell if isinstance(cell, str) else "" if whole is None else str(whole)


class _Rows:
    """The rows of all blocks. unit: what their places count; text: numbers are written as text."""

    def __init__(self, path: Path, unit: str, text: bool = False) -> None:
        self.path, self.unit, self.text = path, unit, text
        self.parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
        self.prompts: dict[str, int] = {}
        self.images: list[str] = []
        self.settings: dict[str, dict[str, None]] = defaultdict(dict)
        self.ignored: tuple[str, ...] = ()
        self.width = 0
        # By column: the first place, the cell there in words, the number of such rows.
        self.faults: dict[str, tuple[int, str, int]] = {}

    def add(self, block: Block) -> None:
        self.ignored = block.plan.ignored
        read = {"reward": self._finite, "prompt": self._prompts, "seed": self._seeds}
        for role, name in block.plan.named.items():
            cells = block.columns[name]
            if role in SETTINGS:
                self._note_settings(role, cells)
            elif role == "image":
                self.images += self._texts(name, cells, block.places)
            else:
                self.parts[role].append(read[role](name, cells, block.places))
        features = {name: block.columns[name] for name in block.plan.features}
        if block.plan.listed:
            features = self._unlisted(*features.popitem(), block.places)
        if features:
            self.add_features(features, block.places)

    def _note_settings(self, name: str, cells: Any) -> None:
        """What is new; empty cells say nothing."""
        known = self.settings[name]
        for cell in dict.fromkeys(cells.tolist() if isinstance(cells, np.ndarray) else cells):
            if cell not in (None, "") and len(known) < MOST_VALUES:
                known[f"{cell:g}" if isinstance(cell, float) else str(cell).strip()] = None

    def add_features(self, columns: Mapping[str, Any], places: Sequence[int]) -> None:
        # What float32 cannot hold becomes infinite, and is refused with the rest.
        with np.errstate(over="ignore", invalid="ignore"):
            singles = [self._finite(*column, places, np.float32) for column in columns.items()]
        self.parts["features"].append(np.stack(singles, axis=1))

    def _unlisted(self, name: str, cells: Any, places: Sequence[int]) -> dict[str, Any]:
        """A column of lists as one column a feature."""
        for place, cell in zip(places, cells, strict=True):
            size = len(cell) if isinstance(cell, list | np.ndarray) else 0
            self.width = self.width or size
            if size == 0 or size != self.width:
                wanted = f"{self.width}, as before," if self.width else "1 or more"
                raise ValueError(
                    f"{self.path}, {self.unit} {place}: {name} must be a list of {wanted} numbers, "
                    f"got {shown(cell)}"
                )
        lists = np.stack(cells).T if isinstance(cells[0], np.ndarray) else zip(*cells, strict=True)
        return {f"{name}[{i}]": column for i, column in enumerate(lists)}

    def _finite(
        self, name: str, cells: Any, places: Sequence[int], dtype: type[np.floating] = np.float64
    ) -> NDArray[Any]:
        found = _quick(cells, self.text, float, np.float64)
        if found is None:
            found = np.array([_number(cell, self.text) for cell in cells])
        found = found.astype(dtype, copy=False)
        allowed = f"a finite number (up to {np.finfo(dtype).max:.1e})"
        self._note(name, cells, ~np.isfinite(found), places, allowed)
        return found

    def _seeds(self, name: str, cells: Any, places: Sequence[int]) -> NDArray[np.int64]:
        found = _quick(cells, self.text, int, np.int64)
        if found is None:
            seeds = [_whole(cell, self.text) for cell in cells]
            bad = np.array([seed is None for seed in seeds])
            self._note(name, cells, bad, places, "a whole number of 64 bits")
            found = np.array([seed or 0 for seed in seeds], dtype=np.int64)
        return found

    def _prompts(self, name: str, cells: Any, places: Sequence[int]) -> NDArray[np.int64]:
        known, texts = self.prompts, self._texts(name, cells, places)
        for text in dict.fromkeys(texts):
            known.setdefault(text, len(known))
        return np.fromiter(map(known.__getitem__, texts), np.int64, len(texts))

    def _texts(self, name: str, cells: Any, places: Sequence[int]) -> list[str]:
        texts = list(cells) if set(map(type, cells)) == {str} else [_text(cell) for cell in cells]
        if not all(texts):
            bad = np.array([not text for text in texts])
            self._note(name, cells, bad, places, "a text that is not empty, or a whole number")
        return texts

    def _note(
        self, name: str, cells: Any, bad: NDArray[np.bool_], places: Sequence[int], allowed: str
    ) -> None:
        if not bad.any():
            return
        row = int(bad.argmax())
        cell = cells[row].item() if isinstance(cells[row], np.generic) else cells[row]
        new = places[row], f"{name} must be {allowed}, got {shown(cell)}", 0
        place, text, count = self.faults.get(name, new)
        self.faults[name] = place, text, count + int(bad.sum())

    def check(self, n: int) -> None:
        if self.faults:
            place, text, count = min(self.faults.values())
            rows = f"{count} such rows" if count > 1 else "1 such row"
            raise ValueError(f"{self.path}, {self.unit} {place}: {text}; {rows}")
        if n < LEAST:
            raise ValueError(f"{self.path}: must have {LEAST} rows or more, got {n}")

    def table(self, features: Path | None) -> Table:
        n = sum(map(len, self.parts["reward"]))
        self.check(n)
        whole = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        return Table(
            source=str(self.path),
            reward=whole["reward"],
            prompts=tuple(self.prompts) or ("",),
            prompt=whole.get("prompt", np.zeros(n, dtype=np.int64)),
            seed=whole.get("seed"),
            features=whole.get("features") if features is None else _of_array(features, n),
            images=tuple(self.images) or None,
            settings={name: tuple(values) for name, values in self.settings.items()},
            ignored=self.ignored,
        )


def _of_array(path: Path, n: int) -> NDArray[np.float32]:
    """Features (n, d) of a .npy file."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"features must be a .npy file, got {str(path)!r} ({error})") from error
    if array.ndim != 2 or len(array) != n or array.size == 0 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"features must be real numbers of shape ({n}, d), one row a sample and d at least 1, "
            f"got {array.dtype} of shape {array.shape} in {str(path)!r}"
        )
    rows = _Rows(path, "row")
    for start in range(0, n, ROWS):
        part = np.asarray(array[start : start + ROWS])
        columns = {f"column {i}": cells for i, cells in enumerate(part.T, 1)}
        rows.add_features(columns, range(start + 1, n + 1))
    rows.check(n)
    return np.concatenate(rows.parts["features"])
