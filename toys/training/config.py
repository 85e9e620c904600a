"""What a run is: a method on a problem with a seed and a budget; its identity is its content.

The digest covers every number that shapes the result, the texts of the problem and of the method,
what these and the trainer import, and files that the method's options name
(theory/common/identity.py): the same digest means the same run, so a finished run is not trained
again, and a run of changed code is another run.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from theory.common.checks import check_choice, check_order, check_positive, is_finite_number
from theory.common.identity import code_digest, option_files, plumbline_code
from theory.methods import Method
from theory.methods.contract import returned
from theory.methods.registry import REGISTRY, parse_method
from theory.problems.problem import Problem, load_problem, problem_names
from toys.training.defaults import DEPTH, WIDTH

# Steps of a base's training a dimension: its error is where every fine-tuned network starts from.
BASE_STEPS = 4000
DEVICES = ("cpu", "cuda")
# What trains a run; a method's own file is told apart beside it.
TRAINER = "toys.training.trainer"


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on.

    method: as on the command line, options included. problem: a name or a path that ends in
    .toml. steps, batch (rows a step and network), learning_rate: 0 stands for the method's budget.
    snapshots: how many networks to keep along the way, at equal distances, the last at the end.
    times: that training draws from, increasing; none: all of [0, 1). The base knows all of them.
    """

    method: str
    problem: str
    seed: int = 0
    width: int = WIDTH
    depth: int = DEPTH
    steps: int = 0
    batch: int = 0
    learning_rate: float = 0.0
    low_discrepancy: bool = True
    fast_products: bool = False
    snapshots: int = 0
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(self.times))  # JSON has lists

    @classmethod
    def checked(cls, **values: Any) -> RunConfig:
        """A config whose parts exist and fit together, its budget filled in.

        Raises:
            ValueError, FileNotFoundError: a part does not exist or is out of range, or the
                method does not allow the problem's reward.
        """
        config = cls(**values)
        check_order("seed", config.seed, 0, 2**31 - 1)
        check_order("width", config.width, 1)
        check_order("depth", config.depth, 1)
        if not config.method.partition(":")[0].endswith(".py"):
            config = replace(config, method=config.parsed.label)  # one spelling, one run
        budget = config.parsed.budget
        config = replace(
            config,
            steps=config.steps or budget.steps,
            batch=config.batch or budget.batch,
            learning_rate=config.learning_rate or budget.learning_rate,
        )
        check_order("steps", config.steps, 1)
        check_order("batch", config.batch, 1)
        check_positive("learning_rate", config.learning_rate)
        check_order("snapshots", config.snapshots, 0, config.steps)
        if config.snapshots and config.steps % config.snapshots:
            raise ValueError(
                f"snapshots must divide steps = {config.steps}, got {config.snapshots}"
            )
        if not all(is_finite_number(t) and 0 <= t <= 1 for t in config.times) or any(
            a >= b for a, b in pairwise(config.times)
        ):
            raise ValueError(
                f"times must be increasing numbers in [0, 1], or none, got {config.times!r}"
            )
        with returned.part(config.parsed, "check_problem"):
            config.parsed.check_problem(config.parsed_problem)
        return config

    @cached_property
    def parsed(self) -> Method:
        """The method."""
        return parse_method(self.method)

    @cached_property
    def parsed_problem(self) -> Problem:
        """The problem, float64; one object a text, so that networks on it train side by side."""
        return _problem(self.problem, problem_text(self.problem))

    def base(self) -> RunConfig | None:
        """The run that trains this one's base network, or None for methods from scratch."""
        if self.parsed.starts_from == "scratch":
            return None
        return RunConfig.checked(
            method="flow_matching:target_velocity=exact",
            problem=self.problem,
            seed=self.seed,
            width=self.width,
            depth=self.depth,
            fast_products=self.fast_products,
            steps=BASE_STEPS * self.parsed_problem.dim,
        )

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: another process parses method and problem for itself."""
        return asdict(self)

    # --- identity

    def as_json(self) -> dict[str, Any]:
        """The config as plain data, as written to the run's folder."""
        return dict(self._content)

    @cached_property
    def _content(self) -> dict[str, Any]:
        # Once: a file that is edited while its run trains belongs to the next run.
        base, own, named = self.base(), asdict(self), option_files(self.parsed)
        own["times"] = list(self.times)
        if not self.times:
            del own["times"]  # runs at all times keep the identity they had without this field
        if named:
            own["files"] = named
        return {
            **own,
            "problem_sha256": _sha(problem_text(self.problem)),
            "method_sha256": _method_sha(self.method),
            "code_sha256": plumbline_code(TRAINER),
            "base": None if base is None else base.digest,
        }

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the run."""
        return _sha(json.dumps(self.as_json(), sort_keys=True))[:12]

    @property
    def label(self) -> str:
        """method @ problem, seed, and how many times where not all."""
        some = f", {len(self.times)} times" if self.times else ""
        return f"{self.method_label} @ {self.problem_label}, seed {self.seed}{some}"

    @property
    def method_label(self) -> str:
        """The method with what differs from its defaults."""
        return self.parsed.label

    @property
    def method_identity(self) -> tuple[str, str]:
        """Equal for runs of one loss: two files may give their methods one name."""
        return self.method_label, _method_sha(self.method)

    @property
    def problem_label(self) -> str:
        """The problem's name."""
        return self.parsed_problem.name

    @property
    def folder_name(self) -> str:
        """The run's folder: readable, and unique by the digest."""
        return f"{slug(self.problem_label)}-{slug(self.method_label)}-s{self.seed}-{self.digest}"


def slug(text: str) -> str:
    """Text as a file name: letters, digits, dots, the rest as single underscores."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")[:80]


def check_device(device: str) -> None:
    """cpu, or cuda where there is one."""
    import torch

    check_choice("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be 'cpu', got 'cuda': no CUDA device is available here")


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def problem_text(problem: str) -> str:
    """The problem's TOML, by its name or path."""
    if problem in problem_names():
        return resources.files("theory").joinpath(f"problems/{problem}.toml").read_text("utf-8")
    if not (problem.endswith(".toml") and Path(problem).is_file()):
        load_problem(problem)  # its own errors
    return Path(problem).read_text(encoding="utf-8")


@cache
def _problem(problem: str, text: str) -> Problem:
    return load_problem(problem)


def _method_sha(method: str) -> str:
    """Of the method's file and what it imports."""
    name = method.partition(":")[0]
    return (
        code_digest(name)
        if name.endswith(".py")
        else plumbline_code(REGISTRY.find(name).__module__)
    )
