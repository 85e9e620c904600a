"""Pages that users read, taken apart: fenced blocks, commands, links, anchors.

A block's first word is its language, a second one is its mark, which Markdown does not show:

    (none)      Python runs; commands are understood by their own parsers
    run         commands run too, in this process
    slow        runs in `make verify` only
    my.toml     is the file of that name, which later blocks of the page read
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
# Whose blocks run as printed.
PAGES = [ROOT / "README.md", ROOT / "docs/getting-started.md", *GUIDES]
# Whose links are followed.
ALL = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
       *sorted((ROOT / "docs").rglob("*.md"))]  # fmt: skip

FENCE = re.compile(r"^```(\w+) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PROGRAMS = ("plumbline ", "make ", "python -m ")
LANGUAGES = ("python", "sh", "toml", "text")
MARKS = ("", "run", "slow")


@dataclass(frozen=True)
class Block:
    """Fenced text; line: of its first line in the page, from 1."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def is_file(self) -> bool:
        return "." in self.mark


def name(page: Path) -> str:
    """As it stands below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """All of them, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start(3)) + 1, m[1], m[2], m[3])
        for m in FENCE.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell block, comments apart."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shown(page: Path) -> list[tuple[str, list[str]]]:
    """(where, words) of every command on a page, in blocks and in the prose, where one without
    options may be a mere name: it is asked for its help."""
    found = [
        (f"{block} {shlex.join(words)}", words)
        for block in blocks(page)
        if block.language == "sh"
        for words in commands(block.text)
    ]
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in SPAN.findall(prose):
        if span.startswith(PROGRAMS):
            words = shlex.split(span)
            is_name = words[0] != "make" and " -" not in span.removeprefix("python -m")
            found.append((f"{name(page)} {span}", [*words, "--help"] if is_name else words))
    return found


def links(page: Path) -> list[str]:
    """Where its links and pictures lead, web addresses apart."""
    prose = SPAN.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [to for to in LINK.findall(prose) if not re.match(r"https?:|mailto:", to)]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of its headings."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = (re.sub(r"[*`]", "", head).strip().lower() for head in HEADING.findall(prose))
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}
