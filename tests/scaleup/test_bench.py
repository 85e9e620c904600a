"""The benches of scale-up: their tables, their kill, their controls; the measuring is the bench."""

import json
import re
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.rows import Row, table
from benchmarks.scaleup import (
    PARTS,
    audit,
    ddpo,
    gflownet,
    gpu,
    models,
    processes,
    resume,
    run,
    sd15,
    signals,
    small,
)
from tests.scaleup.tiny import save
from tests.scaleup.tiny import sd15 as tiny_pipeline
from theory.common.files import write_json
from theory.common.tolerances import ALGEBRA, FLOAT32
from theory.methods import Draws, ProblemTask
from theory.methods.contract.perturbed import Perturbed
from theory.methods.policy_gradient.ddpo import DDPO
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem

MET, MISSED = Row("a", "1", "2", True, {"x": 2.0}), Row("b", "3", "2", False)
ABSENT = Row("c", "4", "no GPU here", None)


# --- the command


@pytest.mark.parametrize(
    ("only", "rows", "status"),
    [
        ("gpu", [MET], 0),
        ("gpu", [MET, MISSED], 1),
        ("gpu", [ABSENT], 2),
        (None, [MET], 0),
        (None, [MISSED], 1),
        (None, [MET, ABSENT], 0),
    ],
)
def test_the_exit_status(monkeypatch, capsys, only, rows, status):
    for part in (audit, ddpo, gflownet, gpu, processes, resume, sd15, signals):
        monkeypatch.setattr(part, "measure", lambda: rows)
    monkeypatch.setattr(resume, "measure_gflownets", lambda: rows)
    assert run(Namespace(only=only, json=True)) == status
    times = len(PARTS) if only is None else 1
    assert json.loads(capsys.readouterr().out) == [asdict(row) for row in rows * times]


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "measure", lambda: [MET, MISSED, ABSENT])
    assert main(["scaleup", "--only", "gpu"]) == 2
    out = capsys.readouterr().out
    assert out.strip() == table([MET, MISSED, ABSENT])
    lines = [line for line in out.splitlines() if line.startswith("│")]
    for line, verdict in zip(lines, ("met", "MISSED", "not measured"), strict=True):
        assert line.split("│")[4].strip() == verdict


def test_an_unknown_bench_is_refused(capsys):
    assert main(["scaleup", "--only", "speed"]) == 2
    assert re.search("--only must be .*audit, processes, resume.*'speed'", capsys.readouterr().err)


# --- kill and resume


CHILD = """
import sys
from pathlib import Path
from benchmarks.scaleup.resume import AtWrite, kill_at
from theory.common.files import write_atomically
kill_at(AtWrite("step-", 2, sys.argv[2]))
for number in range(1, 4):
    write_atomically(Path(sys.argv[1]) / "metrics.csv", b"m" * 100)
    write_atomically(Path(sys.argv[1]) / f"step-{number}", b"s" * 100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "draft"), [("half", 50), ("whole", 100), ("placed", None)])
def test_a_process_kills_itself_inside_the_write(tmp_path, stage, draft):
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), stage])
    assert done.returncode == -signal.SIGKILL
    left = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    drafts = [size for name, size in left.items() if name.endswith(".part")]
    assert drafts == ([] if draft is None else [draft])
    placed = {"step-1", "metrics.csv"} | ({"step-2"} if draft is None else set())
    assert {name for name in left if not name.endswith(".part")} == placed


def test_moments_are_those_that_the_floor_names():
    found = [*resume.moments("nft", resume.NFT), *resume.moments("ddpo", resume.DDPO)]
    assert len(found) == len(set(found)) == 20
    writes = [m for m in found if isinstance(m, resume.AtWrite) and m.start == "step-"]
    assert len(writes) == 5
    assert {m.stage for m in writes} == {"half", "whole", "placed"}
    assert found.count(resume.BEFORE_FIRST) == 1
    assert found == [
        *resume.moments("nft", resume.NFT), *resume.moments("ddpo", resume.DDPO)
    ]  # fmt: skip


def test_moments_of_gflownets():
    found = [m for n, (_, run) in resume.GFLOWNETS.items() for m in resume.moments(n, run)]
    assert len(found) == 10
    writes = {m.stage for m in found if isinstance(m, resume.AtWrite)}
    assert writes == {"half", "whole", "placed"}


def test_an_epoch_sees_the_same_transitions_of_both_methods():
    nabla = parse_method(gflownet.NABLA[1])
    ours = gflownet.SubsetDDPO(steps=gflownet.STEPS, sigma_end=gflownet.SIGMA_END)
    assert (nabla.steps, nabla.sigma_end) == (ours.steps, ours.sigma_end)
    assert nabla.subset == gflownet.SUBSET == gflownet.STEPS // 10
    # With all transitions in the subset, DDPO's own loss: a batch and its policy by hand.
    problem = load_problem("note_1d")
    double = torch.float64
    task = ProblemTask(
        [problem], dtype=double, auxiliary_maker=lambda n, _: Perturbed(zero, 1, 1, n)
    )
    student = Perturbed(problem.base_field, 1, 1, 1)
    whole = DDPO(steps=gflownet.SUBSET, sigma_end=0.1)
    part = gflownet.SubsetDDPO(steps=gflownet.SUBSET, sigma_end=0.1)
    policy = whole.setup(student, task, Draws.seeded([0], double))
    batch = part.collect(policy, task, 6, Draws.seeded([1], double))
    assert batch["index"].tolist() == [list(range(gflownet.SUBSET))] * 6
    losses = [method.loss(policy, task, batch)[0].detach() for method in (part, whole)]
    assert ALGEBRA.holds(losses[0], losses[1], 1.0)


def zero(x, t, cond):
    return x.new_zeros(len(x), 1)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(small.PROMPTS), encoding="utf-8")
    few = {"steps": 3, "checkpoint_every": 1, "evaluate": 8, "batch": 4, "sampling_steps": 2}
    return {
        **resume.OPTIONS, **few,
        "method": "nft:nft_beta=0.5,reward_mapping=released,refresh_every=2,pool=12",
        "model": save(tiny_pipeline(), folder / "tiny"), "prompts": str(prompts), "device": "cpu",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_run_killed_inside_a_checkpoints_write_ends_the_same(options, tmp_path):
    when = [resume.AtWrite("step-", 3)]
    row = resume.killed_and_resumed("tiny", options, when, tmp_path)
    assert row.met
    assert row.figures["moments"] == [
        {"moment": "step- 3 half-written", "checkpoint": 1, "different": []}
    ]
    whole = next((tmp_path / "whole").glob("*/done.json")).parent
    expected = resume.finished(whole)
    for name in ("lora/pytorch_lora_weights.safetensors", "metrics.csv"):
        assert name in expected
        data = (whole / name).read_bytes()
        (whole / name).write_bytes(data[:-1] + b"~")  # the comparison sees one byte
        assert resume.different(expected, resume.finished(whole)) == [name]
        (whole / name).write_bytes(data)


def test_what_differs_is_named():
    assert resume.different({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]


# --- two processes


def folder_of(out: Path, losses: list[float], world: int) -> Path:
    """What a run leaves of losses and processes."""
    lines = "\n".join(f"{loss!r},1.0" for loss in losses)
    out.mkdir(parents=True)
    (out / "metrics.csv").write_text(f"loss,gradient_norm\n{lines}\n")
    for rank in range(world):
        (out / "samples" / "tuned" / f"rank-{rank:05d}").mkdir(parents=True)
    write_json(out / "done.json", {"processes": world})
    return out


@pytest.mark.parametrize(
    ("factor", "worlds", "met"),
    [(1 + FLOAT32.rtol / 2, (1, 2), True), (1 + 2 * FLOAT32.rtol, (1, 2), False),
     (1.0, (1, 1), False)],
)  # fmt: skip
def test_losses_and_the_number_of_processes_must_agree(monkeypatch, tmp_path, factor, worlds, met):
    def trained(options, out):
        number = options["processes"]
        losses = [2.0, 1.0] if number == 1 else [2.0, factor]
        return folder_of(out, losses, worlds[number - 1])

    monkeypatch.setattr(processes, "trained", trained)
    row = processes.agreement("a method", {"steps": 2}, tmp_path)
    assert row.met is met
    assert row.figures["worlds"] == list(worlds)


def test_samples_of_fewer_processes_are_refused(tmp_path):
    folder = folder_of(tmp_path / "run", [1.0], 1)
    write_json(folder / "done.json", {"processes": 2})
    with pytest.raises(ValueError, match="2 processes trained, 1 wrote samples"):
        processes.world_of(folder)


# --- sizes


def test_full_size_is_the_published_one():
    """Parameters of Stable Diffusion 1.5's UNet, autoencoder and text encoder."""
    with torch.device("meta"):
        pipe = models.sd15()
    found = [sum(p.numel() for p in m.parameters()) for m in (pipe.unet, pipe.vae)]
    assert found == [859_520_964, 83_653_863]
    assert sum(p.numel() for p in pipe.text_encoder.parameters()) == 123_060_480


def test_steps_of_both_methods_on_one_model():
    found = sd15.steps_at("tiny_sd15")
    assert found["moved"].keys() == found["losses"].keys() == sd15.METHODS.keys()
    assert all(moved > 0 for moved in found["moved"].values())
    assert small.peak_memory() / 2 < found["peak_bytes"] <= small.peak_memory()


# --- DDPO's peer


def test_a_peer_that_fails_says_why():
    with pytest.raises(ValueError, match="no such module as trl"):
        ddpo.Peer([sys.executable, "-c", "raise ImportError('no such module as trl')"])


def test_where_trl_cannot_be_had_the_row_says_so(monkeypatch):
    def refuse():
        raise OSError("trl 0.23.1 cannot be installed: no index")

    monkeypatch.setattr(ddpo, "trl_python", refuse)
    (row,) = ddpo.measure()
    assert row.met is None
    assert "no index" in row.measured


# --- GPU


def test_without_a_gpu_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [row.met for row in gpu.measure()] == [None]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny_sd15", "tiny_sd3"])
def test_the_gpu_benchs_path_and_its_table(monkeypatch, tmp_path, size):
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "OPTIONS", {**gpu.OPTIONS, "batch": 2, "sampling_steps": 2})
    found = gpu.figures_of(size, "cpu")
    assert [part["is_step"] for part in found["parts"]] == [False, True, True]
    assert all(0 < part["share"] < 1 for part in found["parts"])
    # The bench itself, with a GPU that is played.
    monkeypatch.setattr(gpu, "TABLE", tmp_path / "docs" / "scaleup-gpu.md")
    monkeypatch.setattr(gpu, "module_output", lambda module, call: found)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True))
    assert [row.met for row in gpu.measure()] == [True] * len(gpu.SIZES)
    text = (tmp_path / "docs" / "scaleup-gpu.md").read_text()
    assert gpu.COMMAND in text
    assert text.count(f"| {size} |") == len(gpu.SIZES) * len(found["parts"])
    assert {line.count("|") for line in text.splitlines() if "|" in line} == {len(gpu.HEADS) + 1}
