"""A run's parts, put together once: processes, model, LoRA, task, method, optimiser."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from scaleup.adapter import Guided, ImageModel, open_model
from scaleup.adapter.lora import LoraVelocity, lora_student
from scaleup.adapter.sharding import shard_base
from scaleup.builtin import builtin_folder
from scaleup.builtin.shapes import PROMPTS
from scaleup.rewards.contract.checked import Checked
from scaleup.samples.samples import SampleSet
from scaleup.training.config import BUILTIN, TrainConfig, read_prompts
from scaleup.training.drawing import Drawer, Report
from scaleup.training.draws import ShardedDraws, generator_of
from scaleup.training.legible import distinct_prompts, unseen_words
from scaleup.training.peers import PEER_TIMEOUT, Processes, start_processes
from scaleup.training.runfolder import RunFolder
from scaleup.training.task import PromptedTask, Sampling
from theory.methods import Execution, Policy
from theory.methods.contract import returned
from theory.methods.contract.states import digest_of_tensors

BASE_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Session(Processes):
    """Everything that a run trains with, of a configuration that was checked.

    Base weights are held in the dtype of `precision`, LoRA's in float32; the network runs under
    autocast where the two differ. The base is whole on every process, or sharded where accelerate
    is configured for FSDP (`scaleup.adapter.sharding`).

    peer_timeout: seconds in which all processes must come.
    model: one that is open already, on the run's device and in its dtype, without adapters; else
    the one that the configuration names.
    bank_report: called as the bank is drawn.

    Raises:
        ValueError: another number of processes than asked for, or not all in time; and what
            `open_model` and the method raise.
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
        super().__init__(start_processes(config, folder.path, peer_timeout))
        self.config, self.folder, self.method = config, folder, config.parsed_method
        self.dtype = BASE_DTYPES[config.precision]
        self.bank_report: Report | None = None
        self.model = self._open() if model is None else model
        self.prompts = self.model.prompts(self._prompts())
        self.student, self.base, self.task = self._models()
        self.drawer = Drawer(config, folder, self.task, self)
        self.draws = ShardedDraws(
            generator_of("method", config.seed),
            rank=self.rank,
            shards=self.world,
            device=self.device,
        )
        self.policy = self._policy()
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
        return open_model(
            str(builtin_folder()) if name == BUILTIN else name,
            device=self.device,
            dtype=self.dtype,
        )

    def _prompts(self) -> list[str]:
        """The prompts, each one once; says which ones the model does not see whole."""
        if not self.config.prompts:
            return list(PROMPTS)
        texts, notes = distinct_prompts(self.model, read_prompts(self.config.prompts))
        if self.config.model == BUILTIN:
            notes += unseen_words(texts)
        for note in notes if self.is_main else ():
            print(f"prompts = {self.config.prompts!r}: {note}", file=sys.stderr)
        return texts

    def _models(self) -> tuple[LoraVelocity, LoraVelocity, PromptedTask]:
        """The student, the base that it starts from, and the task whose samples are the base's."""
        config, velocity = self.config, self.model.velocity(self.prompts)
        if config.precision != "no":
            velocity.autocast = self.dtype
        student = lora_student(
            self.model,
            velocity,
            config.lora,
            generator_of("lora", config.seed),
            guidance=config.guidance,
        )
        student.adapters.rows_at_once = config.chunk
        if config.gradient_checkpointing:
            student.adapters.recompute_activations()
        base = LoraVelocity(student.adapters, student.model, None)
        guided, weight = None, config.anchor_guidance
        if weight != 1:  # the base under the anchor's own guidance, for methods that ask for it
            guided = LoraVelocity(student.adapters, Guided(velocity, weight), None)
        task = PromptedTask(
            self.model,
            base,
            self.prompts,
            Checked(config.parsed_reward),
            Sampling(config.sampling_steps, config.solver, config.chunk, config.group),
            execution=Execution(
                shards=self.world,
                gather=self.gather,
                rows_at_once=config.rows,
                recompute=True,
                scaled_gradients=self.accelerator.scaler is not None,
            ),
            guided=guided,
            draw_bank=lambda: self.drawer.bank(self.base, self.bank_report),
        )
        return student, base, task

    def _policy(self) -> Policy:
        """The method's, and the base sharded where that is asked for."""
        self._check_compared()
        policy = returned.setup(self.method, self.student, self.task, self.draws)
        if self.plugin is not None:  # with all adapters there, the old copy's too
            shard_base(self.accelerator, self.plugin, self.model.network)
        return policy

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

    # --- samples

    def draw_both(
        self,
        seeds: Mapping[str, int],
        count: int,
        report: Callable[[int, str], None],
        **options: Any,
    ) -> list[SampleSet]:
        """Samples of the base, then of the student as it is now (`Drawer.samples`); seeds: the
        offset of each, by what it is kept as. report: called with the pictures so far, and words.
        """

        def told(before: int, which: str, done: int, total: int) -> None:
            report(before * total + done, f"{which} {done}/{total}")

        models = zip(seeds.items(), (self.base, self.student), strict=True)
        return [
            self.drawer.samples(
                which,
                model,
                count,
                seed,
                weights="" if model is self.base else self._weights(),
                report=partial(told, before, which),
                **options,
            )
            for before, ((which, seed), model) in enumerate(models)
        ]

    def _weights(self) -> str:
        """A digest of the student, by the first process for all; the base is part of the run."""
        mine = int(digest_of_tensors(self.policy.tensors(), "")[:12], 16)
        return f"{int(self.gather(torch.tensor([mine], device=self.device))[0]):012x}"
