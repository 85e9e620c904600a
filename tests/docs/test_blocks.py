"""Every block of the README, the start and the guides, as printed."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import LANGUAGES, MARKS, PAGES, ROOT, Block, blocks, commands, name, shown
from theory.common import console, signals
from theory.common.front_door import main as plumbline

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z]+) \?=", MAKEFILE, re.MULTILINE))
SHELL = {"git", "cd", "source"}  # what no test of ours need try
COMMANDS = [pair for page in PAGES for pair in shown(page)]


class Understood(BaseException):
    """Raised where a command's own parser has read all of it."""


@pytest.fixture
def parse_only(monkeypatch):
    parse = console.parse

    def read(*arguments):
        parse(*arguments)
        raise Understood

    monkeypatch.setattr(console, "parse", read)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Commands leave the tests' signals alone, and may be imported already."""
    monkeypatch.setattr(signals, "catch", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def typed(words: list[str]) -> None:
    """Run a command of ours; ends by SystemExit.

    Raises:
        AssertionError: it is none.
    """
    if words[0] == "make":
        for word in words[1:]:
            variable, is_set, _ = word.partition("=")
            assert variable in (VARIABLES if is_set else TARGETS), word
        raise SystemExit(0)
    if words[0] == "plumbline":
        sys.exit(plumbline(words[1:]))
    if words[0] == "accelerate":
        config = ROOT / words[words.index("--config_file") + 1]
        assert config.is_file(), config
    assert words[0] in ("python", "torchrun", "accelerate"), f"{words[0]} is no command"
    module, *rest = words[words.index("-m") + 1 :]
    old, sys.argv = sys.argv, [module, *rest]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = old


@pytest.mark.parametrize("words", [w for _, w in COMMANDS], ids=[where for where, _ in COMMANDS])
def test_commands_are_understood(words, parse_only):
    if words[0] in SHELL:
        return
    with pytest.raises((Understood, SystemExit)) as caught:
        typed(words)
    assert isinstance(caught.value, Understood) or caught.value.code in (0, None)


@pytest.mark.parametrize(
    "line",
    [
        "make figure",
        "make figures SETTINGS=small",
        "plumbline laws",
        "plumbline law --problem note_1d --field nfd",
        "python -m theory recipe --problem note_1d --epoch",
        "python -m scaleup train --stepps 3",
        "pip install x",
    ],
)
def test_others_are_not(line, parse_only):
    with pytest.raises((AssertionError, SystemExit)) as caught:
        typed(line.split())
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 2


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_have_a_language_and_a_mark(page):
    fences = page.read_text(encoding="utf-8").count("\n```")
    assert fences == 2 * len(blocks(page))
    for block in blocks(page):
        assert block.language in LANGUAGES, block
        assert block.is_file or block.mark in MARKS, block


def read(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> None:
    """Do what the page says, in an empty folder beside the examples."""
    (folder / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.is_file:
            Path(block.mark).write_text(block.text, encoding="utf-8")
        elif block.mark == "slow" and not slow:
            continue
        elif block.language == "python":
            padded = "\n" * (block.line - 1) + block.text
            exec(compile(padded, name(page), "exec"), names)
        elif block.language == "sh" and block.mark == "run":
            for words in commands(block.text):
                with pytest.raises(SystemExit) as caught:
                    typed(words)
                assert caught.value.code in (0, None), f"{block}: {words}"
        elif block.language == "sh" and block.mark == "slow":
            in_a_shell(block)


def in_a_shell(block: Block) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}: {done.stderr}"


# The guides whose blocks take longest.
LONG = {"control", "exact-laws", "online-training", "audit-a-run"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow) if p.stem in LONG else p for p in PAGES],
    ids=name,
)
def test_pages_run(page, tmp_path, monkeypatch):
    read(page, tmp_path, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.mark == "slow" for b in blocks(p))], ids=name
)
def test_pages_run_whole(page, tmp_path, monkeypatch):
    read(page, tmp_path, monkeypatch, slow=True)


def test_a_wrong_block_fails(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("One.\n\n```python\n1 / 0\n```\n", encoding="utf-8")
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        read(page, tmp_path, monkeypatch, slow=False)
    last = caught.traceback[-1]
    assert (last.path.name, last.lineno + 1) == (page.name, 4)


def test_a_command_that_fails_does(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("```sh run\nplumbline problems note\n```\n", encoding="utf-8")
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        read(page, tmp_path, monkeypatch, slow=False)
