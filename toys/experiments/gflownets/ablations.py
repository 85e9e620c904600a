"""The paper's six ablations (section 4.3, appendix F) on a problem with an exact answer.

Where the loss's fixed point is known (`theory.gflownet.class_best`), it answers: beta, the prior's
strength eta, the number of steps, second-order terms. What leaves the fixed point where it is can
only change how fast it is reached: the share of transitions and the forward-looking gamma are
trained at one budget.

The paper's 20-step chain is SDE-DPM-Solver++'s. Of first order its kernel from noise s to t,

    (sigma_t/sigma_s) e^-h x + alpha_t (1 - e^-2h) xhat + sigma_t sqrt(1 - e^-2h) xi,

h the difference of log(alpha/sigma), is the ancestral kernel itself (tests/toys/experiments), so
the chain of 20 steps is that chain. Of second order it looks back at the state before, and is no
Markov chain in x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theory.common.checks import check_choice
from theory.common.identity import digest_of, plumbline_code
from theory.common.progress import Progress
from theory.evaluation.sampler_laws import Law, levels
from theory.gflownet.prior import prior_target_on_grid
from theory.methods.gflownet.family import GFlowNet
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from theory.tilts.wrappers import Exponential
from toys.evaluation import cost as evaluations
from toys.evaluation.control_error import mean_reward, variance
from toys.evaluation.policies import PolicyTruth
from toys.experiments.gflownets.runs import measuring_key, row_of
from toys.training.config import RunConfig
from toys.training.files import keep, kept
from toys.training.runs import Run
from toys.training.schedule import train

PROBLEM = "note_1d"
NAMES = ("beta", "eta", "steps", "second order", "gamma", "subset")
# The last state's noise, about a share of the one before.
END = 0.64
LOSSES = {
    "nabla-DB, as printed": "residual_nabla_db",
    "held: the KL-regularised optimum": "residual_db:held=true",
}
BETAS = (0.5, 2.0)
PRIORS = (0.5, 1.0, 2.0)
CHAINS = (10, 16, 20)
LOOKS = ("off", "one", "signal", "signal_squared")
SUBSETS = (2, 4, 0)  # of 16 transitions; 0: all
# With xhat trained through no fixed point is known, so the forward-looking part is off.
SECOND_ORDER = {"off": {}, "on": {"second_order": "true", "look_ahead": "off"}}
TRAINED, RATE = "residual_nabla_db", 1e-2


@dataclass(frozen=True)
class Plan:
    """What is tried, and the budget of a trained run."""

    problem: str = PROBLEM
    budget: float = 1e7
    batch: int = 64
    width: int = 64
    betas: tuple[float, ...] = BETAS
    priors: tuple[float, ...] = PRIORS
    chains: tuple[int, ...] = CHAINS
    looks: tuple[str, ...] = LOOKS
    subsets: tuple[int, ...] = SUBSETS

    def exact(self) -> dict[str, list[tuple[str, str, str]]]:
        """(value, loss, method) of each ablation that fixed points answer."""
        return {
            "beta": [
                (f"{beta:g}", name, _method(loss, scale=f"{beta:g}"))
                for beta in self.betas
                for name, loss in LOSSES.items()
            ],
            "eta": [
                (f"{prior:g}", name, _method(loss, prior=f"{prior:g}"))
                for prior in self.priors
                for name, loss in LOSSES.items()
            ],
            "steps": [
                (f"{steps}", name, _method(loss, steps=f"{steps}", sigma_end=f"{END / steps:g}"))
                for steps in self.chains
                for name, loss in LOSSES.items()
            ],
            "second order": [
                (value, "nabla-DB, as printed", _method(TRAINED, **options))
                for value, options in SECOND_ORDER.items()
            ],
        }

    def configs(self) -> dict[tuple[str, str], RunConfig]:
        """The trained runs by ablation and value."""
        return {
            **{("gamma", look): self._config(look_ahead=look) for look in self.looks},
            **{("subset", str(m or "all")): self._config(subset=str(m)) for m in self.subsets},
        }

    def _config(self, **options: str) -> RunConfig:
        method = _method(TRAINED, **options)
        bare = RunConfig.checked(method=method, problem=self.problem)
        steps = round(self.budget / (self.batch * evaluations.per_row(bare).total))
        return RunConfig.checked(
            method=method,
            problem=self.problem,
            steps=max(1, steps),
            batch=self.batch,
            learning_rate=RATE,
            width=self.width,
        )


def _method(loss: str, **options: str) -> str:
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return loss + ("," if ":" in loss else ":") + text


def ablations(
    out: Path,
    only: Sequence[str] | None = None,
    *,
    processes: int = 2,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Fixed points and trained runs, plain rows by ablation; only: some of NAMES.

    Raises:
        ValueError: no such ablation, and what training raises.
    """
    plan, names = plan or Plan(), only or NAMES
    for name in names:
        check_choice("--ablation", name, NAMES)
    exact = {name: cases for name, cases in plan.exact().items() if name in names}
    found: dict[str, Any] = {}
    with Progress(sum(map(len, exact.values())), "fixed points") as progress:
        for name, cases in exact.items():
            found[name] = []
            for i, (value, loss, method) in enumerate(cases):
                progress.update(name, i, f"{name} = {value}: {method}")
                row = _kept_fixed_point(out, method, plan.problem)
                found[name].append({"value": value, "loss": loss, **row})
            progress.update(name, len(cases), name)
    asked = {key: config for key, config in plan.configs().items() if key[0] in names}
    if not asked:
        return found
    train(out, list(asked.values()), processes=processes)
    rows = _kept_rows(out, list(asked.values()))
    for (name, value), row in zip(asked, rows, strict=True):
        found.setdefault(name, []).append({**row, "value": value, "loss": "nabla-DB, as printed"})
    return found


def _kept_rows(out: Path, configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """What was measured of trained runs: all have the fixed point of the loss at its defaults."""
    key = digest_of([measuring_key(), plumbline_code(__name__), *(c.digest for c in configs)])[:16]
    path = out / "measured" / f"trained-{key}.json"
    rows = kept(path, key)
    if rows is None:
        truth = PolicyTruth.of(parse_method(TRAINED), configs[0].parsed_problem)
        rows = [row_of(truth, Run(out, config)) for config in configs]
        keep(path, key, rows)
    return list(rows)


def _kept_fixed_point(out: Path, method: str, problem: str) -> dict[str, Any]:
    label = parse_method(method).label
    key = digest_of([measuring_key(), plumbline_code(__name__), label, problem])[:16]
    path = out / "measured" / f"fixed-{key}.json"
    row = kept(path, key)
    if row is None:
        row = fixed_point(method, problem)
        keep(path, key, row)
    return dict(row)


def fixed_point(text: str, name: str) -> dict[str, Any]:
    """Where a method's loss leads on a problem; None for laws where no fixed point is found."""
    method, problem = parse_method(text), load_problem(name)
    assert isinstance(method, GFlowNet)
    truth = PolicyTruth.of(method, problem)
    to_go, best = truth.start.distance(truth.target), truth.optimum
    grid = prior_target_on_grid(
        problem.base,
        problem.reward,
        Exponential(method.scale),
        method.against.strength,
        truth.bench.axes,
    )
    claimed = Law(grid, grid.quantile(levels()))
    row = {
        "method": method.label,
        "optimum_to_target_share": None if best is None else best.distance(truth.target) / to_go,
        # R^beta base^eta, (10); the same as the target at eta = 1.
        "optimum_to_claimed_share": None
        if best is None
        else best.distance(claimed) / truth.start.distance(claimed),
    }
    laws = {"base": truth.start, "target": truth.target, "claimed": claimed}
    if best is not None:
        laws["optimum"] = best
    return {
        **row,
        "reward": {key: mean_reward(problem, law) for key, law in laws.items()},
        "std": {key: math.sqrt(variance(law)) for key, law in laws.items()},
    }
