"""What a training run is: one dataclass, read from TOML and the command line.

The digest covers every field, the content of the user's own files (prompts, method, reward, what
these import, and what their options name) and of the model, and Plumbline's code as far as it
trains (theory/common/identity.py): the same digest is the same run, gone on with in its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from scaleup.adapter.lora import LoraOptions, parse_targets
from scaleup.adapter.opening import HUB_NAME, model_folder
from scaleup.adapter.sampling import Solver
from scaleup.builtin import builtin_folder
from scaleup.rewards.contract import Reward, parse_reward, reward_sources
from scaleup.training.identity import IDENTITY, run_digest
from theory.common.checks import (
    check_choice,
    check_finite,
    check_nonnegative,
    check_order,
    check_positive,
    check_text,
    unknown,
)
from theory.common.files import read_toml
from theory.common.identity import (
    content_digest,
    digest_of,
    digests,
    is_plumblines,
    option_files,
    sources,
)
from theory.methods import Method
from theory.methods.registry import REGISTRY, parse_method

BUILTIN = "builtin"
# What trains and what is recorded of samples; methods and rewards have files of their own.
TRAINERS = ("scaleup.training.trainer", "scaleup.comparison.features", "scaleup.rewards.shapes")
MOST_PICTURES = 10**6  # of a bank or a comparison, which are held in memory whole
Precision = Literal["no", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
RECIPES = Path(__file__).parents[1] / "recipes"


def option(default: Any, text: str, check: Callable[[str, Any], None] | None = None) -> Any:
    """A field with the text that `--help` shows, and the check of its values."""
    return field(default=default, metadata={"help": text, "check": check})


def whole(least: int, most: int | None = None) -> Callable[[str, Any], None]:
    """Whole numbers from least to most (None: no upper end)."""
    return partial(check_order, least=least, most=most)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on; the defaults train the built-in model."""

    model: str = option(BUILTIN, "a pipeline's folder, a hub name, or 'builtin'")
    prompts: str = option("", '.txt (one a line) or .jsonl ({"prompt": ...}); the built-in\'s own')
    method: str = option(
        "nft:nft_beta=0.1,reward_mapping=released", "NAME[:OPTION=VALUE,...] or path/to/method.py"
    )
    reward: str = option(
        "brightness", "NAME[:OPTION=VALUE,...], a weighted sum, or path/to/reward.py"
    )
    seed: int = option(0, "of everything that is drawn", whole(0, 2**30))
    steps: int = option(300, "of the optimiser", whole(1))
    batch: int = option(32, "rows a step, of all processes together", whole(1))
    micro_batch: int = option(
        0, "rows a process sees at once; 0: its whole share of the batch", whole(0)
    )
    learning_rate: float = option(2e-3, "of AdamW, after the warm-up", check_positive)
    weight_decay: float = option(0.0, "of AdamW", check_nonnegative)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", check_positive)
    lora_rank: int = option(16, "rank of B A")
    lora_alpha: float = option(0.0, "B A counts alpha / rank times; 0: alpha = rank")
    lora_targets: str = option("", "linear layers, with commas; empty: those of the attention")
    guidance: float = option(
        1.0, "classifier-free guidance of base and student alike; 1: none", check_finite
    )
    anchor_guidance: float = option(
        1.0, "guidance of the base that nft:anchor=guided anchors to; 1: of no method", check_finite
    )
    sampling_steps: int = option(20, "of the ODE", whole(2))
    solver: Solver = option("euler", "euler (DDIM) or heun")
    chunk: int = option(64, "pictures sampled, decoded and scored at once", whole(1))
    group: int = option(1, "rows of one prompt drawn together, where a method samples", whole(1))
    bank: int = option(
        768, "base samples to train on, for methods that do", whole(1, MOST_PICTURES)
    )
    evaluate: int = option(
        192, "pictures compared at the end, base and tuned, same seeds", whole(8, MOST_PICTURES)
    )
    grid_every: int = option(100, "steps between sample grids; 0: none", whole(0))
    checkpoint_every: int = option(50, "steps between checkpoints", whole(1))
    precision: Precision = option("no", "no (float32), bf16 or fp16")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass")
    processes: int = option(1, "that train together, started by torchrun", whole(1))
    device: Device = option("auto", "auto takes a GPU where there is one")

    def __post_init__(self) -> None:
        hints = get_type_hints(TrainConfig, globals())
        for each in fields(self):
            value = getattr(self, each.name)
            if get_origin(hints[each.name]) is Literal:
                check_choice(each.name, value, get_args(hints[each.name]))
            elif check := each.metadata["check"]:
                check(each.name, value)
        self._check_batch()
        _ = self.lora
        if not self.prompts and self.model != BUILTIN:
            raise ValueError(
                f"prompts must be a .txt or .jsonl file with model = {self.model!r} (the built-in "
                "model alone has prompts of its own), got ''"
            )

    def _check_batch(self) -> None:
        own, rest = divmod(self.batch, self.processes)
        if rest:
            raise ValueError(
                f"batch must be a multiple of processes = {self.processes}, got {self.batch}"
            )
        if self.micro_batch and own % self.micro_batch:
            raise ValueError(
                f"micro_batch must be a divisor of {own}, a process's share of the batch, got "
                f"{self.micro_batch}"
            )
        if self.rows % self.group:
            raise ValueError(
                f"group must be a divisor of {self.rows}, the rows that a process sees at once, "
                f"got {self.group}"
            )

    # --- parts

    @property
    def rows(self) -> int:
        """Rows that a process sees at once."""
        return self.micro_batch or self.batch // self.processes

    @property
    def accumulate(self) -> int:
        """Forward and backward passes a step."""
        return self.batch // (self.processes * self.rows)

    @cached_property
    def lora(self) -> LoraOptions:
        return LoraOptions(self.lora_rank, self.lora_alpha, parse_targets(self.lora_targets))

    @cached_property
    def parsed_method(self) -> Method:
        return parse_method(self.method)

    @cached_property
    def parsed_reward(self) -> Reward:
        return parse_reward(self.reward)

    def check_together(self) -> None:
        """Prompts, method and reward exist and fit together, before a model is loaded.

        Raises:
            ValueError, FileNotFoundError: they do not.
        """
        if self.prompts:
            read_prompts(self.prompts)
        method, reward = self.parsed_method, self.parsed_reward
        if method.starts_from == "scratch":
            raise ValueError(
                "method must fine-tune a pretrained model, got "
                f"{self.method!r}, which trains from nothing"
            )
        if (method.options.get("anchor") == "guided") != (self.anchor_guidance != 1):
            raise ValueError(
                "anchor_guidance must be a weight other than 1 where the method anchors to the "
                "guided base (nft:anchor=guided,kl_weight=...), 1 for others, got "
                f"{self.anchor_guidance:g} with method = {self.method!r}"
            )
        domain = method.rewards
        if not domain.holds(*reward.bounds):
            maps = "reward_mapping" in method.options
            raise ValueError(
                f"reward must take {domain} for method = {self.method!r}, got {self.reward!r} with "
                f"values in {list(reward.bounds)}"
                + ("; reward_mapping=released maps any reward" if maps else "")
            )
        if domain.differentiable and not reward.differentiable:
            raise ValueError(
                f"reward must take {domain}, for method = {self.method!r}, got {self.reward!r}, "
                "which has no gradient"
            )

    # --- identity

    def as_json(self) -> dict[str, Any]:
        """The fields, and digests of what they name: the user's files, the model, and the code."""
        return dict(self._content)

    @cached_property
    def _content(self) -> dict[str, Any]:
        # Once: a file that is edited while its run trains belongs to the next run.
        named = [REGISTRY.source(self.method), *reward_sources(self.reward)]
        code = digests(sources(*TRAINERS, *(source for source, _ in named)))
        files = {self.prompts: content_digest(self.prompts)} if self.prompts else {}
        files |= {name: digest for name, digest in code.items() if not is_plumblines(name)}
        for _, options in named:
            files |= option_files(options)
        own = {name: digest for name, digest in code.items() if name not in files}
        parts = (files, _model_digest(self.model), digest_of(own), metadata.version("plumbline"))
        return asdict(self) | dict(zip(IDENTITY, parts, strict=True))

    @cached_property
    def digest(self) -> str:
        """Ten hexadecimal digits that name the run; the device is no part of it."""
        return run_digest(self.as_json())

    @property
    def folder_name(self) -> str:
        """MODEL-METHOD-REWARD-DIGEST."""
        parts = (Path(self.model).name, self.parsed_method.name, self.parsed_reward.name)
        words = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", p).strip("_")[:40] for p in parts)
        return f"{words}-{self.digest}"


def _model_digest(model: str) -> str:
    """Of its folder, fetched where it is on the hub; "" where it can be neither."""
    if model == BUILTIN:
        return content_digest(builtin_folder())
    some = Path(model).expanduser().is_dir() or HUB_NAME.fullmatch(model)
    return content_digest(model_folder(model)) if some else ""


def read_prompts(path: str) -> list[str]:
    """Prompts of a .txt file (a line each; empty lines do not count) or .jsonl ({"prompt": ...}).

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a line that is no prompt, none at all.
    """
    file = Path(path)
    if file.suffix not in (".txt", ".jsonl"):
        raise ValueError(f"prompts must be a .txt or .jsonl file, got {path!r}")
    if not file.is_file():
        raise FileNotFoundError(f"prompts = {path!r}: no such file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts must be text in UTF-8, got {path!r} ({error})") from error
    # Not splitlines(), which also splits at signs that a prompt may hold.
    lines = enumerate(map(str.strip, text.split("\n")), start=1)
    found = [
        line if file.suffix == ".txt" else _prompt_of(line, path, number)
        for number, line in lines
        if line
    ]
    if not found:
        raise ValueError(f"prompts must be at least one, got {path!r}, which holds none")
    return found


def _prompt_of(line: str, path: str, number: int) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}, line {number} must be {{"prompt": "..."}}, got {line[:60]!r}'
        ) from error
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{path}, line {number}: prompt must be a text, got {prompt!r}")
    check_text(f"{path}, line {number}: prompt", prompt)
    return prompt


# --- TOML and the command line


def load_config(path: str | None, given: dict[str, Any]) -> TrainConfig:
    """A recipe's fields, overridden by what was given on the command line.

    path: a .toml file, or the name of a recipe that comes with Plumbline.

    Raises:
        ValueError, FileNotFoundError: no such recipe, an unknown field, a value of another type or
            out of range.
    """
    values = _read_toml(path) if path else {}
    hints = get_type_hints(TrainConfig)
    for key, value in values.items():
        if key not in hints:
            raise unknown(f"{path}: a field", key, hints)
        values[key] = _typed(f"{path}: {key}", value, hints[key])
    return TrainConfig(**{**values, **given})


def _typed(name: str, value: Any, hint: Any) -> Any:
    kind = str if hint not in (int, float, bool) else hint
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return value


def _read_toml(path: str) -> dict[str, Any]:
    file = Path(path) if path.endswith(".toml") else RECIPES / f"{path}.toml"
    if not file.is_file():
        raise FileNotFoundError(
            unknown("config", path, recipe_names(), "a .toml file that is there")
        )
    return read_toml(file)


def recipe_names() -> list[str]:
    """Recipes that come with Plumbline."""
    return sorted(file.stem for file in RECIPES.glob("*.toml"))
