"""Samples of a model into the run folder: each with its seed, prompt, rewards and features.

Sample i has the prompt 1 + i mod P and its own noise, so it does not depend on how many processes
draw, nor on where a killed run stopped: whole chunks are drawn again, or found on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from scaleup.rewards.contract import Reward
from scaleup.samples.records import SampleWriter, read_samples
from scaleup.samples.samples import SampleSet
from scaleup.training.checkpoints import tensors_digest
from scaleup.training.draws import noise_of_seed
from scaleup.training.session import Session
from scaleup.training.task import NEW, Bank
from theory.common.signals import Stopped, release, waiting
from theory.fields.mixture import VelocityModel

BANK_SEED, COMPARISON_SEED, GRID_SEED = 0, 2**30, 2**31
# An audit's base and tuned samples share no seed, so that they are independent.
AUDIT_SEEDS = {"audit_base": 3 * 2**30, "audit_tuned": 3 * 2**30 + 2**29}
Report = Callable[[int, int], None]


def seeds_of(session: Session, offset: int, index: Tensor) -> Tensor:
    """The seeds of samples (n,), int64; runs of other seeds share none."""
    return session.config.seed * 2**32 + offset + index


def prompts_of(session: Session, index: Tensor) -> Tensor:
    """Prompt indices of samples (n,): all prompts in turn."""
    return 1 + index % (len(session.prompts) - 1)


def sampled_rows(
    session: Session, model: VelocityModel, offset: int, index: Tensor
) -> tuple[Tensor, Tensor]:
    """(x_1 (n, *event), prompt (n,)) of samples with these indices."""
    shape = session.model.event_shape
    seeds = seeds_of(session, offset, index)
    noise = torch.stack([noise_of_seed(int(s), shape) for s in seeds]).to(session.device)
    prompt = prompts_of(session, index)
    cond = torch.stack([prompt, torch.full_like(prompt, NEW)], 1).to(session.device)
    return session.task.sampled(model, noise, cond), prompt


def draw_samples(
    session: Session,
    which: str,
    model: VelocityModel,
    count: int,
    offset: int,
    features: Callable[[Tensor], Tensor] | None = None,
    also: Sequence[Reward] = (),
    report: Report | None = None,
) -> SampleSet:
    """`count` samples of a model, those on disk as they are; every process its chunks. Samples
    that another run, other code or other weights drew make room for them.

    also: rewards to record beside the run's own.

    Raises:
        ValueError: the folder's samples are damaged or another run's.
        OSError: the disk is full; what was written stays.
    """
    task, chunk = session.task, session.config.chunk
    folder, known = session.folder.path, session.prompts.texts
    drawn_by = "-".join((*drawer(session), *_weights(session, model)))
    with SampleWriter(
        folder, which, known, session.rank, session.world, shard=chunk, made_by=drawn_by
    ) as writer:
        there = set(writer.written.tolist())
        for number, start in enumerate(range(0, count, chunk)):
            _stop_where_asked(session)
            index = torch.arange(start, min(start + chunk, count))
            mine = number % session.world == session.rank and not there >= set(index.tolist())
            # Of a sharded network every process holds a part: all run it, or none.
            if session.anywhere(mine) if session.sharded else mine:
                x1, prompt = sampled_rows(session, model, offset, index)
            if mine:
                with torch.no_grad():
                    texts = task.texts(prompt)
                    images = task.pictures(x1, texts)
                    rewards = task.scorer.parts(images, texts)
                    rewards |= {r.label: r(images, texts) for r in also}
                    found = None if features is None else features(images)
                seeds = seeds_of(session, offset, index)
                pictures = (255 * images).round().to(torch.uint8)
                writer.add(index, seeds, prompt, rewards, pictures, x1, found)
                writer.flush()
            if report is not None:
                report(min(start + chunk, count), count)
    session.accelerator.wait_for_everyone()
    return drawn_samples(folder, which, task.scorer.label)


def drawn_samples(folder: Path, which: str, own: str) -> SampleSet:
    """What was drawn; files keep no order: the reward that the run trains on comes first.

    Raises:
        ValueError: as `read_samples`.
    """
    drawn = read_samples(folder, which)
    return replace(drawn, rewards={own: drawn.rewards[own], **drawn.rewards})


def drawer(session: Session) -> tuple[str, str]:
    """(the run whose folder it is, the run as files and code are now): what names samples' maker,
    before the weights."""
    return session.folder.digest, session.config.digest


def _weights(session: Session, model: VelocityModel) -> tuple[str, ...]:
    """The student's, by the first process for all; the base's are part of the run."""
    if model is session.base:
        return ()
    mine = int(tensors_digest(session.policy.tensors())[:12], 16)
    first = session.gather(torch.tensor([mine], device=session.device))[0]
    return (f"{int(first):012x}",)


def _stop_where_asked(session: Session) -> None:
    """Between chunks, which are on disk: a signal need not wait for the step that draws.

    Raises:
        Stopped: a signal came; to any process, where all run one network.
    """
    number = session.largest(waiting()) if session.sharded else waiting()
    release()
    if number:
        raise Stopped(number)


def draw_bank(session: Session, report: Report | None = None) -> Bank:
    """The base samples that training draws from, on the run's device."""
    config = session.config
    found = draw_samples(session, "bank", session.base, config.bank, BANK_SEED, report=report)
    assert found.x1 is not None
    reward = found.rewards[session.task.scorer.label]
    return Bank(*(v.to(session.device) for v in (found.x1, found.prompt_index, reward)))
