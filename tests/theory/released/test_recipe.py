"""`python -m theory recipe`: the forecast against what is known, and what it refuses."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME
from theory.__main__ import main
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem, parse_problem
from theory.released.forecast import Settings, exact, forecast, sampling_error
from theory.released.reward_files import read_rewards
from theory.released.schedule import SCHEDULES, Schedule, schedule
from theory.released.sources import (
    ClosedRewards,
    LineRewards,
    SampledRewards,
    rewards_of,
    tail_index,
)
from theory.tilts.quadratic import quadratic_reward

GAUSSIAN = """\
[base]
weights = [1.0]
means = [[0.4]]
stds = [0.8]
[reward]
kind = "linear"
vector = [0.5]
"""


def gaussian() -> Problem:
    return parse_problem(GAUSSIAN, "gaussian.toml")


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main(["recipe", *map(str, arguments)])
    return status, *capsys.readouterr()


def data_of(capsys, *arguments):
    status, out, _ = run(capsys, *arguments, "--json")
    assert status in (0, 1)
    return json.loads(out)


# --- the forecast


@SOME
@given(
    beta=st.floats(0.2, 5.0), epochs=st.integers(1, 40), decay=st.floats(0.0, 0.9),
    group=st.integers(2, 64),
)  # fmt: skip
def test_gaussian_rewards_are_a_straight_line(beta, epochs, decay, group):
    """The spread stays: tilt = lam sum(1 - d); forgetting d or 1 - 1/n would be seen."""
    settings = Settings(beta, schedule("constant", decay), 0.0, "off", group)
    found = forecast(settings, LineRewards(gaussian()), epochs)
    std = 0.5 * 0.8
    step = 0.2 / beta * (1 - 1 / group) / (std + 1e-4)
    assert found.last.epoch == epochs
    # the clip takes erfc(5/sqrt(2)) of it
    assert found.last.tilt == pytest.approx((1 - decay) * epochs * step, rel=QUADRATURE.rtol)
    assert found.first_order == pytest.approx(found.last.tilt, rel=QUADRATURE.rtol)
    assert found.gain(found.last) == pytest.approx(found.last.tilt * std, rel=QUADRATURE.rtol)
    assert found.last.rewards.kl == pytest.approx((found.last.tilt * std) ** 2 / 2, rel=1e-5)


@pytest.mark.slow
def test_exact_recursion_is_the_forecast_where_it_should_be():
    """Gaussian data, linear reward: the law is the tilt, with a penalty to first order in time."""
    problem = gaussian()
    for kl in (0.0, 1e-4, 0.05):
        settings = Settings(0.7, SCHEDULES["half"], kl, "off", data_std=0.8)
        found = forecast(settings, rewards_of(problem), 8)
        law = exact(settings, problem, found)
        assert law.epoch == 8
        # without a penalty every epoch is exact; with one the student's own field is not u_q
        bound = QUADRATURE.rtol if kl == 0 else 2e-2
        assert abs(law.error) < bound * max(found.gain(found.last), 1)
    slower = Settings(0.8, SCHEDULES["half"], 0.05, "off", data_std=0.8)
    wrong = forecast(slower, rewards_of(problem), 8)
    assert abs(wrong.last.rewards.mean - law.mean) / 0.4 > 5e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["note_1d", "quadratic_1d"])
def test_error_against_the_exact_recursion(name):
    """The released values, as many epochs as a tilt of about one std takes: a twentieth of a std,
    and half of it where steps are half as long."""
    problem = load_problem(name)
    rewards = rewards_of(problem)
    errors = []
    for beta, epochs in ((1.0, 5), (2.0, 10)):
        settings = Settings(beta, SCHEDULES["none"], 1e-4, "off", data_std=rewards.data_std or 1.0)
        found = forecast(settings, rewards, epochs)
        law = exact(settings, problem, found)
        assert law.epoch == epochs
        assert law.explained > 0.95
        errors.append(abs(law.error))
    assert errors[0] < 0.05
    assert errors[1] < 0.75 * errors[0]


def test_partial_optima_in_the_exact_recursion():
    problem = load_problem("note_1d")
    settings = Settings(2.0, SCHEDULES["none"], 1e-4, "off", reach=0.3, data_std=1.31)
    found = forecast(settings, rewards_of(problem), 8)
    law = exact(settings, problem, found)
    assert abs(law.error) < 0.03
    full = forecast(Settings(2.0, SCHEDULES["none"], 1e-4, "off"), rewards_of(problem), 8)
    assert found.last.tilt < 0.5 * full.last.tilt


def test_the_mapping_runs_away_from_a_weak_penalty():
    """R = -|x|^2/2 under N(0, I_d): S = sqrt(d/2)/(1 + B), so that the fixed point B =
    G (1 - 1/n)/S exists only where G (1 - 1/n) < sqrt(d/2), G = mean of (1-t)^2/(w kl)."""
    dim = 3
    base = GaussianSum.mixture([1.0], [[0.0] * dim], stds=[1.0])
    problem = Problem("bowl", base, quadratic_reward((-np.eye(dim)).tolist(), [0.0] * dim))
    unit = Settings(1.0, Schedule(), 1.0, "off").mean_limit() / 5  # G at kl_weight = 1
    edge = unit * (23 / 24) / math.sqrt(dim / 2)
    for factor, finite in ((0.8, False), (1.3, True)):
        kl = edge * factor
        settings = Settings(1.0, Schedule(), kl, "off")
        found = forecast(settings, ClosedRewards(problem), 1)
        # the floor of 1e-4 stops the tilt far out, at gain/floor
        if finite:
            g = unit * (23 / 24) / kl / math.sqrt(dim / 2)
            assert found.limit == pytest.approx(g / (1 - g), rel=1e-2)
        else:
            assert found.limit is None or found.limit > 1e3


def test_file_and_problem_agree():
    rng = np.random.default_rng(0)
    raw = 0.5 * (0.4 + 0.8 * rng.normal(size=50_000))
    settings = Settings(1.0, SCHEDULES["half"], 1e-4, "off", data_std=0.8)
    sampled = SampledRewards(raw, np.zeros(len(raw), dtype=np.int64), 0.8)
    ours, theirs = (forecast(settings, source, 6) for source in (sampled, LineRewards(gaussian())))
    assert ours.last.tilt == pytest.approx(theirs.last.tilt, rel=0.02)
    assert ours.last.rewards.mean == pytest.approx(theirs.last.rewards.mean, rel=0.02)
    tilt, mean = sampling_error(settings, sampled, ours)
    assert 0 < mean < 0.02
    assert 0 < tilt < 0.05 * ours.last.tilt


def test_sources_agree():
    for name in ("note_1d", "quadratic_1d"):
        problem = load_problem(name)
        line, closed = LineRewards(problem).at(1.7), ClosedRewards(problem).at(1.7)
        for key in ("mean", "std", "kl", "spread"):
            assert getattr(line, key) == pytest.approx(
                getattr(closed, key), rel=QUADRATURE_TIGHT.rtol
            )


def test_prompts_of_other_spread():
    """One tilt for all prompts per raw reward; the batch-wide std holds the spread of means."""
    rng = np.random.default_rng(1)
    raw = np.concatenate([rng.normal(0, 1, 20_000), rng.normal(3, 0.5, 20_000)])
    prompts = np.repeat([0, 1], 20_000)
    settings = Settings(1.0, Schedule(), 0.0, "off")
    apart = forecast(settings, SampledRewards(raw, prompts), 1)
    std = math.sqrt(0.5 * 1.25 + 2.25)
    assert apart.last.tilt == pytest.approx(0.2 * 23 / 24 / std, rel=0.02)
    pooled = forecast(settings, SampledRewards(raw, 0 * prompts), 1)
    assert pooled.last.tilt == pytest.approx(apart.last.tilt, rel=0.02)
    assert pooled.last.rewards.mean > apart.last.rewards.mean + 0.1


def test_heavy_tails_are_not_concluded_from():
    """Rewards with an exponential tail: the tilt passes what samples can show."""
    raw = np.random.default_rng(2).gamma(4.0, size=4000) / 2
    found = forecast(
        Settings(1.0, Schedule(), 0.0, "off"),
        SampledRewards(raw, np.zeros(4000, dtype=np.int64)),
        40,
    )
    assert found.last.epoch < found.epochs
    assert "Pareto" in found.stopped or "effective" in found.stopped


@pytest.mark.parametrize("k", [0.3, 0.8])
def test_tail_index(k):
    found = [tail_index(np.random.default_rng(i).pareto(1 / k, 4000)) for i in range(8)]
    assert np.mean(found) == pytest.approx(k, abs=0.1)
    assert tail_index(np.ones(50)) == 0.0
    assert tail_index(np.ones(5)) == 0.0


# --- the command


def test_named_problem(capsys):
    data = data_of(
        capsys, "--problem", "note_1d", "--nft-beta", 1, "--epochs", 6, "--kl-weight", 1e-4,
        "--ema", "half",
    )  # fmt: skip
    assert data["conclusive"]
    assert data["end"]["epoch"] == 6
    assert data["exact"]["epoch"] == 6
    assert abs(data["exact"]["error"]) < 0.06
    assert data["end"]["law_std"] > 0
    assert data["recipe"]["data_std"] == pytest.approx(1.3118593674628394)
    assert data["limit_at_fixed_spread"] > 1e3
    assert len(data["rows"]) == 7
    assert data["assumes"]


def test_text_says_what_it_assumes(capsys):
    status, out, _ = run(capsys, "--problem", "linear_1d", "--epochs", 3, "--no-exact")
    assert status == 0
    for part in ("assumes:", "small steps", "after 3 epochs", "not carried (--no-exact)", "limit"):
        assert part in out


def test_in_more_dimensions_without_penalty(capsys):
    data = data_of(capsys, "--problem", "linear_2d", "--epochs", 4, "--kl-weight", 0)
    assert data["exact"] is None
    assert "d = 2" in data["no_exact"]
    assert data["limit_at_fixed_spread"] is None
    assert data["held_back"] == 0


def test_no_conclusion_has_its_own_status(capsys):
    status, out, _ = run(
        capsys, "--problem", "quadratic_1d", "--epochs", 60, "--ema", "none", "--no-exact"
    )
    assert status == 1
    assert "NO CONCLUSION for epoch 60" in out
    assert "runs away" in out


def test_warnings(capsys):
    hot = data_of(capsys, "--problem", "note_1d", "--epochs", 1, "--nft-beta", 0.1, "--no-exact")
    assert any("not small" in w for w in hot["warnings"])
    held = data_of(
        capsys, "--problem", "linear_1d", "--epochs", 20, "--kl-weight", 0.2, "--no-exact"
    )
    assert held["held_back"] > 0.1
    assert any("KL term takes" in w for w in held["warnings"])
    late = data_of(
        capsys, "--problem", "linear_2d", "--epochs", 300, "--ema", "late", "--reach", 0.01
    )
    assert late["held_back"] == 0.0


# --- files


@pytest.fixture
def rewards():
    return np.random.default_rng(3).normal(1.0, 0.3, size=2000)


def test_every_kind_of_file_is_read_alike(tmp_path, rewards, capsys):
    prompts = [f"p{i % 4}" for i in range(len(rewards))]
    rows = [f"{p},{r!r}" for p, r in zip(prompts, map(float, rewards), strict=True)]
    files = {
        "one.csv": "\n".join(map(repr, map(float, rewards))),
        "named.csv": "reward\n" + "\n".join(map(repr, map(float, rewards))),
        "plain.txt": "\n".join(map(repr, map(float, rewards))) + "\n\n",
        "plain.jsonl": "\n".join(map(repr, map(float, rewards))),
        "keys.jsonl": "\n".join(json.dumps({"reward": float(r)}) for r in rewards),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    np.save(tmp_path / "vector.npy", rewards)
    found = [read_rewards(tmp_path / name) for name in (*files, "vector.npy")]
    assert all(np.array_equal(f.rewards, rewards) and f.prompts.max() == 0 for f in found)
    (tmp_path / "p.csv").write_text("prompt,reward\n" + "\n".join(rows), encoding="utf-8")
    pairs = zip(prompts, map(float, rewards), strict=True)
    lines = [json.dumps({"score": r, "text": p}) for p, r in pairs]
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    both = [
        read_rewards(tmp_path / "p.csv"),
        read_rewards(tmp_path / "p.jsonl", reward_column="score", prompt_column="text"),
    ]
    for one in both:
        assert np.array_equal(one.rewards, rewards)
        assert np.array_equal(one.prompts, np.arange(2000) % 4)
    data = data_of(capsys, "--rewards", tmp_path / "p.csv", "--epochs", 4, "--data-std", 0.9)
    assert data["conclusive"]
    assert data["recipe"]["data_std"] == 0.9
    assert data["end"]["effective_sample_size"] < 2000
    assert 0 < data["end"]["carriers"] < 0.9
    assert data["standard_error"]["reward"] > 0


def test_too_few_samples_are_refused(tmp_path, rewards, capsys):
    file = tmp_path / "few.txt"
    file.write_text("\n".join(map(str, rewards[:400])), encoding="utf-8")
    status, out, _ = run(capsys, "--rewards", file, "--epochs", 200)
    assert status == 1
    assert "NO CONCLUSION for epoch 200" in out
    data = data_of(capsys, "--rewards", file, "--epochs", 200)
    assert not data["conclusive"]
    assert 0 < data["end"]["epoch"] < 12
    file.write_text("\n".join(map(str, rewards[:50])), encoding="utf-8")
    status, _, err = run(capsys, "--rewards", file, "--epochs", 2)
    assert status == 2
    assert "effective sample size 50 of 50" in err


BAD_FILES = {
    "nan.txt": ("1.0\n2.0\nnan\n", "line 3: reward must be .*got 'nan'"),
    "inf.csv": ("reward\n1\n-inf\n", "line 3: reward must be .*got '-inf'"),
    "word.txt": ("1.0\ngood\n", "line 2: reward must be .*got 'good'"),
    "empty.txt": ("", "2 or more rewards, got 0"),
    "empty.csv": ("\n", "2 or more rewards, got 0"),
    "one.txt": ("1.0\n", "2 or more rewards, got 1"),
    "header.csv": ("score,prompt\n1,a\n", "no column 'reward'"),
    "short.csv": ("reward,prompt\n1,a\n2\n", "line 3: must be 2 cells, got 1"),
    "twice.csv": ("reward,reward\n1,2\n", "one column 'reward', got 2"),
    "wide.csv": ("1.0\n2.0,3.0\n", "line 2: must be 1 cell .*got 2"),
    "broken.jsonl": ('{"reward": 1}\n{"reward"\n', "line 2: no JSON"),
    "key.jsonl": ('{"reward": 1}\n{"score": 2}\n', "line 2: no key 'reward'"),
    "null.jsonl": ('{"reward": 1}\n{"reward": null}\n', "line 2: reward must be .*got None"),
    "true.jsonl": ("true\n1.0\n", "line 1: reward must be .*got True"),
    "huge.jsonl": ("1" + "0" * 400 + "\n1.0\n", "line 1: reward"),
    "some.jsonl": ('{"reward": 1, "prompt": "a"}\n{"reward": 2}\n', "line 2: no prompt"),
    "rewards.xlsx": ("", "must be a file that ends in"),
    "same.txt": ("0.5\n" * 500, "constant within every prompt"),
    "same.csv": ("prompt,reward\n" + "a,1\n" * 300 + "b,2\n" * 300, "constant within every prompt"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(name, tmp_path, capsys):
    text, message = BAD_FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    status, out, err = run(capsys, "--rewards", tmp_path / name, "--epochs", 3)
    assert status == 2
    assert not out
    assert re.search(message, err)
    assert err.startswith("error: ")


def test_bad_arrays_and_bytes_are_named(tmp_path, capsys):
    np.save(tmp_path / "square.npy", np.ones((3, 3)))
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    (tmp_path / "bytes.csv").write_bytes(b"reward\n\xff\xfe\n")
    messages = {
        "square.npy": "shape (3, 3)", "nan.npy": "line 2: reward must be a finite number, got nan",
        "words.npy": "real numbers", "text.npy": "not an array", "bytes.csv": "UTF-8",
        "absent.csv": "no such file",
    }  # fmt: skip
    for name, message in messages.items():
        status, _, err = run(capsys, "--rewards", tmp_path / name, "--epochs", 3)
        assert status == 2
        assert message in err


BAD_OPTIONS = [
    (["--problem", "nowhere"], "problem must .*got 'nowhere'"),
    (["--problem", "note_1d", "--epochs", "0"], "--epochs must .*got 0"),
    (["--problem", "note_1d", "--nft-beta", "0"], "nft_beta must .*got 0.0"),
    (["--problem", "note_1d", "--nft-beta", "nan"], "nft_beta must .*got nan"),
    (["--problem", "note_1d", "--kl-weight", "-1"], "kl_weight must .*got -1.0"),
    (["--problem", "note_1d", "--kl-weight", "nan"], "kl_weight must .*got nan"),
    (["--problem", "note_1d", "--ema", "half", "--decay", "0.3"], "decay must come with .*got 0.3"),
    (["--problem", "note_1d", "--ema", "constant"], "decay must .*got None"),
    (["--problem", "note_1d", "--ema", "constant", "--decay", "1"], "decay must .*got 1.0"),
    (["--problem", "note_1d", "--group", "1"], "group must .*got 1"),
    (["--problem", "note_1d", "--steps-per-epoch", "0"], "steps must .*got 0"),
    (["--problem", "note_1d", "--reach", "0"], "reach must .*got 0.0"),
    (["--problem", "note_1d", "--reach", "1.5"], "reach must .*got 1.5"),
    (["--problem", "note_1d", "--data-std", "1"], "--data-std must come .*got 1.0"),
    (["--problem", "note_1d", "--prompt-column", "p"], "--prompt-column must come .*got 'p'"),
    (
        ["--problem", "note_1d", "--kl-weight", "0", "--adaptive", "off"],
        "--adaptive must .*got 'off'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_OPTIONS)
def test_bad_options_are_named(arguments, message, capsys):
    epochs = [] if "--epochs" in arguments else ["--epochs", "3"]
    status, out, err = run(capsys, *arguments, *epochs)
    assert status == 2
    assert not out
    assert re.search(message, err)


def test_options_of_files(tmp_path, capsys):
    file = tmp_path / "r.txt"
    file.write_text("\n".join(str(i % 7) for i in range(700)), encoding="utf-8")
    cases = {
        "--no-exact": [], "--reward-column": ["r"], "--data-std": ["0"],
    }  # fmt: skip
    for option, value in cases.items():
        status, _, err = run(capsys, "--rewards", file, "--epochs", 3, option, *value)
        assert status == 2
        assert option in err
    for both in (["--problem", "note_1d", "--rewards", file], []):
        with pytest.raises(SystemExit):
            run(capsys, *both, "--epochs", 3)
    capsys.readouterr()


def test_mean_limit_is_the_penaltys():
    settings = Settings(0.6, Schedule(), 1e-3, "off", data_std=0.7)
    twice = Settings(0.6, Schedule(), 2e-3, "off", data_std=0.7)
    assert settings.mean_limit() == pytest.approx(2 * twice.mean_limit(), rel=ALGEBRA.rtol)
