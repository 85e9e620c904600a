"""`theory recipe` under the names that trainers of the released loss use."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import stats
from scipy.special import erf

from theory.__main__ import main
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE_TIGHT
from theory.problems.problem import load_problem
from theory.released import names
from theory.released.forecast import Settings, exact, forecast
from theory.released.schedule import SCHEDULES, schedule
from theory.released.sources import LineRewards, SampledRewards

OURS = ["--problem", "linear_1d", "--epochs", "4", "--no-exact"]


def data_of(capsys, *arguments):
    status = main(["recipe", *OURS, *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def error_of(capsys, *arguments):
    status = main(["recipe", *OURS, *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 2
    assert not out
    return err


ALIKE = [
    (
        ["--nft-beta", 0.3],
        ["--nft_beta", 0.3],
        ["--mix-beta", 0.3],
        ["--mix_beta", 0.3],
        ["--config.beta", 0.3],
        ["--method.beta", 0.3],
        ["--algorithm.beta", 0.3],
        ["--beta", 0.3, "--trainer", "diffusionnft"],
        ["--beta", 0.3, "--trainer", "fastvideo"],
        ["--beta", 0.3, "--trainer", "unirl"],
    ),
    (
        ["--kl-weight", 0.02],
        ["--kl_weight", 0.02],
        ["--kl_beta", 0.02],
        ["--ref_kl_coef", 0.02],
        ["--ref-deviation-coef", 0.02],
        ["--train.beta", 0.02],
        ["--config.train.beta", 0.02],
    ),
    (["--adv-clip-max", 2], ["--advantage_high", 2], ["--adv_std_saturate", 2]),
    (
        ["--ema", "none"],
        ["--decay_type", 0],
        ["--decay-type", "copy"],
        ["--ema", "copy"],
        ["--old_policy_decay_schedule", "copy"],
    ),
    (
        ["--ema", "half"],
        ["--decay-type", 1],
        ["--decay_type", "linear_to_0_5"],
        ["--ema", 1],
        ["--old-policy-decay-schedule", "linear_to_0_5"],
    ),
    (
        ["--ema", "late"],
        ["--decay_type", 2],
        ["--ema", "delayed_linear_to_0_999"],
        ["--old_policy_decay_schedule", "delayed_linear_to_0_999"],
    ),
]


@pytest.mark.parametrize("spellings", ALIKE, ids=lambda s: s[0][0] + str(s[0][1]))
def test_every_name_of_a_knob_gives_one_forecast(spellings, capsys):
    plain, *others = (data_of(capsys, *s) for s in spellings)
    assert plain.pop("read_as") == []
    for other, spelled in zip(others, spellings[1:], strict=True):
        said = other.pop("read_as")
        assert other == plain
        is_ours = [str(v).replace("_", "-") for v in spelled] == [str(v) for v in spellings[0]]
        if is_ours:
            assert said == []
        else:
            (line,) = said
            assert str(spelled[1]) in line
            assert " is " in line


def test_knobs_differ_from_one_another(capsys):
    """A name read as another knob would be seen: no two of these forecasts are one."""
    ends = [
        data_of(capsys, *s)["end"]["tilt"]
        for s in (["--mix_beta", 0.3], ["--ref_kl_coef", 0.3], ["--advantage_high", 0.3], [])
    ]
    assert len(set(ends)) == 4


def test_the_released_files_two_betas(capsys):
    data = data_of(capsys, "--config.beta", 0.1, "--train.beta", 1e-3, "--decay_type", 2)
    assert (data["recipe"]["nft_beta"], data["recipe"]["kl_weight"]) == (0.1, 1e-3)
    assert data["recipe"]["ema"] == "late"
    assert len(data["read_as"]) == 3


def test_how_it_was_read_is_said(capsys):
    assert main(["recipe", *OURS, "--mix_beta", "0.5", "--decay-type", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "read: mix_beta = 0.5 of verl-omni is nft_beta: the mixing strength" in out
    assert "read: decay_type = 1 is ema half: decay min(0.001 k, 0.5) at step k" in out


def test_a_bare_beta_is_refused_with_both_readings(capsys):
    err = error_of(capsys, "--beta", 0.1)
    for part in (
        "--beta = 0.1 has two readings",
        "nft_beta",
        "kl_weight",
        "--train.beta",
        "--config.beta",
        "--method.beta",
        "--trainer diffusionnft or fastvideo or unirl",
    ):
        assert part in err


BAD = [
    (
        ["--beta", 0.1, "--trainer", "verl-omni"],
        "--trainer must be one of diffusion.*got 'verl-omni'",
    ),
    (["--trainer", "unirl"], "--trainer must come with --beta, .*got 'unirl'"),
    (["--nft-beta", 1, "--mix-beta", 2], "--nft-beta = 1.0 and --mix-beta = 2.0 are one knob, nft"),
    (["--beta", 1, "--trainer", "unirl", "--nft-beta", 2], "are one knob, nft_beta"),
    (["--kl-beta", 1, "--kl-beta", 2], "are one knob, kl_weight"),
    (["--ema", 3], "ema must be one of none, .*got '3'"),
    (["--decay-type", "linear"], "decay_type must be one of .*got 'linear'"),
    (["--advantage-high", 0], "adv_clip_max must .*got 0.0"),
    (["--advantage-high", "nan"], "adv_clip_max must .*got nan"),
    (["--decay-type", "copy", "--decay", 0.3], "decay must come with .*got 0.3"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_names_and_values(arguments, message, capsys):
    assert re.search(message, error_of(capsys, *arguments))


def test_every_decay_is_a_schedule():
    for theirs, ours in names.DECAYS.items():
        reading = names.read([("--decay_type", theirs)], "ema", "half")
        assert reading.value == ours
        assert schedule(ours) is SCHEDULES[ours]
    assert names.read([], "ema", "half").value == "half"


# --- the clip


@pytest.mark.parametrize("clip", [1.0, 2.5, 20.0])
def test_the_clip_is_factor_and_divisor(clip):
    """Step (1 - 1/n) kept / (clip nft_beta S); the penalty is weighed against clip nft_beta."""
    settings = Settings(0.7, SCHEDULES["none"], 0.03, "off", 24, adv_clip_max=clip)
    assert ALGEBRA.holds(settings.step(2.0), 23 / 24 / (0.7 * clip * (2.0 + 1e-4)))
    t = np.linspace(0.1, 0.9, 5)
    curvature = clip * 0.7 * (1 - t) ** 2
    assert ALGEBRA.holds(settings.penalty.share(t), curvature / (curvature + 0.03))
    five = Settings(0.7, SCHEDULES["none"], 0.03, "off", 24)
    assert ALGEBRA.holds(five.step(2.0) / settings.step(2.0), clip / 5)


def test_the_clip_takes_its_part_of_the_rewards():
    """Of Gaussian rewards a clip at c deviations keeps erf(c/sqrt(2)) of the slope."""
    raw = np.random.default_rng(0).normal(size=200_000)
    for clip in (1.0, 2.0):
        sampled = SampledRewards(raw, np.zeros(len(raw), dtype=np.int64), clip=clip).at(0.0)
        true = erf(clip / np.sqrt(2))
        # The standard error of a slope from its residuals.
        error = np.std((np.clip(raw, -clip, clip) - true * raw) * raw) / np.sqrt(len(raw))
        assert abs(sampled.clip - true) < stats.norm.isf(FALSE_FAILURE_RATE / 2) * error
    problem = load_problem("linear_1d")
    kept = [LineRewards(problem, c).at(0.0).clip for c in (0.5, 1.0, 5.0)]
    assert kept[0] < kept[1] < kept[2]
    assert QUADRATURE_TIGHT.holds(kept[2], 1.0, 1e4)


def test_the_exact_recursion_follows_the_clip():
    problem = load_problem("note_1d")
    settings = Settings(1.0, SCHEDULES["none"], 1e-4, "off", data_std=1.31, adv_clip_max=10.0)
    found = forecast(settings, LineRewards(problem, 10.0), 4)
    law = exact(settings, problem, found)
    assert law.epoch == 4
    assert abs(law.error) < 0.02
    plain = forecast(Settings(2.0, SCHEDULES["none"], 1e-4, "off"), LineRewards(problem), 4)
    assert abs(plain.last.tilt / found.last.tilt - 1) < 0.02
