"""Which networks train together, in which order, and in how many processes.

Base networks come first, then the methods that start from them. Runs that are finished are left
alone; groups that were begun before are gone on with, whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from toys.training.config import RunConfig
from toys.training.runs import Group, Run, unfinished_groups
from toys.training.trainer import Trainer

# Rows of all networks in a step: what stays in cache (a dozen networks of 1,024 rows).
GROUP_ROWS = 12 * 1024
MOST_MEMBERS = 12


def group_size(config: RunConfig) -> int:
    """Networks that train best side by side."""
    return max(1, min(MOST_MEMBERS, GROUP_ROWS // (config.batch * config.parsed.states_per_row)))


def plan(out: Path, configs: Sequence[RunConfig]) -> list[list[Group]]:
    """Stages of groups: bases, then the rest; only what is not finished yet.

    Raises:
        ValueError: a run's folder is damaged or foreign.
    """
    bases = {b.digest: b for c in configs if (b := c.base()) is not None}
    rest = {c.digest: c for c in configs if c.digest not in bases}
    old = unfinished_groups(out)
    return [_groups(out, list(stage.values()), old) for stage in (bases, rest)]


def _groups(out: Path, configs: list[RunConfig], old: list[Group]) -> list[Group]:
    missing = {c.digest: c for c in configs if not Run(out, c).is_finished}
    groups = []
    for group in old:
        if any(c.digest in missing for c in group.members):
            groups.append(group)
            for c in group.members:
                missing.pop(c.digest, None)
    alike: dict[tuple[Any, ...], list[RunConfig]] = {}
    for c in missing.values():
        alone = replace(c, method="", problem="", seed=0)  # what is left has to be the same
        key = (c.method_identity, alone, c.parsed_problem.dim, c.parsed_problem.path)
        alike.setdefault(key, []).append(c)
    for same in alike.values():
        same.sort(key=lambda c: c.problem)  # networks on one problem share its evaluations
        size = group_size(same[0])
        groups += [Group(out, tuple(same[i : i + size])) for i in range(0, len(same), size)]
    return sorted(groups, key=_cost, reverse=True)


def _cost(group: Group) -> int:
    first = group.members[0]
    return first.steps * _step_rows(group) * first.width**2 * first.depth


def _step_rows(group: Group) -> int:
    """States that a step of the group goes through: what its time is in proportion to."""
    first = group.members[0]
    return len(group.members) * first.batch * first.parsed.states_per_row


def train(
    out: Path, configs: Sequence[RunConfig], *, processes: int = 2, device: str = "cpu"
) -> int:
    """Train what is not finished yet; the number of networks trained.

    Raises:
        ValueError, OSError: what stopped a group; the others' finished work stays.
    """
    stages = plan(out, configs)
    total = sum(g.members[0].steps * _step_rows(g) for stage in stages for g in stage)
    with Progress(total, "training") as progress:
        for stage in stages:
            side_by_side(partial(_train_group, device=device), stage, processes, progress.update)
    return sum(len(g.members) for stage in stages for g in stage)


def _train_group(group: Group, update: Update, device: str) -> None:
    rows = _step_rows(group)

    def report(step: int, steps: int, loss: float) -> None:
        shown = "" if math.isnan(loss) else f", loss {loss:.4g}"
        update(group.folder.name, step * rows, f"{group.label}: step {step}/{steps}{shown}")

    Trainer(group, device).train(report)
