"""The adjoint family on named control problems, d = 10 and 20: `python -m toys cases`.

A control network u(x, t) is trained on an Euler chain's own trajectories (theory.control.processes)
with the adjoint state a of each (theory.control.adjoints), held fixed, by the gradient of

    1/2 E sum_k dt |u(X_k, t_k) + g a|^2

    adjoint_matching     lean adjoint at the step's end
    discrete_adjoint     full adjoint at the step's end: the gradient of the chain's cost, and that
                         of basic Adjoint Matching with this adjoint
    continuous_adjoint   full adjoint by Heun's rule, at the step's beginning

Every run has the same budget of network evaluations, forward or vector-Jacobian, starts from u = 0
and is judged along trajectories of the chain's exact optimum. Adam, learning rate to 0 by a cosine.
A run that was stopped goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import theory
from theory.checks import check_choice, check_order, check_positive
from theory.control import adjoints
from theory.control.adjoints import Process, rollout
from theory.control.cases import CASES, Case, control_case
from theory.control.processes import OptimalPaths, case_process, case_starts, path_costs
from theory.methods.contract import Draws
from theory.progress import Progress
from toys.control import ControlError
from toys.files import read_json, read_tensors, write_json, write_tensors
from toys.networks import StackedMLP
from toys.processes import Update, side_by_side

OUT = Path("results/control/cases")
BUDGET, BATCH, STEPS = 3e7, 128, 64
WIDTH, DEPTH, LEARNING_RATE = 64, 3, 3e-3
POINTS = 20  # of a learning curve
SAVE_EVERY = 50
JUDGED, CURVE = 4096, 512  # trajectories of the optimum: at the end, and along the way
COSTED = 16384  # own trajectories, of the cost
EVALUATION_SEED = 2**31 + 11

# (process, times, states) -> the adjoint (n, T, d) that belongs to X_0 .. X_{T-1}
Adjoint = Callable[[Process, Tensor, Tensor], Tensor]
METHODS: dict[str, Adjoint] = {
    "adjoint_matching": lambda p, t, x: adjoints.lean_adjoint(p, t, x)[:, 1:],
    "discrete_adjoint": lambda p, t, x: adjoints.full_adjoint(p, t, x)[:, 1:],
    "continuous_adjoint": lambda p, t, x: adjoints.full_adjoint(p, t, x, "heun")[:, :-1],
}
# Evaluations of the network a row: rollout T, loss 2 T, and twice the adjoint's slopes.
EVALUATIONS: dict[str, Callable[[int], int]] = {
    "adjoint_matching": lambda T: 3 * T,
    "discrete_adjoint": lambda T: 5 * T,
    "continuous_adjoint": lambda T: 7 * T - 2,
}


@dataclass(frozen=True)
class CaseConfig:
    """A run: everything that changes its numbers.

    budget: evaluations of the network in all; steps: of the Euler chain; batch: trajectories an
    update.
    """

    case: str
    method: str
    budget: float = BUDGET
    batch: int = BATCH
    steps: int = STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("case", self.case, CASES)
        check_choice("method", self.method, METHODS)
        check_positive("budget", self.budget)
        check_order("batch", self.batch, 1)
        check_order("steps", self.steps, 1)
        check_order("seed", self.seed, 0)
        if self.updates < 1:
            raise ValueError(
                f"budget = {self.budget:g}: allowed is at least one update of {self.method}, "
                f"{self.batch * EVALUATIONS[self.method](self.steps)} evaluations"
            )

    @property
    def updates(self) -> int:
        return round(self.budget / (self.batch * EVALUATIONS[self.method](self.steps)))

    @cached_property
    def digest(self) -> str:
        """Names the run and the code that made it."""
        text = json.dumps(asdict(self), sort_keys=True) + _code()
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        return f"{self.method} @ {self.case}"

    def place(self, out: Path, ending: str) -> Path:
        """OUT/case-method-digest + ending."""
        return out / f"{self.case}-{self.method}-{self.digest}{ending}"


@cache
def _code() -> str:
    here, there = Path(__file__), Path(theory.__path__[0])
    files = [here, here.with_name("networks.py"), there / "chain_optimum.py"]
    files += [there / "control" / f"{n}.py" for n in ("adjoints", "cases", "linear", "processes")]
    return "".join(hashlib.sha256(f.read_bytes()).hexdigest() for f in files)


# --- training


class Control:
    """A network as a control, from u = 0."""

    def __init__(self, dim: int, seed: int) -> None:
        self.network = StackedMLP(dim, dim, WIDTH, DEPTH, Draws.seeded([seed]))
        with torch.no_grad():
            self.network.weight[-1].zero_()
            self.network.bias[-1].zero_()

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return self.network(x, x.new_full((len(x),), t))

    def along(self, times: Tensor, states: Tensor) -> Tensor:
        """At states (n, T, d) and their times (T,): one product for all."""
        n, steps, dim = states.shape
        clock = times.to(states).expand(n, steps).reshape(-1)
        return self.network(states.reshape(-1, dim), clock).reshape(n, steps, dim)


class Trainer:
    """One run: its network, optimiser, learning curve; whole states on disk."""

    def __init__(self, config: CaseConfig, out: Path) -> None:
        self.config, self.path = config, config.place(out, ".safetensors")
        self.case: Case = control_case(config.case)
        self.times = torch.linspace(0, 1, config.steps + 1)
        self.control = Control(self.case.dim, config.seed)
        self.process = case_process(self.case, self.control)
        self.parameters = list(self.control.network.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)
        self.update, self.seconds = 0, 0.0
        self.curve: list[list[float]] = []

    def step(self) -> None:
        """One update.

        Raises:
            ValueError: an adjoint that is not finite; nothing was changed.
        """
        config, start = self.config, time.process_time()
        # Draws are a function of seed and update: a run that goes on has the same.
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.update + 1)
        shape = (config.batch, config.steps + 1, self.case.dim)
        noise = torch.randn(shape, generator=generator)
        starts = case_starts(self.case, noise[:, 0])
        states = rollout(self.process, self.times, starts, noise[:, 1:])
        adjoint = METHODS[config.method](self.process, self.times, states)
        before = states[:, :-1]
        g = torch.tensor([self.process.noise(float(t)) for t in self.times[:-1]])[:, None]
        gap = self.control.along(self.times[:-1], before) + g * adjoint
        loss = 0.5 * gap.square().sum(-1).mean()
        share = self.update / config.updates
        for group in self.optimiser.param_groups:
            group["lr"] = 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * share))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.update += 1
        self.seconds += time.process_time() - start

    def save(self) -> None:
        """Parameters, Adam's moments, the curve: all of the run."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"parameter.{i}"] = parameter
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{i}"] = torch.as_tensor(value)
        words = {"update": self.update, "seconds": self.seconds, "curve": self.curve}
        write_tensors(self.path, tensors, {"state": json.dumps(words)})

    def load(self) -> None:
        """Go on from what is on disk, if anything is.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.path.is_file():
            return
        tensors, words = read_tensors(self.path)
        state = json.loads(words["state"])
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{i}"])
                kept = {
                    key: tensors[f"{key}.{i}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}.{i}" in tensors
                }
                if kept:
                    self.optimiser.state[parameter] = kept
        self.update, self.seconds, self.curve = state["update"], state["seconds"], state["curve"]

    def run(self, update: Update) -> None:
        """To the end, with a learning curve in evaluations of the network.

        Raises:
            ValueError: an adjoint that is not finite; the state before that update is saved, and
                the message says where.
        """
        config = self.config
        self.load()
        paths = _optimal_paths(self.case, config.steps, CURVE)
        each = config.batch * EVALUATIONS[config.method](config.steps)
        marks = {round(config.updates * i / POINTS) for i in range(POINTS + 1)}
        while True:
            if self.update in marks and len(self.curve) < 1 + sum(m < self.update for m in marks):
                self.curve.append(
                    [
                        float(self.update * each),
                        ControlError.of(self.along(paths), paths.best).value,
                    ]
                )
            update(config.digest, self.update, config.label)
            if self.update >= config.updates:
                break
            try:
                self.step()
            except ValueError as bad:
                self.save()
                raise ValueError(
                    f"{config.label}, update {self.update + 1}: {bad}; the state before it is "
                    f"in {self.path}"
                ) from bad
            if self.update % SAVE_EVERY == 0:
                self.save()
        self.save()

    def along(self, paths: OptimalPaths) -> Tensor:
        """The control at the states of optimal trajectories, (n, T, d) float64."""
        with torch.no_grad():
            return self.control.along(paths.times[:-1], paths.states.float()).double()

    def measure(self) -> dict[str, Any]:
        """What the trained control is worth; plain numbers.

        crossed, crossed_of_optimum (d,): how many trajectories have x_i > 0 before the last step.
        """
        config = self.config
        paths = _optimal_paths(self.case, config.steps, JUDGED)
        found = self.along(paths)
        own, other = (ControlError.of(found, u) for u in (paths.best, paths.continuous))
        sizes = paths.best.square().mean((0, 1))
        coordinates = (found - paths.best).square().mean((0, 1)) / sizes
        states, process = self._own(self.control)
        costs = path_costs(process, self.times, states).double()
        still, idle = self._own(lambda x, t: torch.zeros_like(x))
        return {
            **asdict(config), "dim": self.case.dim, "updates": config.updates,
            "control_error": own.value, "control_error_se": own.standard_error,
            "error_to_continuous": other.value, "floor": paths.floor,
            "error_of_coordinates": coordinates.tolist(), "least_cost": paths.value,
            "cost": float(costs.mean()), "cost_se": float(costs.std()) / COSTED**0.5,
            "uncontrolled_cost": float(path_costs(idle, self.times, still).mean()),
            "crossed": (states[:, -2] > 0).double().mean(0).tolist(),
            "crossed_of_optimum": (paths.states[:, -1] > 0).double().mean(0).tolist(),
            "evaluations": config.updates * config.batch * EVALUATIONS[config.method](config.steps),
            "cpu_seconds": self.seconds, "curve": self.curve,
        }  # fmt: skip

    def _own(self, control: Callable[[Tensor, float], Tensor]) -> tuple[Tensor, Process]:
        """COSTED trajectories of a control, and their process."""
        process = case_process(self.case, control)
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        shape = (COSTED, self.config.steps + 1, self.case.dim)
        noise = torch.randn(shape, generator=generator)
        states = rollout(process, self.times, case_starts(self.case, noise[:, 0]), noise[:, 1:])
        return states, process


def _optimal_paths(case: Case, steps: int, count: int) -> OptimalPaths:
    generator = torch.Generator().manual_seed(EVALUATION_SEED + count)
    shape = (count, steps + 1, case.dim)
    return OptimalPaths.of(
        case, steps, torch.randn(shape, dtype=torch.float64, generator=generator)
    )


# --- all runs


def train_case(item: tuple[Path, CaseConfig], update: Update) -> dict[str, Any]:
    """A run to its end and measured, or what is on disk of it."""
    out, config = item
    path = config.place(out, ".json")
    if path.is_file():
        return dict(read_json(path))
    trainer = Trainer(config, out)
    trainer.run(update)
    row = trainer.measure()
    write_json(path, row)
    return row


def train_cases(
    out: Path, configs: Sequence[CaseConfig], processes: int = 2
) -> list[dict[str, Any]]:
    """One row a run, in the order asked for; written to OUT/cases.json too.

    Raises:
        ValueError: a chain without a unique optimum, or an adjoint that is not finite.
    """
    total = sum(c.updates for c in configs)
    with Progress(total, "control problems") as progress:
        items = [(out, config) for config in configs]
        rows = side_by_side(train_case, items, processes, progress.update)
    write_json(out / "cases.json", {"rows": rows})
    return rows
