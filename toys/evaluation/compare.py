"""Evaluate finished runs, side by side, and show the parts of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from toys.evaluation.evaluate import NoTruthError, Sampling, Truth, curves, evaluate, kept
from toys.training.config import RunConfig
from toys.training.files import read_json
from toys.training.runs import Run

Job = tuple[Path, tuple[RunConfig, ...], Sampling, bool]


def compare(
    out: Path,
    configs: Sequence[RunConfig],
    sampling: Sampling,
    *,
    processes: int = 2,
    skip: list[str] | None = None,
) -> list[dict[str, Any]]:
    """One result a run (`evaluate`), in the order asked for; measured once, then kept.

    skip: where a list is given, runs without an exact optimum are left out, and why is added to it.

    Raises:
        ValueError: a run is not trained yet, or (skip None) states no optimum on its problem.
    """
    runs = [Run(out, c) for c in configs]
    missing = [run.config.label for run in runs if not run.is_finished]
    if missing:
        raise ValueError(
            f"runs must be trained, and these are not in {out}: {'; '.join(missing)}; the same "
            "options with `python -m toys train` train them"
        )
    jobs: dict[tuple[str, str, str], list[RunConfig]] = {}
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        result = kept(run, sampling)
        if result is not None:
            found[run.config.digest] = result
        else:
            # All seeds of a method on a problem share its truth.
            key = (*run.config.method_identity, run.config.problem)
            jobs.setdefault(key, []).append(run.config)
    work: list[Job] = [(out, tuple(same), sampling, skip is not None) for same in jobs.values()]
    with Progress(sum(len(same) for same in jobs.values()), "comparing") as progress:
        fresh = side_by_side(_evaluate_all, work, processes, progress.update)
    found |= {result["digest"]: result for part, _ in fresh for result in part}
    if skip is not None:
        skip += [why for _, why in fresh if why]
    return [found[run.config.digest] for run in runs if run.config.digest in found]


def _evaluate_all(job: Job, update: Update) -> tuple[list[dict[str, Any]], str]:
    out, configs, sampling, lenient = job
    update(configs[0].digest, 0, configs[0].label)
    results: list[dict[str, Any]] = []
    try:
        truth = Truth.of(configs[0])
    except NoTruthError as error:
        if lenient:
            return results, str(error)
        raise
    for i, config in enumerate(configs):
        results.append(evaluate(Run(out, config), truth, sampling))
        update(configs[0].digest, i + 1, config.label)
    return results, ""


def finished(out: Path) -> tuple[list[RunConfig], list[str]]:
    """(finished runs under OUT that this code made, folders that it did not, and why)."""
    found, stale = [], []
    names = RunConfig.__dataclass_fields__
    for path in sorted((out / "runs").glob("*/manifest.json")):
        data = read_json(path.with_name("config.json"))
        try:
            config = RunConfig(**{k: v for k, v in data.items() if k in names})
            own = config.as_json()
            other = [k for k in sorted({*own, *data}) if own.get(k) != data.get(k)]
            why = f"another {', '.join(other)}" if other else "moved"
        except (ValueError, OSError, TypeError) as error:
            stale.append(f"{path.parent.name} ({error})")
            continue
        if other or config.folder_name != path.parent.name:
            stale.append(f"{path.parent.name} ({why})")
        else:
            found.append(config)
    return found, stale


# --- what is shown


def pictures(
    out: Path, configs: Sequence[RunConfig], results: Sequence[dict[str, Any]]
) -> list[Path]:
    """Of every problem, seed 0: what the networks sample, and the parts of their errors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from theory.evaluation.draw import save
    from toys.evaluation import draw

    paths = []
    chosen = [(c, r) for c, r in zip(configs, results, strict=True) if r["seed"] == 0]
    for problem in dict.fromkeys(r["problem"] for _, r in chosen):
        own = [(c, r) for c, r in chosen if r["problem"] == problem]
        shown = [r for _, r in own]
        for name, figure in (
            ("laws", draw.panels(problem, shown, [curves(Run(out, c)) for c, _ in own])),
            ("budget", draw.budget(shown, f"{problem}: the parts of the error")),
        ):
            paths += save(figure, out / "compare", f"{problem}-{name}")[:1]
    return paths
