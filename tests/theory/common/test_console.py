"""The command line that packages share."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from theory.common import signals
from theory.common.console import Command, print_rows, refuse_unused, run_command

MODULE = "command_of_a_test"
COMMANDS = {"run": Command(MODULE, "run it"), "rest": Command("no_such_module", "never imported")}


@pytest.fixture
def command(monkeypatch):
    """A command's module, whose `run` a test sets."""

    def add_options(parser):
        parser.add_argument("--number", type=int, default=0)
        parser.add_argument("--kind", choices=("first", "second"))

    found = SimpleNamespace(add_options=add_options, run=lambda options: options.number)
    monkeypatch.setitem(sys.modules, MODULE, found)
    return found


def call(*words, commands=COMMANDS):
    return run_command("package", "What it is.", commands, words)


def test_the_commands_own_status(command):
    assert call("run", "--number", "3") == 3
    assert call("run") == 0


def test_help_imports_no_command(capsys):
    with pytest.raises(SystemExit) as caught:
        call("--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("python -m package", "What it is.", "run it", "rest"))


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["rum"], "did you mean 'run'?"),
        (["run", "--numbre", "1"], "unrecognized arguments: --numbre 1 (did you mean '--number'?)"),
        (["run", "--numbre=1"], "did you mean '--number'?"),
        (["run", "--kind", "secnd"], "did you mean 'second'?"),
        (["run", "more"], "unrecognized arguments: more"),
        ([], "the following arguments are required: command"),
    ],
)
def test_typos_are_told_the_nearest(words, needle, command, capsys):
    with pytest.raises(SystemExit) as caught:
        call(*words)
    assert caught.value.code == 2
    assert needle in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("number must be 1, got 2"), "error: number must be 1, got 2\n"),
        (FileNotFoundError("a.csv: no such file"), "error: a.csv: no such file\n"),
        (NotImplementedError("not here"), "error: not here\n"),
        (MemoryError(), "error: memory is out (MemoryError): there must be fewer rows, "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: memory is out (Def"),
        (ModuleNotFoundError("No", name="peft.x"), "error: peft must be installed for this comma"),
    ],
)
def test_what_a_command_raises_is_said_in_a_line(error, said, command, capsys):
    def run(options):
        raise error

    command.run = run
    assert call("run") == 2
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), ModuleNotFoundError("x")])
def test_a_fault_of_ours_keeps_its_trace(error, command):
    def run(options):
        raise error

    command.run = run
    with pytest.raises(type(error)):
        call("run")


def test_a_stopped_command_says_how_it_goes_on(command):
    def run(options):
        raise signals.Stopped(2)

    command.run = run
    with pytest.raises(signals.Stopped) as caught:
        call("run", commands={"run": Command(MODULE, "", "the same command goes on")})
    assert caught.value.line == "stopped by SIGINT; the same command goes on"


def test_options_that_change_nothing():
    refuse_unused([("--a", None, False, "--b"), ("--c", False, False, "--d"), ("--e", 0, True, "")])
    with pytest.raises(ValueError, match=r"--a must come with --b, else it changes nothing, got 0"):
        refuse_unused([("--a", 0, False, "--b")])


def test_rows_as_a_table(capsys):
    print_rows([{"name": "one", "size": 1}, {"name": "two", "size": 22}])
    lines = capsys.readouterr().out.splitlines()
    assert "name" in lines[1]
    assert "22" in lines[4]


def test_no_rows(capsys):
    print_rows([])
    assert capsys.readouterr().out.strip() == ""
