"""Train what is missing, measure what has not been, write OUT/gflownets.json.

Runs, and what was measured on them, are kept under the run's identity: the same command goes on.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from theory.common.identity import ROOT, content_digest, digest_of, plumbline_code
from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from toys.evaluation import cost as evaluations
from toys.evaluation.policies import PolicyTruth, measure_policy
from toys.training.config import RunConfig
from toys.training.files import keep, kept, read_json, write_json
from toys.training.runs import Run
from toys.training.schedule import train

FILE = "gflownets.json"
# Runs of one method on one problem: they share the truth.
Job = tuple[Path, list[RunConfig]]


def rows_of(out: Path, asked: Mapping[str, RunConfig], processes: int = 2) -> list[dict[str, Any]]:
    """A row a run, in this order, by their labels.

    Raises:
        ValueError: what training or measuring raises.
    """
    train(out, list(asked.values()), processes=processes)
    jobs: dict[tuple[Any, ...], list[RunConfig]] = {}
    for config in asked.values():
        if _kept(out, config) is None:
            jobs.setdefault((*config.method_identity, config.problem), []).append(config)
    with Progress(sum(map(len, jobs.values())), "measuring") as progress:
        side_by_side(
            _measure_all, [(out, same) for same in jobs.values()], processes, progress.update
        )
    return [{"name": name, **_kept(out, config)} for name, config in asked.items()]


def _measure_all(job: Job, update: Update) -> None:
    out, configs = job
    first = configs[0]
    update(first.digest, 0, first.label)
    truth = PolicyTruth.of(first.parsed, first.parsed_problem)
    for i, config in enumerate(configs):
        keep(_path(out, config), measuring_key(config), row_of(truth, Run(out, config)))
        update(first.digest, i + 1, config.label)


def row_of(truth: PolicyTruth, run: Run) -> dict[str, Any]:
    """What a run trained, measured against a truth, and what it cost."""
    config, spent = run.config, evaluations.of_run(run.config)
    return {
        "method": config.method_label,
        "seed": config.seed,
        **measure_policy(truth, run.network()),
        "log_z_learnt": learnt_log_z(run),
        "steps": config.steps,
        "batch": config.batch,
        "learning_rate": config.learning_rate,
        "width": config.width,
        "evaluations": {"forward": spent.forward, "vjp": spent.vjp, "total": spent.total},
        "cpu_seconds": run.manifest()["cpu_seconds"],
        "base_cpu_seconds": run.base.manifest()["cpu_seconds"],
    }


def learnt_log_z(run: Run) -> float | None:
    """What trajectory balance logged last; None for methods that learn no log Z."""
    with (run.folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return float(last["log_z"]) if "log_z" in last else None


def _path(out: Path, config: RunConfig) -> Path:
    return out / "measured" / f"{config.folder_name}.json"


def measuring_key(config: RunConfig | None = None) -> str:
    """Names the code that measures, the problems, and the run: its digest names what trained it."""
    problems = content_digest(ROOT / "theory" / "problems")
    return digest_of([plumbline_code(__name__), problems, config.digest if config else ""])[:16]


def _kept(out: Path, config: RunConfig) -> Any:
    return kept(_path(out, config), measuring_key(config))


def write(out: Path, found: Mapping[str, Any]) -> Path:
    """OUT/gflownets.json: these parts, and those that were there before, of the same code."""
    path = out / FILE
    try:
        old = read_json(path)
        before = dict(old) if old.get("key") == measuring_key() else {}
    except (ValueError, AttributeError):
        before = {}  # not there, or damaged
    write_json(path, {**before, "key": measuring_key(), **found})
    return path


def missed(rows: Sequence[Mapping[str, Any]], floor: float) -> list[str]:
    """Rows whose law is further from the method's own optimum than the floor allows."""
    return [
        f"{row['name']} @ {row['problem']}: law {100 * row['law_share']:.2f} %, allowed "
        f"{100 * floor:g} %"
        for row in rows
        if row["law_share"] is not None and not row["law_share"] <= floor
    ]
