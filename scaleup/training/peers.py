"""Processes that train together: as many as asked for, and all there, before any waits for another.

torchrun says in the environment how many there are (WORLD_SIZE), which one this is (RANK) and
where they meet (MASTER_ADDR, MASTER_PORT); what an earlier session left there would be waited for
as well.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from scaleup.adapter.sharding import sharding_plugin
from scaleup.training.config import TrainConfig
from theory.common.checks import check_positive

PEER_TIMEOUT, POLL = 15.0, 0.1
# Where accelerate looks for the number of processes, in this order.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")
KINDS = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.FSDP,
)
# What a collective says, gloo's or NCCL's, where another process is gone.
LOST_PEER = ("reset by peer", "closed by peer", "broken pipe", "remote process exited")

_meeting: list[Any] = []  # rank 0 holds what the others have come to


def start(processes: int) -> str:
    """The command that starts so many."""
    return (
        f"`.venv/bin/torchrun --standalone --nproc_per_node {processes} -m scaleup train ...` (on "
        "a CPU with ACCELERATE_USE_CPU=true; accelerate launch --cpu starts one)"
    )


class Processes:
    """This process among those that train together, on one accelerator.

    Gradients are averaged by hand: LoRA's are small, and a wrapped network could not switch
    adapters. plugin: accelerate's FSDP configuration; None where all processes hold the base whole.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.plugin = accelerator, sharding_plugin(accelerator)
        self.device, self.sharded = accelerator.device, self.plugin is not None
        self.rank, self.world = int(accelerator.process_index), int(accelerator.num_processes)
        self.is_main = bool(accelerator.is_main_process)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, in the order of rank."""
        return rows if self.world == 1 else self.accelerator.gather(rows.contiguous())

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        return value if self.world == 1 else self.accelerator.reduce(value, "mean")

    def anywhere(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return int(self.gather(torch.tensor([number], device=self.device)).max())

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every gradient becomes its mean over processes, in one transfer."""
        if self.world == 1:
            return
        found = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in found]))
        for g, mean in zip(found, flat.split([g.numel() for g in found]), strict=True):
            g.copy_(mean.reshape(g.shape))


def check_environment(processes: int) -> None:
    """The environment names as many processes as were asked for.

    Raises:
        ValueError: it names another number, or not which one this is.
    """
    name = next((name for name in SIZES if os.environ.get(name, "")), None)
    if name is None:
        return  # one; whoever asked for more is told so by the accelerator's number
    if os.environ[name] != str(processes):
        found = os.environ[name]
        remedy = f"`unset {name}`" if processes == 1 else start(processes)
        raise ValueError(
            f"processes must be {name} = {found}, as in the environment (left there by an earlier "
            f"session?), got {processes}: need {remedy}, or --processes {found} where so many are "
            "started"
        )
    missing = [key for key in MEETING if key not in os.environ]
    if processes > 1 and name == "WORLD_SIZE" and missing:
        raise ValueError(
            f"processes = {processes} and WORLD_SIZE = {processes}, but {', '.join(missing)} "
            f"not in the environment: no launcher started this process; need {start(processes)}"
        )


def meet(processes: int, seconds: float) -> None:
    """Wait until all processes are there, at most so long.

    Raises:
        ValueError: seconds is no positive number, or some process did not come in time.
    """
    check_positive("peer_timeout", seconds)
    known = all(key in os.environ for key in ("WORLD_SIZE", *MEETING))
    if processes == 1 or not known or torch.distributed.is_initialized():
        return
    until = time.monotonic() + seconds
    try:
        if os.environ["RANK"] != "0":
            _reach(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), until)
        store, _, _ = next(rendezvous("env://", timeout=_left(until)))
        _meeting.append(store)
        if store.add("plumbline/met", 1) == processes:
            store.set("plumbline/all", "1")
        store.wait(["plumbline/all"], _left(until))
    except (RuntimeError, OSError, ValueError) as error:
        place = ", ".join(f"{key} = {os.environ[key]}" for key in MEETING)
        raise ValueError(
            f"processes = {processes}: not all of them came within {seconds:g} s ({place}): need "
            f"{start(processes)}, and --peer-timeout SECONDS where they start slowly"
        ) from error


def start_processes(
    config: TrainConfig, logs: Path | None = None, peer_timeout: float = PEER_TIMEOUT
) -> Accelerator:
    """The accelerator, on the device and with the number of processes that were asked for; they
    are waited for up to `peer_timeout` seconds."""
    use_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if config.device == "cuda" and use_cpu:
        raise ValueError("device must be 'cpu', got 'cuda': no CUDA device is available here")
    if config.precision == "fp16" and use_cpu:
        raise ValueError("precision must be 'no' or 'bf16' on the CPU, got 'fp16'")
    check_environment(config.processes)
    meet(config.processes, peer_timeout)
    accelerator = Accelerator(
        mixed_precision=config.precision, cpu=use_cpu, log_with=["tensorboard"] if logs else None,
        project_dir=logs,
    )  # fmt: skip
    launched = int(accelerator.num_processes)
    if launched != config.processes:
        raise ValueError(
            f"processes = {config.processes}, but {launched} run (WORLD_SIZE = "
            f"{os.environ.get('WORLD_SIZE', '1')}): need {start(config.processes)}"
        )
    if accelerator.distributed_type not in KINDS:
        raise NotImplementedError(
            "accelerate must be configured for one process, several that each hold the base, or "
            f"FSDP of version 2, got {accelerator.distributed_type.value}, which is not built"
        )
    return accelerator


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process ended: what gloo and NCCL say then."""
    return any(text in str(error).lower() for text in LOST_PEER)


def _left(until: float) -> timedelta:
    return timedelta(seconds=max(0.1, until - time.monotonic()))


def _reach(address: str, port: int, until: float) -> None:
    """Wait until somebody listens there: torch's own waiting prints pages.

    Raises:
        OSError: nobody does.
    """
    while True:
        try:
            socket.create_connection((address, port), _left(until).total_seconds()).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL)
