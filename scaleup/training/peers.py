"""Processes that train together: as many as asked for, and all there, before any waits for another.

torchrun says in the environment how many there are (WORLD_SIZE), which one this is (RANK) and
where they meet (MASTER_ADDR, MASTER_PORT); what an earlier session left there would be waited for
as well.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from typing import Any

import torch
from torch.distributed.rendezvous import rendezvous

from theory.common.checks import check_positive

PEER_TIMEOUT, POLL = 15.0, 0.1
# Where accelerate looks for the number of processes, in this order.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")

_meeting: list[Any] = []  # rank 0 holds what the others have come to


def start(processes: int) -> str:
    """The command that starts so many."""
    return (
        f"`.venv/bin/torchrun --standalone --nproc_per_node {processes} -m scaleup train ...` (on "
        "a CPU with ACCELERATE_USE_CPU=true; accelerate launch --cpu starts one)"
    )


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
            f"processes = {processes}, but {name} = {found} in the environment (left there by an "
            f"earlier session?): allowed is {remedy}, or --processes {found} where so many are "
            "started"
        )
    missing = [key for key in MEETING if key not in os.environ]
    if processes > 1 and name == "WORLD_SIZE" and missing:
        raise ValueError(
            f"processes = {processes} and WORLD_SIZE = {processes}, but {', '.join(missing)} "
            f"not in the environment: no launcher started this process; allowed is "
            f"{start(processes)}"
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
            f"processes = {processes}: not all of them came within {seconds:g} s ({place}): "
            f"allowed is {start(processes)}, and --peer-timeout SECONDS where they start slowly"
        ) from error


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
