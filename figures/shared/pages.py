"""Pages with pictures that follow from committed numbers: written, and compared with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from theory.common.files import read_json, write_atomically
from theory.evaluation.draw import png

DOCS = Path("docs")
DIGITS = 6  # significant, of what is kept


@dataclass(frozen=True)
class Page:
    """Where a page is, under the folder of the documentation, and what it is made of.

    package: of the pictures' modules.  folder: of the pictures.  pictures: their names, and the
    key of the numbers that each one needs: without these it is left out.  parts: keys that there
    must be.
    command: what writes the page.  markdown: the page, from its numbers.
    """

    package: str
    path: str
    folder: str
    numbers: str
    pictures: Mapping[str, str]
    parts: tuple[str, ...]
    command: str
    markdown: Callable[[Mapping[str, Any]], str]

    def shown(self, numbers: Mapping[str, Any]) -> list[str]:
        """The pictures that there are numbers for."""
        return [name for name, part in self.pictures.items() if numbers.get(part)]

    def write(self, docs: Path, numbers: Mapping[str, Any]) -> list[Path]:
        """The pictures, the numbers, the page last; returns the paths."""
        pictures = {name: docs / self.folder / f"{name}.png" for name in self.shown(numbers)}
        for name, path in pictures.items():
            write_atomically(path, png(module_of(self.package, name).draw(numbers)))
        text = json.dumps(numbers, allow_nan=False, separators=(",", ":"))
        write_atomically(docs / self.numbers, (text.replace("},{", "},\n{") + "\n").encode())
        write_atomically(docs / self.path, self.markdown(numbers).encode())
        return [*pictures.values(), docs / self.numbers, docs / self.path]

    def read(self, docs: Path) -> dict[str, Any]:
        """The committed numbers.

        Raises:
            ValueError: missing, no JSON, or without a part.
        """
        path, advice = docs / self.numbers, f"write it with `{self.command}`"
        numbers = dict(read_json(path, advice))
        missing = [key for key in self.parts if key not in numbers]
        if missing:
            raise ValueError(f"{path}: has no {', '.join(missing)}; {advice}")
        return numbers

    def stale(self, docs: Path) -> list[str]:
        """What is not what the committed numbers give, one line each."""
        page, numbers = docs / self.path, self.read(docs)
        lines = [
            f"{docs / self.folder}/{name}.png: missing"
            for name in self.shown(numbers)
            if not (docs / self.folder / f"{name}.png").is_file()
        ]
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        if text != self.markdown(numbers):
            lines.append(f"{page}: not what its numbers give")
        return lines


def module_of(package: str, name: str) -> ModuleType:
    """A picture's module."""
    return import_module(f"{package}.{name}")


def rounded(data: Any) -> Any:
    """Plain data with DIGITS significant digits."""
    if isinstance(data, dict):
        return {k: rounded(v) for k, v in data.items()}
    if isinstance(data, list):
        return [rounded(v) for v in data]
    return float(f"{data:.{DIGITS}g}") if isinstance(data, float) else data
