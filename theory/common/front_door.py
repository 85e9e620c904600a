"""`plumbline`: every command by one name, the same as `python -m ...`, without loading any of them.

plumbline                 the list
plumbline law --help      what `python -m theory law --help` says
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from theory.common.checks import unknown
from theory.common.console import refuse
from theory.common.user_code import ROOT

# {name: (what it stands for, what it does)}, in the order of the list.
COMMANDS = {
    "law": ("theory law", "what a field samples, measured against every candidate target"),
    "problems": ("theory problems", "the named problems, or one of them in full"),
    "control": ("theory control", "what the optimal control samples under a schedule"),
    "optima": ("theory optima", "what methods' exact optima on a chain sample"),
    "recipe": ("theory recipe", "forecast training with the released NFT code"),
    "verify": ("theory verify", "measure the ledger of claims"),
    "methods": ("toys methods", "the methods, their options and their rewards"),
    "check": ("toys check", "whether a method leads where it says"),
    "train": ("toys train", "train small networks by any method"),
    "compare": ("toys compare", "trained networks against the truth"),
    "tune": ("scaleup train", "fine-tune a text-to-image model with LoRA on rewards of pictures"),
    "rewards": ("scaleup list rewards", "rewards of pictures"),
    "table": ("scaleup table", "finished runs of tune side by side"),
    "audit": ("scaleup audit", "what a tuned model samples: of runs, or of two files of samples"),
    "figures": ("figures", "make the figures and compare their numbers"),
    "bench": ("benchmarks", "measure the floors of theory, toys or scaleup, in a checkout"),
}
OK = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_listed())
        return OK
    if name not in COMMANDS:
        return refuse(unknown("command", name, COMMANDS))
    if name == "bench":
        if not (ROOT / "benchmarks" / "__main__.py").is_file():
            return refuse(
                f"bench measures the floors in a checkout, and {ROOT} is none: must be `python -m "
                "benchmarks` in one"
            )
        sys.path.append(str(ROOT))
    stands_for, _ = COMMANDS[name]
    package, *more = stands_for.split()
    sys.argv = [package, *more, *rest]
    runpy.run_module(package, run_name="__main__", alter_sys=True)  # ends by SystemExit
    return OK


def _listed() -> str:
    wide = max(map(len, COMMANDS))
    rows = (f"  {name:{wide}}  {what}" for name, (_, what) in COMMANDS.items())
    return "\n".join(["usage: plumbline COMMAND ...", "", *rows, "", "plumbline COMMAND --help"])
