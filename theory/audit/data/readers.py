"""Rows of a table in blocks, from CSV, JSON lines or Parquet.

CSV is read by Python's own strict reader: pandas pads short rows without a word, and pyarrow takes
all that follows a quote that was left open for one cell. Either would lose samples unnoticed.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from reprlib import repr as shown
from typing import Any, TextIO

from theory.audit.data.columns import Choose, Plan, quoted

ROWS = 1024  # a block: thousands of feature columns still take little memory


LINE_BREAK = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class Block:
    """Some rows: the line or row of the file where each is, and the cells of used columns."""

    plan: Plan
    places: Sequence[int]
    columns: dict[str, Any]  # lists or, of numbers in Parquet, arrays


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Text with its line breaks as they are."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        with opener(path, "rb") as file:
            lines = enumerate(file, 1)
            line = next(i for i, raw in lines if raw.decode(errors="ignore").encode() != raw)
        raise ValueError(f"{path}, line {line}: must be UTF-8 ({error.reason})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: must be a whole gzip file ({error})") from error


def csv_blocks(path: Path, choose: Choose) -> Iterator[Block]:
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        rows: list[list[str]] = []
        line = 1
        try:
            header = [name.strip() for name in next(filter(None, reader), [])]
            if not header:
                raise ValueError(f"{path}: must hold a header and samples, got empty lines alone")
            plan = choose(str(path), header)
            if plan.listed:
                raise ValueError(
                    f"{path}: features must be numbered columns, got the column "
                    f"{plan.features[0]!r} (of lists, which Parquet and JSON lines have, not CSV)"
                )
            index = {name: header.index(name) for name in plan.used}
            while True:
                line, rows = reader.line_num + 1, []
                rows.extend(islice(reader, ROWS))  # keeps what comes before an error
                if not rows:
                    return
                starts: Sequence[int] = range(line, line + len(rows))
                if reader.line_num != starts[-1] or not all(rows):
                    starts = [i for i, row in zip(_starts(line, rows), rows, strict=False) if row]
                    rows = [row for row in rows if row]
                sizes = list(map(len, rows))
                if set(sizes) - {len(header)}:
                    i = next(i for i, size in enumerate(sizes) if size != len(header))
                    raise ValueError(
                        f"{path}, line {starts[i]}: must have {len(header)} cells, got {sizes[i]} "
                        "(one with a comma or a line break stands in double quotes)"
                    )
                yield Block(plan, starts, {k: [row[i] for row in rows] for k, i in index.items()})
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {_starts(line, rows)[-1]}: double quotes about a cell must be "
                f"closed, and those inside doubled ({error})"
            ) from error


def _starts(line: int, rows: Iterable[list[str]]) -> list[int]:
    """The line on which each row begins, if the first does on `line`, and the line after."""
    sizes = (1 + sum(len(LINE_BREAK.findall(cell)) for cell in row) for row in rows)
    return list(accumulate(sizes, initial=line))


def jsonl_blocks(path: Path, choose: Choose) -> Iterator[Block]:
    plan: Plan | None = None
    keys: list[str] = []
    with _opened(path) as file:
        lines = ((i, line) for i, line in enumerate(file, 1) if not line.isspace())
        while part := dict(islice(lines, ROWS)):
            records = []
            for i, line in part.items():
                try:
                    record = json.loads(line)
                    if "\\u" in line:  # half a character may be written so, and is no text
                        json.dumps(record, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as error:
                    raise ValueError(
                        f"{path}, line {i}: must be a JSON object ({error})"
                    ) from error
                if not isinstance(record, dict):
                    raise ValueError(
                        f"{path}, line {i}: must be a JSON object, got {shown(record)}"
                    )
                if plan is None or list(record) != keys:
                    keys = list(record)
                    found = choose(f"{path}, line {i}", keys)
                    plan = plan or found
                    if found != plan:
                        raise ValueError(
                            f"{path}, line {i}: must have {quoted(plan.used)}, as before, got "
                            f"{quoted(found.used)}"
                        )
                records.append(record)
            assert plan is not None
            columns = {name: [record[name] for record in records] for name in plan.used}
            yield Block(plan, list(part), columns)


def parquet_blocks(path: Path, choose: Choose) -> Iterator[Block]:
    try:  # not an import statement: pyarrow is optional, and has no types
        arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise ValueError(
            f"{path}: Parquet needs pyarrow, which is not installed (CSV and JSON lines do not)"
        ) from error
    row = 1
    with path.open("rb") as file:
        try:
            source = parquet.ParquetFile(file, page_checksum_verification=True)
            plan = choose(str(path), source.schema_arrow.names)
            for batch in source.iter_batches(batch_size=ROWS, columns=plan.used):
                columns = {name: _cells(batch.column(name)) for name in plan.used}
                yield Block(plan, range(row, row + len(batch)), columns)
                row += len(batch)
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path}, from row {row}: must be a whole Parquet file ({error})"
            ) from error


def _cells(column: Any) -> Any:
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind in "iuf":
        return values
    # Dates would become whole numbers.
    return values.tolist() if values.dtype.kind == "O" else column.to_pylist()
