"""A run's parts, put together once: processes, model, LoRA, task, method, optimiser."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from scaleup.adapter import Guided, ImageModel, open_model
from scaleup.adapter.lora import LoraVelocity, lora_student
from scaleup.adapter.sharding import shard_base, sharding_plugin
from scaleup.rewards.contract.checked import checked
from scaleup.training.config import BUILTIN, TrainConfig, read_prompts
from scaleup.training.draws import ShardedDraws, generator_of
from scaleup.training.legible import seen_by, unseen_words
from scaleup.training.peers import PEER_TIMEOUT, check_environment, meet, start
from scaleup.training.runfolder import RunFolder
from scaleup.training.task import PromptedTask, Sampling
from theory.fields.mixture import VelocityModel
from theory.methods.contract import returned

BASE_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KINDS = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.FSDP,
)


class Session:
    """Everything that a run trains with.

    Base weights are held in the dtype of `precision`, LoRA's in float32; the network runs under
    autocast where the two differ. Gradients are averaged over processes by hand: LoRA's are small,
    and a wrapped network could not switch adapters. The base is whole on every process, or sharded
    where accelerate is configured for FSDP (`scaleup.adapter.sharding`).

    peer_timeout: seconds in which all processes must come.
    model: one that is open already, on the run's device and in its dtype, without adapters; else
    the one that the configuration names.

    Raises:
        ValueError: another number of processes than asked for, or not all in time; and what
            `open_model`, `TrainConfig` and the method raise.
        NotImplementedError: accelerate is configured for DeepSpeed or Megatron.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        model: ImageModel | None = None,
        peer_timeout: float = PEER_TIMEOUT,
    ) -> None:
        torch.set_num_threads(1)
        config.check_together()
        self.config, self.folder = config, folder
        self.accelerator = start_processes(config, folder.path, peer_timeout)
        plugin = sharding_plugin(self.accelerator)
        self.sharded = plugin is not None
        self.device = self.accelerator.device
        self.dtype = BASE_DTYPES[config.precision]
        self.model = self._open() if model is None else model
        self.prompts = self.model.prompts(self._prompts())
        velocity = self.model.velocity(self.prompts)
        if config.precision != "no":
            velocity.autocast = self.dtype
        self.student = lora_student(
            self.model,
            velocity,
            config.lora,
            generator_of("lora", config.seed),
            self._guidance(),
        )
        self.student.adapters.rows_at_once = config.chunk
        if config.gradient_checkpointing:
            self.student.adapters.recompute_activations()
        self.base = LoraVelocity(self.student.adapters, self.student.model, None)
        self.task = PromptedTask(
            self.model,
            self.base,
            self.prompts,
            checked(config.parsed_reward),
            Sampling(config.sampling_steps, config.solver, config.chunk, config.group),
            rank=self.rank,
            shards=self.world,
            gather=self.gather,
            guided=self._anchor(velocity),
        )
        self.task.rows_at_once = config.rows
        self.task.scaled_gradients = self.accelerator.scaler is not None
        self.draws = ShardedDraws(
            generator_of("method", config.seed),
            rank=self.rank,
            shards=self.world,
            device=self.device,
        )
        self.method = config.parsed_method
        self._check_compared()
        self.policy = returned.setup(self.method, self.student, self.task, self.draws)
        if plugin is not None:  # with all adapters there, the old copy's too
            shard_base(self.accelerator, plugin, self.model.network)
        self.optimiser: Any = self.accelerator.prepare(
            torch.optim.AdamW(
                self.policy.parameters(),
                lr=config.learning_rate,
                betas=(0.9, 0.99),
                weight_decay=config.weight_decay,
            )
        )

    def _open(self) -> ImageModel:
        name = self.config.model
        if name == BUILTIN:
            from scaleup.builtin import builtin_folder

            name = str(builtin_folder())
        return open_model(name, device=self.device, dtype=self.dtype)

    def _prompts(self) -> list[str]:
        """The prompts, each one once; says which ones the model does not see whole."""
        if not self.config.prompts:
            from scaleup.builtin.shapes import PROMPTS

            return list(PROMPTS)
        texts, notes = seen_by(self.model, read_prompts(self.config.prompts))
        if self.config.model == BUILTIN:
            notes += unseen_words(texts)
        for note in notes if self.is_main else ():
            print(f"prompts = {self.config.prompts!r}: {note}", file=sys.stderr)
        return texts

    def _check_compared(self) -> None:
        """Rewards that are compared within a prompt have others to be compared with; said before a
        prompt is embedded or a picture drawn.

        Raises:
            ValueError: they have not.
        """
        options = self.method.options
        if options.get("reward_mapping") != "released":
            return
        if not options.get("refresh_every"):
            self.task.check_alone(self.config.bank, "bank")
        elif self.config.group == 1:
            rows = options.get("pool") or self.config.batch
            self.task.check_alone(rows, "group, batch or pool of the method")

    def _guidance(self) -> Callable[[VelocityModel], VelocityModel]:
        weight = self.config.guidance
        return (lambda v: v) if weight == 1 else (lambda v: Guided(v, weight))

    def _anchor(self, velocity: VelocityModel) -> VelocityModel | None:
        """The base under the anchor's own guidance, for methods that ask for it."""
        weight = self.config.anchor_guidance
        if weight == 1:
            return None
        return LoraVelocity(self.student.adapters, Guided(velocity, weight), None)

    # --- processes

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, in the order of rank."""
        return rows if self.world == 1 else self.accelerator.gather(rows.contiguous())

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        return value if self.world == 1 else self.accelerator.reduce(value, "mean")

    def anywhere(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        mine = torch.tensor(float(flag), device=self.device)
        return float(self.accelerator.reduce(mine, "sum")) > 0

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return int(self.gather(torch.tensor([number], device=self.device)).max())

    def average_gradients(self) -> None:
        """Every gradient becomes its mean over processes, in one transfer."""
        if self.world == 1:
            return
        found = [p.grad for p in self.policy.parameters() if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in found]))
        start = 0
        for g in found:
            g.copy_(flat[start : start + g.numel()].reshape(g.shape))
            start += g.numel()


def start_processes(
    config: TrainConfig, logs: Path | None = None, peer_timeout: float = PEER_TIMEOUT
) -> Accelerator:
    """The accelerator, on the device and with the number of processes that were asked for; they
    are waited for up to `peer_timeout` seconds."""
    use_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if config.device == "cuda" and use_cpu:
        raise ValueError("device = 'cuda': no CUDA device is available here; allowed is 'cpu'")
    if config.precision == "fp16" and use_cpu:
        raise ValueError("precision = 'fp16' on the CPU: allowed are 'no' and 'bf16'")
    check_environment(config.processes)
    meet(config.processes, peer_timeout)
    accelerator = Accelerator(
        mixed_precision=config.precision, cpu=use_cpu, log_with=["tensorboard"] if logs else None,
        project_dir=logs,
    )  # fmt: skip
    launched = int(accelerator.num_processes)
    if launched != config.processes:
        started = os.environ.get("WORLD_SIZE", "1")
        raise ValueError(
            f"processes = {config.processes}, but {launched} run (WORLD_SIZE = {started}): allowed "
            f"is {start(config.processes)}"
        )
    if accelerator.distributed_type not in KINDS:
        raise NotImplementedError(
            f"accelerate is configured for {accelerator.distributed_type.value}: not built; "
            "allowed are one process, several that each hold the base, and FSDP of version 2"
        )
    return accelerator
