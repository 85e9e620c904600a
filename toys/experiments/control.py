"""The adjoint family and DDPO at one budget of model evaluations: `python -m toys control`.

Every method gets BUDGET evaluations (`toys.evaluation.cost`) on every problem; its steps follow.
The adjoint methods train Euler kernels of the memoryless schedule with an offset, on which the
continuous adjoint's bias of order 1/steps is small (`continuous_adjoint_32` halves it); Adjoint
Matching also trains ancestral kernels, the only ones that DDPO has. Runs, and what was measured on
them, are kept: the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theory.common.checks import check_choice, check_order
from theory.common.identity import ROOT, content_digest, digest_of, plumbline_code
from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from theory.common.tolerances import TRAINED_SHARE
from toys.evaluation import control_error as control
from toys.evaluation import cost as evaluations
from toys.training.config import RunConfig
from toys.training.defaults import LINE, PLANE
from toys.training.files import keep, kept, read_json, write_json
from toys.training.runs import Run
from toys.training.schedule import train

PROBLEMS = LINE + PLANE
BUDGET = 1e7  # evaluations a run: 494 steps of Adjoint Matching on 256 rows and 16 kernels
BATCH = 256
EULER = "offset=0.1"
METHODS = {
    "adjoint_matching": f"adjoint_matching:{EULER},scale={{scale:.12g}}",
    "basic_adjoint_matching": f"basic_adjoint_matching:{EULER},scale={{scale:.12g}}",
    "discrete_adjoint": f"discrete_adjoint:{EULER},scale={{scale:.12g}}",
    "continuous_adjoint": f"continuous_adjoint:{EULER},scale={{scale:.12g}}",
    "continuous_adjoint_32": f"continuous_adjoint:steps=32,{EULER},scale={{scale:.12g}}",
    "adjoint_matching_ancestral": "adjoint_matching:scale={scale:.12g}",
    "ddpo": "ddpo:kl_weight={kl_weight:.12g}",
}
LEARNED_BY = ("adjoint_matching", "adjoint_matching_ancestral")  # what the floors are stated for
CONTROL_FLOOR = 0.02
FLOORS = (("control_error", CONTROL_FLOOR, "control error"), ("law_share", TRAINED_SHARE, "law"))


@dataclass(frozen=True)
class ControlPlan:
    """evaluations of a run, and rows a step."""

    budget: float = BUDGET
    batch: int = BATCH
    width: int = 64

    def __post_init__(self) -> None:
        check_order("batch", self.batch, 1)

    def config(self, name: str, problem: str) -> RunConfig:
        """The run of a method (a key of METHODS) on a problem, its steps from the budget.

        Raises:
            ValueError: no such method or problem, d > 2, or a reward without a gradient.
        """
        check_choice("--only", name, METHODS)
        probe = RunConfig(method="flow_matching", problem=problem).parsed_problem
        control.check_problem(probe)
        method = METHODS[name].format(scale=probe.scale, kl_weight=1 / probe.scale)
        bare = RunConfig.checked(method=method, problem=problem)
        steps = round(self.budget / (self.batch * evaluations.per_row(bare).total))
        return RunConfig.checked(
            method=method, problem=problem, steps=max(1, steps), batch=self.batch, width=self.width
        )


# Runs on one problem and one chain: they share the truth.
Job = tuple[Path, list[RunConfig]]


def control_runs(
    out: Path,
    problems: Sequence[str] = PROBLEMS,
    only: Sequence[str] | None = None,
    *,
    processes: int = 2,
    plan: ControlPlan | None = None,
) -> list[dict[str, Any]]:
    """Train what is missing, measure what has not been; a row a run, method by method within a
    problem.

    Raises:
        ValueError: a method or problem that is not allowed, and what training raises.
    """
    plan = plan or ControlPlan()
    asked = {(p, n): plan.config(n, p) for p in problems for n in only or METHODS}
    train(out, list(asked.values()), processes=processes)
    groups: dict[tuple[Any, ...], list[RunConfig]] = {}
    for config in asked.values():
        if _kept(out, config) is None:
            chain = control.chain_of(config.parsed, config.parsed_problem)
            groups.setdefault((config.problem, chain), []).append(config)
    with Progress(sum(map(len, groups.values())), "measuring") as progress:
        side_by_side(
            _measure_all, [(out, same) for same in groups.values()], processes, progress.update
        )
    return [{"name": name, **_kept(out, config)} for (_, name), config in asked.items()]


def write(out: Path, rows: Sequence[dict[str, Any]], **more: Any) -> Path:
    """OUT/control.json: these rows, and what was there before and was not measured again."""
    path = out / "control.json"
    try:
        old = read_json(path)
        found = dict(old) if old.get("key") == measuring_key() else {}
    except (ValueError, AttributeError):
        found = {}  # not there, or damaged
    known = {(r["problem"], r["name"]): r for r in (*found.get("rows", []), *rows)}
    order = {(p, n): i for i, (p, n) in enumerate((p, n) for p in PROBLEMS for n in METHODS)}
    ordered = sorted(known.values(), key=lambda r: order.get((r["problem"], r["name"]), len(order)))
    write_json(path, {**found, "key": measuring_key(), "budget": BUDGET, "rows": ordered, **more})
    return path


def _measure_all(job: Job, update: Update) -> None:
    out, configs = job
    first = configs[0]
    update(first.digest, 0, first.label)
    truth = control.ControlTruth.of(first.parsed, first.parsed_problem)
    for i, config in enumerate(configs):
        run, spent = Run(out, config), evaluations.of_run(config)
        row = {
            "method": config.method_label, "seed": config.seed,
            **control.measure(truth, run.network(), run.base.network()),
            "steps": config.steps, "batch": config.batch, "learning_rate": config.learning_rate,
            "evaluations": {"forward": spent.forward, "vjp": spent.vjp, "total": spent.total},
            "cpu_seconds": run.manifest()["cpu_seconds"],
            "base_cpu_seconds": run.base.manifest()["cpu_seconds"],
        }  # fmt: skip
        keep(_path(out, config), measuring_key(config), row)
        update(first.digest, i + 1, config.label)


# --- what was measured before


def _path(out: Path, config: RunConfig) -> Path:
    return out / "measured" / f"{config.folder_name}.json"


def measuring_key(config: RunConfig | None = None) -> str:
    """Names the code that measures, the problems, and the run: its digest names what trained it."""
    problems = content_digest(ROOT / "theory" / "problems")
    return digest_of([plumbline_code(__name__), problems, config.digest if config else ""])[:16]


def _kept(out: Path, config: RunConfig) -> Any:
    return kept(_path(out, config), measuring_key(config))


# --- verdict


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where Adjoint Matching misses a floor."""
    return [
        f"{row['name']} @ {row['problem']}: {what} {100 * row[key]:.2f} %, allowed "
        f"{100 * floor:g} %"
        for row in rows
        if row["name"] in LEARNED_BY
        for key, floor, what in FLOORS
        if not row[key] <= floor
    ]
