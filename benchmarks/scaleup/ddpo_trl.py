"""trl's DDPO on the tiny pipeline, step by step on request; runs in an environment of its own.

    PYTHON ddpo_trl.py OPTIONS     OPTIONS: JSON, see ddpo.py

It imports nothing of Plumbline but what is beside it: small.py, which needs Python alone, and
models.py, which needs diffusers.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from small import serve  # type: ignore[import-not-found]

warnings.simplefilter("ignore")


def main(options: dict[str, Any]) -> None:
    """Set up, then serve."""
    import accelerate
    import torch
    import trl  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    accelerate.PartialState(cpu=True)  # trl logs before it starts one
    trainer = _trainer(options)
    (rank,) = {m.r["default"] for m in trainer.sd_pipeline.unet.modules() if hasattr(m, "lora_A")}
    if rank != options["rank"]:
        raise ValueError(f"rank must be {rank}, what trl trains, got {options['rank']}")
    done = itertools.count()
    serve(
        list(trainer.trainable_layers), lambda: trainer.step(0, next(done)),
        trl=trl.__version__, torch=torch.__version__,
    )  # fmt: skip


def _trainer(options: dict[str, Any]) -> Any:
    from trl import DDPOConfig, DDPOTrainer

    prompts = options["prompts"]
    draw = random.Random(0)
    config = DDPOConfig(
        seed=0,
        log_with=None,
        mixed_precision="no",
        allow_tf32=False,
        num_epochs=1,
        save_freq=10**9,
        sample_num_steps=options["sampling_steps"],
        sample_eta=1.0,
        # Without guidance its sampler fails: it joins empty prompts to the prompts even so.
        sample_guidance_scale=options["guidance"],
        train_cfg=True,
        sample_batch_size=options["batch"],
        sample_num_batches_per_epoch=1,
        train_batch_size=options["batch"],
        train_gradient_accumulation_steps=1,
        train_num_inner_epochs=1,
        train_learning_rate=1e-3,
        train_max_grad_norm=1.0,
        per_prompt_stat_tracking=False,
        accelerator_kwargs={"cpu": True},
    )
    return DDPOTrainer(
        config, _redness, lambda: (prompts[draw.randrange(len(prompts))], {}), _pipeline(options)
    )


def _pipeline(options: dict[str, Any]) -> Any:
    """trl's own wrapper around the tiny pipeline, without a folder to load it from."""
    from diffusers import DDIMScheduler
    from trl import DefaultDDPOStableDiffusionPipeline

    pipe = getattr(_models(), options["model"])()
    wrapped = DefaultDDPOStableDiffusionPipeline.__new__(DefaultDDPOStableDiffusionPipeline)
    wrapped.sd_pipeline, wrapped.use_lora = pipe, True
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.requires_grad_(False)
    return wrapped


def _models() -> Any:
    """models.py; its tokenizer as transformers 4 takes it, from files."""
    import models  # type: ignore[import-not-found]
    import transformers

    def tokenizer(length: int) -> Any:
        vocabulary = {word: i for i, word in enumerate(models.words())}
        with tempfile.TemporaryDirectory() as folder:
            vocab, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
            vocab.write_text(json.dumps(vocabulary), encoding="utf-8")
            merges.write_text("#version: 0.2\n", encoding="utf-8")
            return transformers.CLIPTokenizer(str(vocab), str(merges), model_max_length=length)

    models.tokenizer = tokenizer
    return models


def _redness(images: Any, prompts: Any, metadata: Any) -> tuple[Any, dict[str, Any]]:
    """Red minus the mean of green and blue, as Plumbline's reward of that name."""
    red, green, blue = images.double().mean((2, 3)).unbind(1)
    return red - (green + blue) / 2, {}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
