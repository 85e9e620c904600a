"""Both signals as an orderly end, in processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from theory.common.signals import Stopped

ROOT = Path(__file__).resolve().parents[3]
BOTH = {signal.SIGINT: ("SIGINT", 130), signal.SIGTERM: ("SIGTERM", 143)}
HEAD = "import sys, time, os, signal as s\nfrom theory.common import signals\n"
TAIL = "\nsys.exit(signals.run_main(main))\n"


def started(body: str) -> subprocess.Popen:
    """A program that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    said, error = process.communicate(timeout=30)
    return process.returncode, said, error


@pytest.mark.parametrize("number", BOTH)
def test_unwinds_says_one_line_and_gives_the_status(number):
    process = started(
        "def main():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(30)\n"
        "    except Exception:\n"
        "        print('swallowed')\n"
        "    except signals.Stopped as stop:\n"
        "        stop.add_note('step 3 is saved')\n"
        "        raise\n"
        "    finally:\n"
        "        print('saved')\n" + TAIL
    )
    process.send_signal(number)
    name, status = BOTH[number]
    assert ended(process) == (status, "saved\n", f"stopped by {name}; step 3 is saved\n")


def test_before_main_it_ends_at_once():
    process = started("signals.catch()\nprint('ready', flush=True)\ntime.sleep(30)")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", "stopped by SIGTERM\n")


def test_held_work_is_finished_and_a_second_signal_breaks_nothing():
    process = started(
        "def main():\n"
        "    try:\n"
        "        with signals.held(), signals.held():\n"
        "            print('ready', flush=True)\n"
        "            time.sleep(0.5)\n"
        "            print('step done')\n"
        "        print('one more')\n"
        "    finally:\n"
        "        os.kill(os.getpid(), s.SIGTERM)\n"
        "        print('saved')\n" + TAIL
    )
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "step done\nsaved\n", "stopped by SIGINT\n")


def test_a_signal_raises_again_where_the_first_was_swallowed():
    """As Python itself does with what is raised inside a __del__."""
    process = started(
        "signals.SAVING_SECONDS = 0.1\n"
        "def main():\n"
        "    for _ in range(2):\n"
        "        try:\n"
        "            print('ready', flush=True)\n"
        "            time.sleep(30)\n"
        "        except signals.Stopped:\n"
        "            pass\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(30)\n" + TAIL
    )
    for left in (2, 1, 0):
        time.sleep(0.15)
        process.send_signal(signal.SIGINT)
        if left:
            assert process.stdout.readline() == "ready\n"
    assert ended(process)[::2] == (130, "stopped by SIGINT\n")


def test_workers_leave_the_terminals_signal_to_their_parent_and_end_with_it():
    process = started(
        "import multiprocessing as m\n"
        "def work(ready):\n"
        "    signals.as_worker()\n"
        "    ready.set()\n"
        "    os.kill(os.getpid(), s.SIGINT)\n"
        "    time.sleep(30)\n"
        "def main():\n"
        "    context = m.get_context('fork')\n"
        "    ready = context.Event()\n"
        "    worker = context.Process(target=work, args=(ready,))\n"
        "    worker.start()\n"
        "    ready.wait()\n"
        "    try:\n"
        "        time.sleep(0.1)\n"
        "        assert worker.is_alive()\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(30)\n"
        "    finally:\n"
        "        signals.end_workers()\n"
        "        worker.join(5)\n"
        "        print(worker.exitcode)\n" + TAIL
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "-15\n", "stopped by SIGTERM\n")


def test_what_raises_is_no_exception_and_a_keyboard_interrupt():
    assert issubclass(Stopped, KeyboardInterrupt)
    assert not issubclass(Stopped, Exception)
