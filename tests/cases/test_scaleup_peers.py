"""C2: processes that are not there are not waited for."""

import multiprocessing
import os
import signal
import socket
import time

import pytest
import torch

from scaleup.__main__ import COMMANDS
from scaleup.training.config import TrainConfig
from scaleup.training.peers import (
    MEETING,
    PEER_TIMEOUT,
    SIZES,
    check_environment,
    meet,
    start_processes,
)
from scaleup.training.run import stops_explained
from scaleup.training.runfolder import RunFolder
from tests.scaleup.conftest import fresh_accelerate  # noqa: F401
from theory.common.console import parse


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    for key in (*SIZES, *MEETING, "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)


@pytest.mark.parametrize("name", SIZES)
def test_c2_a_number_that_was_left_in_the_environment(name, monkeypatch):
    monkeypatch.setenv(name, "2")
    with pytest.raises(
        ValueError, match=rf"processes must be {name} = 2, .* got 1: need `unset {name}`, or"
    ):
        start_processes(TrainConfig(device="cpu"))
    with pytest.raises(
        ValueError, match=rf"processes must be {name} = 2, .* got 3: .*nproc_per_node 3"
    ):
        start_processes(TrainConfig(device="cpu", processes=3, batch=33))
    monkeypatch.setenv(name, "1")
    check_environment(1)


def test_c2_no_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        ValueError, match="MASTER_ADDR, MASTER_PORT not in the environment: no laun"
    ):
        start_processes(TrainConfig(device="cpu", processes=2))
    with pytest.raises(ValueError, match="peer_timeout must be a finite number > 0, got 0"):
        meet(2, 0)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def surroundings(rank, port, processes=2):
    return {
        "WORLD_SIZE": str(processes), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1])
def test_c2_a_peer_that_does_not_come(rank, monkeypatch):
    options, _ = parse("scaleup", None, COMMANDS, ["train"])
    assert options.peer_timeout == PEER_TIMEOUT <= 20
    for key, value in surroundings(rank, free_port()).items():
        monkeypatch.setenv(key, value)
    started = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"not all of them came within 1 s \(RANK = {rank}, .* --peer-timeout"
    ):
        meet(2, 1.0)
    assert time.monotonic() - started < 10


def come(rank, port, queue):
    os.environ.update(surroundings(rank, port))
    time.sleep(0.3 * (1 - rank))  # rank 1 comes before there is anybody
    meet(2, 60.0)
    queue.put(rank)


def test_c2_all_that_come_in_time_go_on():
    context, port = multiprocessing.get_context("fork"), free_port()
    queue = context.Queue()
    processes = [context.Process(target=come, args=(rank, port, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=60) for _ in processes) == [0, 1]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def lose(rank, port, queue):
    os.environ.update(surroundings(rank, port))
    torch.distributed.init_process_group("gloo")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        for _ in range(50):
            torch.distributed.all_reduce(torch.ones(1))
    except RuntimeError as error:
        queue.put(str(error))


def test_c2_a_peer_that_dies_is_said_so(tmp_path):
    context, port = multiprocessing.get_context("fork"), free_port()
    queue = context.Queue()
    processes = [context.Process(target=lose, args=(rank, port, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    said = queue.get(timeout=60)
    for process in processes:
        process.join(60)
    folder = RunFolder(tmp_path, TrainConfig(processes=2))
    message = r"another of the 2 processes ended.*starts again"
    with pytest.raises(OSError, match=message) as ended, stops_explained(folder):
        raise RuntimeError(said)
    assert str(ended.value.__cause__) == said
    with pytest.raises(RuntimeError, match="mat1"), stops_explained(folder):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
