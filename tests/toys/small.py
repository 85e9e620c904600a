"""Small runs, and what the tests ask of their folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from toys.__main__ import main
from toys.training.config import RunConfig
from toys.training.runs import Group, Run
from toys.training.schedule import train
from toys.training.trainer import Trainer

TINY = {"steps": 30, "batch": 64, "width": 8}
NFT_OLD = "nft:refresh_every=5,old_decay=0.5"
DDPO_KL = "ddpo:kl_weight=0.5,steps=4"


def configs(method: str, seeds: int = 1, problem: str = "note_1d", **values) -> list[RunConfig]:
    return [
        RunConfig.checked(method=method, problem=problem, seed=seed, **{**TINY, **values})
        for seed in range(seeds)
    ]


def trained(out: Path, wanted: list[RunConfig]) -> int:
    return train(out, wanted, processes=1)


def copied(source: Path, tmp_path: Path) -> Path:
    """A copy of a folder of runs, to be spoilt."""
    return Path(shutil.copytree(source, tmp_path / "copy"))


class StoppedError(Exception):
    """In place of a killed process."""


def stop_at(out: Path, members: list[RunConfig], step: int) -> Group:
    """A group whose training stopped at a step, its checkpoint one step old."""
    group = Group(out, tuple(members))

    def report(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_CHECKPOINT_SECONDS", "1e-9")
        with pytest.raises(StoppedError):
            Trainer(group).train(report)
    return group


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def same_result(out: Path, other: Path, wanted: list[RunConfig]) -> bool:
    """Weights bit by bit, and the metrics as written."""
    pairs = [(Run(out, c), Run(other, c)) for c in wanted]
    return all(
        same_bits(a.weights(), b.weights())
        and (a.folder / "metrics.csv").read_text() == (b.folder / "metrics.csv").read_text()
        for a, b in pairs
    )


def tree(out: Path) -> dict[str, bytes]:
    """Every file under a folder (locks aside) and what it holds."""
    files = [p for p in out.rglob("*") if p.is_file() and p.name != "lock"]
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(files)}


def flip(path: Path, place: int) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def call(capsys, *arguments) -> tuple[int, str, str]:
    """`python -m toys` in this process: (exit status, stdout, stderr)."""
    status = main([str(a) for a in arguments])
    return status, *capsys.readouterr()
