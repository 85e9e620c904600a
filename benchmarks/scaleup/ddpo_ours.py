"""Our DDPO on the tiny pipeline, step by step on request; the counterpart of ddpo_trl.py.

python -m benchmarks.scaleup.ddpo_ours OPTIONS
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.scaleup import models
from benchmarks.scaleup.small import serve
from scaleup.adapter import ImageModel
from scaleup.training.config import TrainConfig
from scaleup.training.runfolder import RunFolder
from scaleup.training.session import Session
from scaleup.training.trainer import Trainer


def main(options: dict[str, Any]) -> None:
    """Set up, then serve."""
    with tempfile.TemporaryDirectory() as place:
        trainer = _trainer(options, Path(place))
        student = [p for p in trainer.session.student.parameters() if p.requires_grad]
        serve(student, trainer.one_step, torch=torch.__version__)


def _trainer(options: dict[str, Any], place: Path) -> Trainer:
    prompts = place / "prompts.txt"
    prompts.write_text("\n".join(options["prompts"]) + "\n", encoding="utf-8")
    config = TrainConfig(
        model=options["model"],
        prompts=str(prompts),
        method=f"ddpo:steps={options['sampling_steps']}",
        reward="redness",
        steps=1000,
        batch=options["batch"],
        micro_batch=options["micro_batch"],
        learning_rate=1e-3,
        lora_rank=options["rank"],
        guidance=options["guidance"],
        chunk=options["batch"],
        device="cpu",
    )
    model = ImageModel(getattr(models, options["model"])())
    return Trainer(Session(config, RunFolder(place, config), model))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
