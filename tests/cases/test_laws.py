"""What a field samples, where that is hard: far modes, thin laws, strong noise, interruptions.

Each name carries its case of issue 18.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ndtr

from tests.helpers import tensor
from theory.__main__ import main
from theory.common import progress
from theory.common.files import check_folder
from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.evaluation import choices, draw
from theory.evaluation.choices import choose_field
from theory.evaluation.grids import GridLaw, push_starts
from theory.evaluation.report import PARTS, law_report
from theory.fields.diffusion import Diffusion
from theory.laws.gaussians import GaussianSum
from theory.ledger import command
from theory.problems.problem import Problem, load_problem
from theory.samplers import flow as transport
from theory.samplers.flow import FlowLaw
from theory.samplers.sde import sde_law
from theory.tilts.bump_rewards import bump_reward

ROOT = Path(__file__).resolve().parents[2]
NOTE = load_problem("note_1d")


def far(apart: float, weights: tuple[float, float] = (0.7, 0.3)) -> Problem:
    """Two modes of deviation 0.6 and a bump on the right one."""
    means, stds = [[-apart], [apart]], [0.6, 0.6]
    base = GaussianSum.mixture(list(weights), means, stds=stds)
    return Problem("far", base, bump_reward(1.0, [apart], width=1.0))


# --- C3: modes far apart


@pytest.fixture(scope="module")
def apart():
    """NFT's law with modes at +-60, told where it is."""
    problem, told = far(60.0), []
    found = law_report(
        problem, choose_field(problem, "nft"), watch=lambda *where: told.append(where)
    )
    return problem, found, told


@pytest.mark.slow
def test_c3_modes_at_60_work(apart):
    _, found, _ = apart
    floors = [row["TV"].floor for row in found.distances.values()]
    assert max(floors) < 1e-6
    assert QUADRATURE.holds(found.mass, 1.0)


@pytest.mark.slow
def test_c3_the_mass_of_a_far_mode_is_where_the_ridge_comes_from(apart):
    """By scipy's stiff solver along the one trajectory that ends between the modes."""
    problem, found, _ = apart
    field = problem.nft_field(1.0)

    def velocity(t, x):
        return field(tensor(x)[:, None], min(max(float(t), 0.0), 1.0)).numpy()[:, 0]

    tight = {"rtol": QUADRATURE_TIGHT.rtol, "atol": QUADRATURE_TIGHT.rtol / 100}
    ridge = solve_ivp(velocity, (1.0, 0.0), [0.0], method="LSODA", **tight)
    law: GridLaw = found.curves["law"]
    left = law.integrate((law.axes[0] < 0).astype(float))
    assert QUADRATURE.holds(law.cdf[law.axes[0] < 0][-1], ndtr(ridge.y[0, -1]))
    assert QUADRATURE.holds(left, ndtr(ridge.y[0, -1]))
    assert not QUADRATURE.holds(left, 0.7)  # the base's


def test_c3_row_by_row_is_right_to_the_tolerance():
    """The base's own field gives back the base, on modes 60 apart from 0 and in the gap."""
    base = far(60.0).base
    y = tensor(-64.0, -60.3, -57.0, 0.0, 58.0, 61.0)[:, None]
    law = FlowLaw(far(60.0).base_field, massless=-70.0)
    x0, log_q = law.pull_back(y)
    truth = base.log_density(y)
    seen = torch.tensor([True, True, True, False, True, True])
    assert QUADRATURE.holds(log_q[seen], truth[seen], scale=1.0)
    assert float(truth[~seen]) < -4000
    assert float(log_q[~seen]) == -math.inf
    assert bool(x0[~seen].isnan())


@pytest.mark.slow
def test_c3_what_takes_too_long_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"only at t = .* changes too fast there"):
        push_starts(NOTE.nft_field(1e-7), lambda share: None)
    with pytest.raises(ValueError, match=r"has lost digits|changes too fast there"):
        push_starts(NOTE.nft_field(1e-12), lambda share: None)
    flat = load_problem("bump_2d")
    with pytest.raises(ValueError, match=r"after 201 evaluations .* changes less fast"):
        push_starts(flat.nft_field(1e-7), lambda share: None)
    # The gap itself, where a density is asked for by itself: followed or refused, never made up.
    with pytest.raises(ValueError, match="changes too fast there"):
        FlowLaw(far(60.0).base_field).log_density(tensor([[0.0]]))


@pytest.mark.slow
def test_c3_a_law_says_where_it_is(apart):
    _, _, told = apart
    assert {part for part, _ in told} == PARTS.keys()
    assert all(0 <= share <= 1 for _, share in told)
    assert len(told) > 500


def test_c3_the_first_line_comes_within_2_seconds(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(100, "law") as bar:
        for second, done in ((0.0, 0), (1.0, 10), (1.9, 20), (5.0, 40), (12.0, 80)):
            now[0] = second
            bar.update("law", done, "the law")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["law:  20 %, 8 s left; the law", "law:  80 %, 3 s left; the law"]


# --- D3: laws that are nearly spikes


SPIKY = Problem(
    "spiky",
    GaussianSum.mixture([0.5, 0.5], [[-2.0], [2.0]], stds=[0.6, 0.6]),
    bump_reward(1.0, [2.0], width=1.0),
)


@pytest.mark.slow
def test_d3_there_and_back():
    law, z = FlowLaw(SPIKY.nft_field(0.02)), tensor([[0.0]])
    y, log_q = law.push_with_log_density(z)
    x0, again = law.pull_back(y)
    assert QUADRATURE.holds(x0, z, scale=1.0)
    assert QUADRATURE.holds(again, log_q, scale=1.0)


@pytest.mark.slow
def test_d3_what_cannot_be_inverted_is_refused(monkeypatch):
    law, z = FlowLaw(SPIKY.nft_field(0.015)), tensor([[0.0]])
    with pytest.raises(ValueError, match=r"contracts by e\^.* 64-bit numbers"):
        law.push_with_log_density(z)
    y = law.push(z)
    with pytest.raises(ValueError, match=r"contracts by e\^.* 64-bit numbers"):
        law.log_density(y)
    # What it was before: two log-densities of one point.
    monkeypatch.setattr(FlowLaw, "_settled", lambda self, x, start, stop, end, log: (end, log))
    there, back = law.push_with_log_density(z)[1], law.log_density(y)
    assert not QUADRATURE.holds(there, back, scale=1.0)


def test_d3_a_round_trip_is_in_every_report(monkeypatch):
    """A way back that is off by 1e-4 in x_0 is in the floor; by 0.1, it is refused. A law says
    where it is."""
    problem, told = SPIKY, []
    honest = transport.FlowLaw.pull_back
    for off, refused in ((1e-4, False), (0.1, True)):

        def pull_back(self, y, off=off):
            x0, log_q = honest(self, y)
            return x0 + off, log_q

        monkeypatch.setattr(transport.FlowLaw, "pull_back", pull_back)
        choice = choose_field(problem, "base")
        if refused:
            with pytest.raises(ValueError, match="pushed and pulled back must keep"):
                law_report(problem, choice)
        else:
            found = law_report(problem, choice, watch=lambda *where: told.append(where))
            assert 0.5e-4 < found.distances["base"]["TV"].floor < 2e-4
    assert {part for part, _ in told} == PARTS.keys()
    assert all(0 <= share <= 1 for _, share in told)


# --- E6 and E9: the law's options


def test_e6_noise_too_strong_is_refused_with_the_reason():
    line = np.linspace(-8.5, 8.5, 161)
    with pytest.raises(ValueError, match=r"g = 1e\+06 changes it too fast"):
        sde_law(NOTE.base_field, Diffusion.of_constant(1e6), line)
    assert QUADRATURE.holds(sde_law(NOTE.base_field, Diffusion.of_constant(1.0), line).mass(), 1.0)


def test_e9_the_advice_can_be_taken(capsys):
    status = main(["law", "--problem", "bump_2d", "--field", "nft", "--nft-beta", "0.1"])
    error = capsys.readouterr().err
    assert status == 2
    assert "try a larger nft_beta or wider components" in error
    assert "scale" not in error


def test_e9_every_field_has_advice_that_it_takes():
    for name in choices.FIELDS:
        gentler = choose_field(NOTE, name).gentler
        assert ("nft_beta" in gentler) == (name == "nft")
        assert ("scale" in gentler) == (name in ("tilt", "cumulant"))


def test_e9_a_problem_in_full(capsys):
    assert main(["problems", "note_1d"]) == 0
    text = capsys.readouterr().out
    for words in ("weights = [0.65, 0.35]", "means = [[-1.2], [1.1]]", "widths = [1.0]"):
        assert words in text
    assert main(["problems", "note_1d", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["toml"]["base"]["stds"] == [0.6, 0.9]


# --- E4: what was computed is not lost


def must_not_run(*_args, **_options):
    raise AssertionError("the work has begun")


def test_e4_an_unwritable_folder_is_noticed_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("theory.evaluation.command.law_report", must_not_run)
    monkeypatch.setattr(command, "measure_all", must_not_run)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none/below")):
        for words in (["law", "--problem", "note_1d", "--field", "nft"], ["verify"]):
            assert main([*words, "--out", str(out)]) == 2
            error = capsys.readouterr().err
            assert "--out must be a folder that can be written" in error
            assert f"got {str(out)!r}" in error


def test_e4_looking_leaves_nothing_behind(tmp_path):
    check_folder("--out", tmp_path / "a" / "b")
    check_folder("--out", tmp_path)
    assert not list(tmp_path.iterdir())


def full_disk(*_args, **_options):
    raise OSError(28, "cannot write: no space left")


def test_e4_a_law_is_printed_before_it_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw, "write_atomically", full_disk)
    words = ["law", "--problem", "note_1d", "--field", "base", "--out", str(tmp_path)]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert "nearest in TV: base" in printed.out
    assert "no space left" in printed.err
    assert not list(tmp_path.iterdir())


def test_e4_a_ledger_is_printed_before_it_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "write_text", full_disk)
    words = ["verify", "--only", "D1", "--profile", "fast", "--processes", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "D1" in printed.out
    assert "no space left" in printed.err


# --- E3: an orderly end


def started(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "theory", *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_e3_a_law_stops_in_one_line(tmp_path):
    process = started("law", "--problem", "bump_2d", "--field", "nft", "--out", str(tmp_path))
    first = process.stderr.readline()  # it says that it works
    assert first.startswith("law of NFT v*, nft_beta = 1: ")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    *lines, last = error.splitlines()
    assert last == "stopped by SIGINT; the law is not found yet, nothing was written"
    assert all(line.startswith("law of ") for line in lines)
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_e3_verify_stops_with_its_workers(tmp_path):
    process = started("verify", "--only", "D5", "D6", "L8", "--out", str(tmp_path))
    while len(workers := children(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)  # at their rows, which take longer than the wait below
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert (process.returncode, out) == (143, "")
    (line,) = error.splitlines()
    assert line.startswith("stopped by SIGTERM; 0 of 3 rows were measured, none is kept")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not list(tmp_path.iterdir())
