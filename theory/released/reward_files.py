"""Rewards of your own base samples, from a file; errors name the line.

    .csv     a header with a column of rewards (and one of prompts, if there is one); or one column
             of numbers without a header
    .jsonl   a number a line, or an object with "reward" (and "prompt")
    .txt     a number a line
    .npy     a vector of numbers

Empty lines are skipped. All rewards must be finite, prompts any text or number.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.released.sources import SampledRewards

SUFFIXES = (".csv", ".jsonl", ".txt", ".npy")
LEAST = 2  # samples
# What a line holds: its number from 1, the reward as read, its prompt or None.
Line = tuple[int, Any, Any]


def read_rewards(
    path: Path,
    reward_column: str | None = None,
    prompt_column: str | None = None,
    data_std: float | None = None,
) -> SampledRewards:
    """The rewards and the prompts of a file.

    reward_column, prompt_column: names of columns (.csv) or keys (.jsonl); "reward" and, where it
    is there, "prompt" unless told.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, columns that it does not have, a line that is no finite
            number (its number is told), prompts on some lines only, fewer than 2 rewards.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"rewards must be a file that ends in {', '.join(SUFFIXES)}, got {str(path)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"rewards = {str(path)!r}: no such file")
    named = {"reward-column": reward_column, "prompt-column": prompt_column}
    if path.suffix in (".txt", ".npy"):
        for name, value in named.items():
            if value is not None:
                raise ValueError(
                    f"--{name} must come with .csv or .jsonl, else it changes nothing, got "
                    f"{value!r}"
                )
    if path.suffix == ".npy":
        return _gathered(path, list(_of_array(path)), data_std)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8: {error}") from error
    if path.suffix == ".csv":
        lines = _of_csv(path, text, reward_column, prompt_column)
    elif path.suffix == ".jsonl":
        lines = _of_jsonl(path, text, reward_column or "reward", prompt_column)
    else:
        lines = (
            (i, row.strip(), None) for i, row in enumerate(text.splitlines(), 1) if row.strip()
        )
    return _gathered(path, list(lines), data_std)


def _of_array(path: Path) -> Iterator[Line]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not an array of numbers: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "fiu":
        shape = getattr(values, "shape", None)
        raise ValueError(f"{path} must be a vector of real numbers, got shape {shape}")
    return ((i, float(v), None) for i, v in enumerate(values, 1))


def _of_csv(path: Path, text: str, reward: str | None, prompt: str | None) -> Iterator[Line]:
    reader = csv.reader(text.splitlines())
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        return
    header = [cell.strip() for cell in rows[0][1]]
    if len(header) == 1 and reward is None and prompt is None and _is_number(header[0]):
        for i, row in rows:
            if len(row) != 1:
                raise ValueError(f"{path}, line {i}: must be 1 cell as in line 1, got {len(row)}")
            yield i, row[0].strip(), None
        return
    wanted = reward or "reward"
    for name, needed in ((wanted, True), (prompt or "prompt", prompt is not None)):
        if needed and name not in header:
            raise ValueError(f"{path}: no column {name!r} in its header ({', '.join(header)})")
        if header.count(name) > 1:
            raise ValueError(f"{path} must have one column {name!r}, got {header.count(name)}")
    column = header.index(wanted)
    of_prompt = header.index(prompt or "prompt") if (prompt or "prompt") in header else None
    for i, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {i}: must be {len(header)} cells, got {len(row)}")
        yield i, row[column].strip(), None if of_prompt is None else row[of_prompt].strip()


def _of_jsonl(path: Path, text: str, reward: str, prompt: str | None) -> Iterator[Line]:
    for i, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {i}: no JSON: {error}") from error
        if not isinstance(value, dict):
            yield i, value, None
            continue
        if reward not in value or (prompt is not None and prompt not in value):
            missing = reward if reward not in value else prompt
            raise ValueError(f"{path}, line {i}: no key {missing!r} ({', '.join(value)})")
        yield i, value[reward], value.get(prompt or "prompt")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _gathered(path: Path, lines: list[Line], data_std: float | None) -> SampledRewards:
    if len(lines) < LEAST:
        raise ValueError(f"{path} must have {LEAST} or more rewards, got {len(lines)}")
    rewards = np.array([_number(path, i, value) for i, value, _ in lines])
    return SampledRewards(rewards, _numbered(path, lines), data_std)


def _number(path: Path, line: int, value: Any) -> float:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"{path}, line {line}: reward must be a finite number, got {value!r}")


def _numbered(path: Path, lines: list[Line]) -> NDArray[np.int64]:
    """Prompts as whole numbers from 0, in the order in which they come."""
    without = [i for i, _, prompt in lines if prompt is None]
    if without and len(without) < len(lines):
        raise ValueError(f"{path}, line {without[0]}: no prompt, and other lines have one")
    known: dict[str, int] = {}
    found = [known.setdefault(repr(prompt), len(known)) for _, _, prompt in lines]
    return np.array(found, dtype=np.int64)
