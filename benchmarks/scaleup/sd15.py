"""One step of NFT and one of weighted flow matching at the full size of Stable Diffusion 1.5.

Random weights, 64 x 64 latents, LoRA of rank 32, float32, one thread of the CPU, in a process of
its own that holds nothing else. The model is built in memory: no gigabytes are written.

    python -m benchmarks.scaleup.sd15 sd15|tiny_sd15      prints one line of JSON
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.scaleup.small import PROMPTS, module_output, peak_memory

GIB = 2**30
LIMIT = 20 * GIB
METHODS = {
    "NFT": "nft:nft_beta=0.2,reward_mapping=released",
    "weighted flow matching": "weighted_flow_matching",
}
OPTIONS: dict[str, Any] = {
    "reward": "redness",
    "steps": 1,
    "batch": 1,
    "lora_rank": 32,
    "sampling_steps": 2,
    "chunk": 1,
    "bank": 2,
    "device": "cpu",
}


def measure() -> list[Row]:
    """One row for both steps."""
    found = module_output("benchmarks.scaleup.sd15", ["sd15"])
    peak, seconds = found["peak_bytes"], found["cpu_seconds"]
    told = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    return [
        Row(
            "one step of NFT and of weighted flow matching at Stable Diffusion 1.5's size "
            f"({found['parameters'] / 1e9:.2f} billion parameters), LoRA rank 32, float32, CPU",
            f"runs, peak below {LIMIT / GIB:.0f} GiB",
            f"peak {peak / GIB:.1f} GiB; CPU-seconds: {told}",
            peak < LIMIT and all(moved > 0 for moved in found["moved"].values()),
            found,
        )
    ]


def steps_at(size: str) -> dict[str, Any]:
    """Build the model of that name in `models`; a step of each method on one bank."""
    from benchmarks.scaleup import models
    from scaleup.adapter import ImageModel
    from scaleup.training.config import TrainConfig
    from scaleup.training.runfolder import RunFolder
    from scaleup.training.session import Session
    from scaleup.training.trainer import Trainer

    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        prompts = Path(place) / "prompts.txt"
        # One prompt: rewards that are mapped by prompt must differ, or NFT's gradient is zero.
        prompts.write_text(PROMPTS[0], encoding="utf-8")
        common = {**OPTIONS, "model": size, "prompts": str(prompts)}
        model = _timed(seconds, "building", lambda: ImageModel(getattr(models, size)()))
        bank, losses, moved = None, {}, {}
        for name, method in METHODS.items():
            config = TrainConfig(**common, method=method)
            session = Session(config, RunFolder(Path(place), config), model)
            trainer = Trainer(session)
            if bank is None:
                draw = partial(session.drawer.bank, session.base)
                bank = _timed(seconds, f"{config.bank} base samples", draw)
            session.task.bank = bank
            losses[name] = _timed(seconds, name, trainer.one_step)["loss"]
            moved[name] = max(
                float(value.detach().abs().max())
                for key, value in session.student.named_parameters()
                if "lora_B" in key  # zero before the step
            )
            model.network.delete_adapters(session.student.adapter)
        parts = (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder)
        return {
            "parameters": sum(p.numel() for part in parts for p in part.parameters()),
            "peak_bytes": peak_memory(),
            "cpu_seconds": seconds,
            "losses": losses,
            "moved": moved,
        }


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    found = work()
    seconds[name] = time.process_time() - start
    return found


if __name__ == "__main__":
    print(json.dumps(steps_at(sys.argv[1])))
