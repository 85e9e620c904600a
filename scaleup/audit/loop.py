"""The loop closed: train the built-in model towards known tilts, and audit what it samples.

Methods whose optimum is an exact tilt (weighted flow matching, implicit Tilt Matching) have their
own scale as the prediction; DiffusionNFT has what theory/released forecasts from the base's rewards
(one step of 2/nft_beta, or several epochs of it).

Weighted flow matching at scale 0 is plain training on the model's own samples. A base v0 that is
not the rectified-flow field u of its samples moves under it, with no reward at all: so runs of that
method are audited against that run too, which differs from them in the weights alone. Where a loss
holds v0, the mismatch stays in its optimum: v^a + (v0 - u)/E[exp(a r)|x] of implicit Tilt Matching,
and (2 m_t - 1)(u - v0)/nft_beta in NFT's (ledger Z5). Both are small where training is short, the
former where exp(a r) is at least about one, too.

    python -m scaleup loop                  all runs in turn (minutes on a GPU, hours on a CPU)
    python -m scaleup loop --only NAME ...  some of them
    python -m scaleup loop --write          and their table to docs/data/audit_loop.json
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scaleup.audit.draw import draw
from scaleup.audit.gather import Gathered
from scaleup.audit.run_samples import from_run, from_samples
from scaleup.comparison.features import Statistics
from scaleup.samples.records import read_samples
from scaleup.training.config import TrainConfig
from scaleup.training.run import run
from scaleup.training.runfolder import RunFolder
from theory.audit import as_json, audit
from theory.common.files import read_json, write_json
from theory.released.forecast import Settings, forecast
from theory.released.schedule import schedule
from theory.released.sources import SampledRewards

DOCUMENT = Path("docs/data/audit_loop.json")
CONTROL = "weighted_0"
REWARD = "brightness:zero=0.37"  # the base's mean: exp(a r) is about one
EPOCHS = 5


@dataclass(frozen=True)
class Budget:
    """What every run trains with, and how many pictures of a side it is audited on."""

    steps: int = 1000
    batch: int = 256
    bank: int = 8192
    rank: int = 32
    pictures: int = 8192
    chunk: int = 512


# Where a loss holds the base's velocity, what it lacks of being its samples' field is carried along
# (module docstring): a short run, as `python -m scaleup train` makes it without options.
SHORT = Budget(steps=300, batch=32, bank=1536, rank=16, pictures=2048, chunk=64)


@dataclass(frozen=True)
class Case:
    """title: as tables name it. method: its option string, {epoch} and {pool} filled in. scale: the
    exact target's; nft_beta and epochs: of NFT, forecast. rate: of learning. control: the run that
    differs in the weights alone. budget: its own, whatever was asked for."""

    title: str
    method: str
    scale: float | None = None
    nft_beta: float | None = None
    epochs: int = 1
    rate: float = 5e-4
    control: str | None = None
    budget: Budget | None = None
    reward: str = REWARD

    def config(self, asked: Budget, device: str) -> TrainConfig:
        budget = self.budget or asked
        return TrainConfig(
            method=self.method.format(epoch=budget.steps // self.epochs, pool=budget.bank),
            reward=self.reward,
            steps=budget.steps,
            batch=budget.batch,
            bank=budget.bank,
            lora_rank=budget.rank,
            learning_rate=self.rate,
            evaluate=96,
            grid_every=0,
            chunk=budget.chunk,
            checkpoint_every=max(budget.steps // 4, 1),
            device=device,  # type: ignore[arg-type]
        )


def _weighted(scale: int, control: str | None = CONTROL) -> Case:
    return Case(
        f"weighted flow matching, a = {scale}",
        f"weighted_flow_matching:scale={scale}",
        scale=float(scale),
        control=control,
    )


CASES = {
    CONTROL: _weighted(0, None),
    "weighted_8": _weighted(8),
    "weighted_15": _weighted(15),
    "implicit_8": Case(
        "implicit Tilt Matching, a = 8",
        "tilt_matching:scale=8",
        scale=8.0,
        rate=1e-3,
        budget=SHORT,
        reward="brightness:zero=0.2",
    ),
    "nft": Case(
        "DiffusionNFT, nft_beta = 0.2",
        "nft:nft_beta=0.2,reward_mapping=released",
        nft_beta=0.2,
        rate=1e-3,
        budget=SHORT,
    ),
    "nft_online": Case(
        f"DiffusionNFT online, {EPOCHS} epochs of nft_beta = 1",
        "nft:nft_beta=1,reward_mapping=released,refresh_every={epoch},pool={pool}",
        nft_beta=1.0,
        epochs=EPOCHS,
        rate=2e-4,
    ),
}


def predicted(case: Case, folder: Path) -> float:
    """The tilt that theory expects, per unit of reward."""
    if case.scale is not None:
        return case.scale
    base = read_samples(folder, "audit_base", pictures=False)
    rewards, prompt = base.rewards[case.reward].numpy(), base.prompt_index.numpy() - 1
    assert case.nft_beta is not None
    group = len(rewards) // (int(prompt.max()) + 1)
    recipe = Settings(case.nft_beta, schedule("none"), kl_weight=0.0, group=group)
    return forecast(recipe, SampledRewards(rewards, prompt), case.epochs).last.tilt


def close(name: str, out: Path, budget: Budget, device: str) -> dict[str, Any]:
    """One run, trained (or found) and audited: its row of the table."""
    case, start = CASES[name], time.monotonic()
    folder = run(case.config(budget, device), out, tensorboard=False)
    own = case.budget or budget
    draw(folder, own.pictures)
    found = _audited(from_run(folder, Statistics()))
    done = read_json(folder / "done.json")
    return {
        "name": name,
        "title": case.title,
        "predicted": predicted(case, folder),
        "budget": {**vars(own), "learning_rate": case.rate},
        "device": _device(done["device"]),
        "train_seconds": done["seconds"],
        "seconds": round(time.monotonic() - start, 1),
        "plumbline": read_json(folder / "config.json")["plumbline"],
        "audit": found,
        "against_control": _against_control(case, folder, out, budget, device),
    }


def _audited(gathered: Gathered) -> dict[str, Any]:
    return {k: v for k, v in as_json(audit(gathered.data)).items() if k != "by_prompt"}


def _against_control(
    case: Case, folder: Path, out: Path, budget: Budget, device: str
) -> dict[str, Any] | None:
    """The same audit with the control's samples for the base's; None where there is none, or it
    was not trained yet."""
    if case.control is None:
        return None
    other = RunFolder(out, CASES[case.control].config(budget, device))
    if not other.is_finished or not (other.path / "samples" / "audit_tuned").is_dir():
        return None
    parts = [read_samples(where, "audit_tuned") for where in (other.path, folder)]
    return _audited(from_samples([parts[0]], parts[1], case.reward, Statistics(), str(folder)))


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name.startswith("cuda") else "CPU"


def write(rows: list[dict[str, Any]], path: Path = DOCUMENT) -> None:
    """Rows into the document, replacing those of the same name."""
    known = {row["name"]: row for row in read_json(path)["rows"]} if path.is_file() else {}
    known |= {row["name"]: row for row in rows}
    write_json(path, {"rows": [known[name] for name in CASES if name in known]})
