"""Training a control network on a named control problem: what `toys.experiments.cases` runs.

Trajectories of the Euler chain under the network's own control, their adjoint a by the method, both
held fixed; an update follows the gradient of

    1/2 E sum_k dt |u(X_k, t_k) + g a|^2.

From u = 0 or a fit to the optimum, by Adam, learning rate to 0 by a cosine.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from theory.common import signals
from theory.common.files import read_tensors
from theory.common.processes import Update
from theory.control.adjoints import rollout
from theory.control.processes import OptimalChain, OptimalPaths, case_process, case_starts
from theory.methods import Draws
from toys.evaluation.control_error import ControlError
from toys.experiments.case_config import METHODS, CaseConfig
from toys.networks.mlp import StackedMLP
from toys.training.files import write_tensors

WIDTH, DEPTH, LEARNING_RATE = 64, 3, 3e-3
POINTS = 20  # of a learning curve
SAVE_EVERY = 50
CURVE = 512  # optimal trajectories that a learning curve looks at
FITTED, FITS = 4096, 800  # optimal trajectories of a start at the optimum, and its updates
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def generator(*words: object) -> torch.Generator:
    """Draws that are a function of the words."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


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
        self.chain = OptimalChain(config.problem, config.steps)
        self.case = self.chain.case
        self.times = self.chain.times.float()
        self.control = Control(self.case.dim, config.seed)
        self.process = case_process(self.case, self.control)
        self.parameters = list(self.control.network.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)
        self.update, self.seconds = 0, 0.0
        self.curve: list[list[float]] = []

    def step(self) -> None:
        """One update.

        Raises:
            ValueError: an adjoint or a loss that is not finite; nothing was changed.
        """
        config, start = self.config, time.process_time()
        draws = generator(config.seed, self.update)
        shape = (config.batch, config.steps + 1, self.case.dim)
        noise = torch.randn(shape, generator=draws)
        starts = case_starts(self.case, noise[:, 0])
        states = rollout(self.process, self.times, starts, noise[:, 1:])
        adjoint = METHODS[config.method](self.process, self.times, states)
        g = torch.tensor([self.process.noise(float(t)) for t in self.times[:-1]])[:, None]
        gap = self.control.along(self.times[:-1], states[:, :-1]) + g * adjoint
        loss = 0.5 * gap.square().sum(-1).mean()
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the loss is {loss.item():g}: allowed are finite ones")
        _descend(self.optimiser, loss, self.update / config.updates)
        self.update += 1
        self.seconds += time.process_time() - start

    def run(self, update: Update) -> None:
        """To the end, with a learning curve in evaluations of the network.

        Raises:
            ValueError: an adjoint or a loss that is not finite; the state before that update is
                saved, and the message says where.
        """
        config = self.config
        if not self.load() and config.start == "optimum":
            self.fit()
        paths = self.optimal_paths(CURVE, "curve")
        marks = {round(config.updates * i / POINTS) for i in range(POINTS + 1)}
        going = True
        try:
            while going:
                with signals.held():
                    going = self._advance(paths, marks, update)
        except signals.Stopped as stop:
            self.save()
            stop.add_note(
                f"{config.label}: update {self.update} of {config.updates} is saved in {self.path}"
            )
            raise
        self.save()

    def _advance(self, paths: OptimalPaths, marks: set[int], update: Update) -> bool:
        """The learning curve's point, and one update; whether there was one to make."""
        config = self.config
        if self.update in marks and len(self.curve) < 1 + sum(m < self.update for m in marks):
            error = ControlError.of(self.along(paths), paths.best)
            self.curve.append([float(self.update * config.update_cost), error.value])
        update(config.digest, self.update, config.label)
        if self.update >= config.updates:
            return False
        try:
            self.step()
        except ValueError as bad:
            self.save()
            raise ValueError(
                f"{config.label}, update {self.update + 1}: {bad}; the state before it is in "
                f"{self.path}"
            ) from bad
        if self.update % SAVE_EVERY == 0:
            self.save()
        return True

    def fit(self) -> None:
        """The network to u*_k by least squares along optimal trajectories."""
        paths = self.optimal_paths(FITTED, "fit")
        states, best = paths.states[:, :-1].float(), paths.best.float()
        optimiser = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)
        for i in range(FITS):
            size = (self.config.batch,)
            rows = torch.randint(FITTED, size, generator=generator("fit", self.config.seed, i))
            gap = self.control.along(self.times[:-1], states[rows]) - best[rows]
            _descend(optimiser, gap.square().sum(-1).mean(), i / FITS)

    def optimal_paths(self, count: int, *words: object) -> OptimalPaths:
        """Trajectories of the chain's optimum, a function of the words."""
        shape = (count, self.config.steps + 1, self.case.dim)
        noise = torch.randn(shape, dtype=torch.float64, generator=generator("optimum", *words))
        return self.chain.paths(noise)

    def along(self, paths: OptimalPaths) -> Tensor:
        """The control at the states of optimal trajectories, (n, T, d) float64."""
        with torch.no_grad():
            return self.control.along(self.times[:-1], paths.states[:, :-1].float()).double()

    # --- whole states on disk

    def save(self) -> None:
        """Parameters, Adam's moments, the curve: all of the run."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"parameter.{i}"] = parameter
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{i}"] = torch.as_tensor(value)
        words = {
            "run": self.config.digest, "update": self.update, "seconds": self.seconds,
            "curve": self.curve,
        }  # fmt: skip
        write_tensors(self.path, tensors, {"state": json.dumps(words)})

    def load(self) -> bool:
        """Go on from what is on disk; whether anything is.

        Raises:
            ValueError: the file is damaged, or another run's.
        """
        if not self.path.is_file():
            return False
        advice = "delete this file, and the run is trained again"
        tensors, words = read_tensors(self.path, advice)
        try:
            state = json.loads(words["state"])
            if state["run"] != self.config.digest:
                raise ValueError("it is of another run")
            with torch.no_grad():
                for i, parameter in enumerate(self.parameters):
                    parameter.copy_(tensors[f"parameter.{i}"])
                    if state["update"]:
                        moments = {key: tensors[f"{key}.{i}"] for key in MOMENTS}
                        self.optimiser.state[parameter] = moments
            self.update, self.seconds = state["update"], state["seconds"]
            self.curve = state["curve"]
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path}: damaged ({error}); {advice}") from error
        return True


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, share: float) -> None:
    """One step of Adam, `share` of the way to the end."""
    for group in optimiser.param_groups:
        group["lr"] = 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * share))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
