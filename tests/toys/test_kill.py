"""One real SIGKILL between two checkpoints."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.toys.small import TINY, same_result, trained
from toys.training.config import RunConfig
from toys.training.files import read_tensors
from toys.training.runs import Run

STEPS = 600
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    config = RunConfig.checked(
        method="flow_matching", problem="note_1d", **{**TINY, "steps": STEPS}
    )
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = (
        "train --method flow_matching --problem note_1d --processes 1 "
        f"--steps {STEPS} --batch {TINY['batch']} --width {TINY['width']} --out"
    ).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "toys", *command, str(out)], cwd=ROOT,
        env={**os.environ, "PLUMBLINE_CHECKPOINT_SECONDS": "0.05"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not list(out.glob("groups/*/checkpoint.safetensors")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (checkpoint,) = out.glob("groups/*/checkpoint.safetensors")
    assert 0 < int(read_tensors(checkpoint)[1]["step"]) < STEPS
    assert not Run(out, config).is_finished
    assert trained(out, [config]) == trained(whole, [config]) == 1
    assert same_result(out, whole, [config])
