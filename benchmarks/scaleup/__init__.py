"""`python -m benchmarks scaleup`: the floors of scale-up, measured; one module a bench.

processes  two processes against one, the same global batch: losses; wrong numbers refused
resume     runs killed (SIGKILL) at 20 moments and started again, against one left alone, bit by bit
gflownet_resume  the same of GFlowNets with a flow network or log Z beside, 10 moments
signals    runs ended by SIGINT and SIGTERM at 10 random moments, and started again, the same way
sd15       one step of two methods at the full size of Stable Diffusion 1.5, on the CPU: memory
ddpo       DDPO's steps/s and peak memory against trl 0.23.1, in an environment of its own
gflownet   an epoch of residual nabla-DB against one of DDPO on the built-in model: CPU time
audit      CPU-seconds and memory of an audit of a million rewards a side
gpu        samples/s, steps/s, memory and share of the matrix peak at full size, where a GPU is
"""

from __future__ import annotations

import argparse

from benchmarks.rows import add_part_options, measure_parts, part_of

PARTS = (
    "audit", "processes", "resume", "gflownet_resume", "signals", "sd15", "ddpo", "gflownet", "gpu",
)  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of a bench."""
    add_part_options(command, PARTS)


def run(options: argparse.Namespace) -> int:
    """Exit status, errors: as `measure_parts`."""
    parts = {name: part_of(f"scaleup.{name}") for name in PARTS}
    parts["gflownet_resume"] = part_of("scaleup.resume", "measure_gflownets")
    return measure_parts(options, parts)
