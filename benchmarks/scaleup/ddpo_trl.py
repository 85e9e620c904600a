"""trl's DDPO on the tiny pipeline, step by step on request; runs in an environment of its own.

    PYTHON ddpo_trl.py OPTIONS     OPTIONS: JSON, see ddpo.py

Every line read is a number of steps to run; every line written is JSON with what they took. This
file imports nothing of Plumbline but models.py beside it, which needs diffusers alone.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")


def main(options: dict[str, Any]) -> None:
    """Set up, say so, then serve."""
    import accelerate
    import torch
    import trl  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    accelerate.PartialState(cpu=True)  # trl logs before it starts one
    trainer = _trainer(options)
    (rank,) = {m.r["default"] for m in trainer.sd_pipeline.unet.modules() if hasattr(m, "lora_A")}
    if rank != options["rank"]:
        raise ValueError(f"rank must be {rank}, what trl trains, got {options['rank']}")
    moved = list(trainer.trainable_layers)
    _say({"trl": trl.__version__, "torch": torch.__version__, "peak": peak(),
          "trained": sum(p.numel() for p in moved)})  # fmt: skip
    before, done = [p.detach().clone() for p in moved], 0
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            done = trainer.step(0, done)
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        change = max(float((p.detach() - q).abs().max()) for p, q in zip(moved, before))  # noqa: B905
        _say({**seconds, "steps_done": done, "peak": peak(), "moved": change})


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
    import transformers

    spec = importlib.util.spec_from_file_location("models", Path(__file__).with_name("models.py"))
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)

    def tokenizer(length: int) -> Any:
        vocabulary = {word: i for i, word in enumerate(models.words())}
        with tempfile.TemporaryDirectory() as folder:
            vocab, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
            vocab.write_text(json.dumps(vocabulary), encoding="utf-8")
            merges.write_text("#version: 0.2\n", encoding="utf-8")
            return transformers.CLIPTokenizer(str(vocab), str(merges), model_max_length=length)

    models.tokenizer = tokenizer  # type: ignore[attr-defined]
    return models


def _redness(images: Any, prompts: Any, metadata: Any) -> tuple[Any, dict[str, Any]]:
    """Red minus the mean of green and blue, as Plumbline's reward of that name."""
    red, green, blue = images.double().mean((2, 3)).unbind(1)
    return red - (green + blue) / 2, {}


def peak() -> int:
    """The most that this process has held, in bytes (Linux)."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("VmHWM:")[1].split()[0])


def _say(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
