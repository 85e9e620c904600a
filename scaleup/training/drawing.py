"""Samples of a model into the run folder: each with its seed, prompt, rewards and features.

Sample i has the prompt 1 + i mod P and its own noise, so it does not depend on how many processes
draw, nor on where a killed run stopped: whole chunks are drawn again, or found on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scaleup.rewards.contract import Reward
from scaleup.samples.records import SampleWriter, read_samples
from scaleup.samples.samples import SampleSet
from scaleup.training.config import TrainConfig
from scaleup.training.draws import noise_of_seed
from scaleup.training.peers import Processes
from scaleup.training.runfolder import RunFolder
from scaleup.training.task import Bank, PromptedTask
from theory.common.signals import Stopped, release, waiting
from theory.fields.mixture import VelocityModel

BANK_SEED, COMPARISON_SEED, GRID_SEED = 0, 2**30, 2**31
# An audit's base and tuned samples share no seed, so that they are independent.
AUDIT_SEEDS = {"audit_base": 3 * 2**30, "audit_tuned": 3 * 2**30 + 2**29}
Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Drawer:
    """Draws a run's models into its folder, every process its chunks."""

    config: TrainConfig
    folder: RunFolder
    task: PromptedTask
    processes: Processes

    @property
    def name(self) -> tuple[str, str]:
        """(the run whose folder it is, the run as files and code are now): what names samples'
        maker, before the weights."""
        return self.folder.digest, self.config.digest

    def seeds(self, offset: int, index: Tensor) -> Tensor:
        """The seeds of samples (n,), int64; runs of other seeds share none."""
        return self.config.seed * 2**32 + offset + index

    def prompts(self, index: Tensor) -> Tensor:
        """Prompt indices of samples (n,): all prompts in turn."""
        return 1 + index % (len(self.task.prompts) - 1)

    def rows(self, model: VelocityModel, offset: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """(x_1 (n, *event), prompt (n,)) of samples with these indices."""
        shape, device = self.task.event_shape, self.processes.device
        noise = [noise_of_seed(int(s), shape) for s in self.seeds(offset, index)]
        prompt = self.prompts(index)
        x1 = self.task.sampled(model, torch.stack(noise).to(device), prompt[:, None].to(device))
        return x1, prompt

    def samples(
        self,
        which: str,
        model: VelocityModel,
        count: int,
        offset: int,
        *,
        weights: str = "",
        features: Callable[[Tensor], Tensor] | None = None,
        also: Sequence[Reward] = (),
        report: Report | None = None,
    ) -> SampleSet:
        """`count` samples of a model, those on disk as they are. Samples that another run, other
        code or other weights drew make room for them.

        weights: names the model's, where they are no part of the run.
        also: rewards to record beside the run's own.

        Raises:
            ValueError: the folder's samples are damaged or another run's.
            OSError: the disk is full; what was written stays.
        """
        task, chunk, processes = self.task, self.config.chunk, self.processes
        folder, known = self.folder.path, task.prompts.texts
        drawn_by = "-".join(filter(None, (*self.name, weights)))
        with SampleWriter(
            folder, which, known, processes.rank, processes.world, drawn_by
        ) as writer:
            there = set(writer.written.tolist())
            for number, start in enumerate(range(0, count, chunk)):
                self._stop_where_asked()
                index = torch.arange(start, min(start + chunk, count))
                mine = number % processes.world == processes.rank
                mine = mine and not there >= set(index.tolist())
                # Of a sharded network every process holds a part: all run it, or none.
                if processes.anywhere(mine) if processes.sharded else mine:
                    x1, prompt = self.rows(model, offset, index)
                if mine:
                    with torch.no_grad():
                        texts = task.texts(prompt)
                        images = task.pictures(x1, texts)
                        rewards = task.scorer.parts(images, texts)
                        rewards |= {r.label: r(images, texts) for r in also}
                        found = None if features is None else features(images)
                    seeds = self.seeds(offset, index)
                    pictures = (255 * images).round().to(torch.uint8)
                    writer.add(index, seeds, prompt, rewards, pictures, x1, found)
                if report is not None:
                    report(min(start + chunk, count), count)
        processes.accelerator.wait_for_everyone()
        return drawn_samples(folder, which, task.scorer.label)

    def bank(self, model: VelocityModel, report: Report | None = None) -> Bank:
        """The base samples that training draws from, on the run's device."""
        found = self.samples("bank", model, self.config.bank, BANK_SEED, report=report)
        assert found.x1 is not None
        reward, device = found.rewards[self.task.scorer.label], self.processes.device
        return Bank(found.x1.to(device), found.prompt_index.to(device), reward.to(device))

    def _stop_where_asked(self) -> None:
        """Between chunks, which are on disk: a signal need not wait for the step that draws.

        Raises:
            Stopped: a signal came; to any process, where all run one network.
        """
        number = self.processes.largest(waiting()) if self.processes.sharded else waiting()
        release()
        if number:
            raise Stopped(number)


def drawn_samples(folder: Path, which: str, own: str) -> SampleSet:
    """What was drawn; files keep no order: the reward that the run trains on comes first.

    Raises:
        ValueError: as `read_samples`.
    """
    drawn = read_samples(folder, which)
    return replace(drawn, rewards={own: drawn.rewards[own], **drawn.rewards})
