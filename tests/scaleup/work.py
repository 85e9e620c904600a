"""Small runs on the tiny pipelines."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from scaleup.adapter import ImageModel, open_model
from scaleup.training.config import TrainConfig
from scaleup.training.runfolder import RunFolder
from scaleup.training.session import BASE_DTYPES, Session
from scaleup.training.trainer import Trainer

SMALL: dict[str, Any] = {
    "reward": "redness",
    "steps": 4,
    "batch": 4,
    "learning_rate": 1e-2,
    "lora_rank": 2,
    "sampling_steps": 2,
    "chunk": 8,
    "bank": 8,
    "evaluate": 8,
    "grid_every": 0,
    "checkpoint_every": 3,
}
NFT_ONLINE = "nft:nft_beta=0.5,reward_mapping=released,refresh_every=2,old_decay=0.5,pool=8"


def settings(folders: dict[str, str], family: str = "sd15", **options: Any) -> TrainConfig:
    """A run's configuration on a tiny pipeline."""
    return TrainConfig(model=folders[family], prompts=folders["prompts"], **{**SMALL, **options})


def words(config: TrainConfig, out: Path, *more: str) -> list[str]:
    """The command line that trains it."""
    found = ["train", "--no-tensorboard", "--out", str(out)]
    for name in ("model", "prompts", "method", *SMALL):
        found += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return [*found, *more]


@cache
def opened(folder: str, dtype: torch.dtype) -> ImageModel:
    """A pipeline as it was saved; copying it is faster than opening it."""
    return open_model(folder, dtype=dtype)


def session(config: TrainConfig, out: Path) -> Session:
    """Its parts, as in a process of its own."""
    AcceleratorState._reset_state(True)
    model = copy.deepcopy(opened(config.model, BASE_DTYPES[config.precision]))
    return Session(config, RunFolder(out, config), model)


class Stopped(Exception):  # noqa: N818
    """The moment at which a run is killed."""


def stop_after(step: int) -> Any:
    """A watcher that kills its run after `step` steps."""

    def watch(done: int, row: dict[str, float]) -> None:
        if done == step:
            raise Stopped

    return watch


def trained(config: TrainConfig, out: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """From the newest checkpoint to the end."""
    trainer = kind(session(config, out))
    trainer.train()
    return trainer


def killed(config: TrainConfig, out: Path, step: int, kind: type[Trainer] = Trainer) -> None:
    """A run that is killed after `step` steps."""
    try:
        kind(session(config, out), after=stop_after(step)).train()
    except Stopped:
        return
    raise AssertionError(f"the run did not come to step {step}")


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether the names and every bit agree."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def perturb(weights: dict[str, Tensor], size: float = 0.3, seed: int = 5) -> None:
    """Move weights somewhere: training in one step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in weights.values():
            value.add_(size * torch.randn(value.shape, generator=generator))
