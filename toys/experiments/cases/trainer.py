"""Training a control network on a named control problem, from u = 0 or a fit to the optimum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from theory.control.processes import OptimalChain, OptimalPaths
from theory.methods import Draws, Info
from theory.methods.chain.finite import NonFiniteAdjointError
from toys.evaluation.control_error import ControlError
from toys.experiments.cases.config import CaseConfig
from toys.experiments.cases.task import ControlMatching, ControlTask, along, as_field
from toys.networks.mlp import StackedMLP
from toys.training.files import read_state, write_state
from toys.training.loop import Loop, cosine

WIDTH, DEPTH, LEARNING_RATE = 64, 3, 3e-3
POINTS = 20  # of a learning curve
CURVE = 512  # optimal trajectories that a learning curve looks at
FITTED, FITS = 4096, 800  # optimal trajectories of a start at the optimum, and its updates
ADVICE = "delete this file, and the run is trained again"


def seed_of(*words: object) -> int:
    """A seed that is a function of the words."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4], "big")


def generator(*words: object) -> torch.Generator:
    """Draws that are a function of the words."""
    return torch.Generator().manual_seed(seed_of(*words))


class Trainer(Loop):
    """One run: its network, optimiser, learning curve; whole states on disk."""

    place: Path
    task: ControlTask

    def __init__(self, config: CaseConfig, out: Path) -> None:
        self.config, self.chain = config, OptimalChain(config.problem, config.steps)
        self.label, self.place = config.label, config.place(out, ".safetensors")
        self.steps, self.rows, self.learning_rate = config.updates, config.batch, LEARNING_RATE
        self.method, self.task = ControlMatching(config.method), ControlTask(self.chain)
        dim = config.problem.dim
        self.network = StackedMLP(dim, dim, WIDTH, DEPTH, Draws.seeded([config.seed]))
        self.network.zero_last()
        self.control = as_field(self.network)
        self.draws = Draws.seeded([config.seed])
        self.policy = self.method.setup(self.network, self.task, self.draws)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        self.curve: list[list[float]] = []

    # --- the loop

    def begin(self) -> None:
        if not self.load() and self.config.start == "optimum":
            self.fit()
        if not self.curve:
            self._look()

    def before_step(self) -> None:
        """The draws of an update are a function of the seed and its number."""
        self.draws.generators[0].manual_seed(seed_of(self.config.seed, self.step))

    def _one_step(self) -> None:
        """One update.

        Raises:
            NonFiniteAdjointError: an adjoint or a loss is not finite; nothing was changed.
        """
        try:
            super()._one_step()
        except ValueError as bad:
            raise NonFiniteAdjointError(
                f"{self.label}, update {self.step + 1}: {bad}; the state before it is in "
                f"{self.place}"
            ) from bad

    def after_step(self, losses: Tensor, info: Info) -> None:
        """A point of the learning curve, in evaluations of the network."""
        if self.step in {round(self.steps * i / POINTS) for i in range(1, POINTS + 1)}:
            self._look()
        if self._report is not None:
            self._report(self.step, self.steps, float(losses))

    def _look(self) -> None:
        paths = self.optimal_paths(CURVE, "curve")
        error = ControlError.of(self.along(paths), paths.best).value
        self.curve.append([float(self.step * self.config.update_cost), error])

    def rate(self) -> float:
        return cosine(self.step / self.steps)

    def fit(self) -> None:
        """The network to u*_k by least squares along optimal trajectories."""
        paths = self.optimal_paths(FITTED, "fit")
        states, best = paths.states[:, :-1].float(), paths.best.float()
        optimiser = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        for i in range(FITS):
            rows = torch.randint(
                FITTED, (self.config.batch,), generator=generator("fit", self.config.seed, i)
            )
            gap = along(self.network, self.task.times, states[rows]) - best[rows]
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * cosine(i / FITS)
            optimiser.zero_grad()
            gap.square().sum(-1).mean().backward()
            optimiser.step()

    # --- the optimum

    def optimal_paths(self, count: int, *words: object) -> OptimalPaths:
        """Trajectories of the chain's optimum, a function of the words."""
        noise = torch.randn(
            count, self.config.steps + 1, self.config.problem.dim, dtype=torch.float64,
            generator=generator("optimum", *words),
        )  # fmt: skip
        return self.chain.paths(noise)

    def along(self, paths: OptimalPaths) -> Tensor:
        """The control at the states of optimal trajectories, (n, T, d) float64."""
        with torch.no_grad():
            return along(self.network, self.task.times, paths.states[:, :-1].float()).double()

    # --- whole states on disk

    def keep(self) -> None:
        words = {"run": self.config.digest, "curve": json.dumps(self.curve)}
        write_state(self.place, self.step, self.tensors(), words)

    def load(self) -> bool:
        """Go on from what is on disk; whether anything is.

        Raises:
            ValueError: the file is damaged, or another run's.
        """
        if not self.place.is_file():
            return False
        step, tensors, words = read_state(self.place, {"run": self.config.digest}, ADVICE)
        self.restore(step, tensors)
        self.curve = json.loads(words["curve"])
        return True
