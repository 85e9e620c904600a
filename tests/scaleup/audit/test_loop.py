"""The loop's runs and what theory expects of them, without training one."""

from __future__ import annotations

import json
import math

import pytest
import torch

from scaleup.audit import loop
from scaleup.audit.loop import CASES, CONTROL, REWARD, Budget, Case, predicted, write
from scaleup.samples.records import SampleWriter
from theory.common.tolerances import QUADRATURE

SMALL = Budget(steps=50, batch=8, bank=64, rank=2, pictures=16, chunk=8)
PROMPTS = ["", "x", "y"]


@pytest.mark.parametrize("budget", [Budget(), SMALL], ids=["default", "small"])
@pytest.mark.parametrize("name", CASES)
def test_configurations_are_valid(name, budget):
    """TrainConfig refuses what does not go together; the method and reward parse."""
    case = CASES[name]
    config = case.config(budget, "cpu")
    own = case.budget or budget
    assert (config.steps, config.batch, config.bank) == (own.steps, own.batch, own.bank)
    assert (config.lora_rank, config.chunk) == (own.rank, own.chunk)
    assert config.learning_rate == case.rate
    assert config.device == "cpu"
    method = config.parsed_method
    if case.scale is not None:
        assert method.scale == case.scale
    else:
        assert method.nft_beta == case.nft_beta
    # A reward's recorded label is looked for by the text that the case has.
    assert config.parsed_reward.label == case.reward
    assert 1 <= config.checkpoint_every <= config.steps


def test_every_run_has_a_folder_of_its_own():
    folders = {case.config(Budget(), "cpu").folder_name for case in CASES.values()}
    assert len(folders) == len(CASES)
    assert len({case.title for case in CASES.values()}) == len(CASES)


def test_every_case_has_one_prediction():
    """An exact scale, or NFT's forecast; never both or neither."""
    for case in CASES.values():
        assert (case.scale is None) != (case.nft_beta is None)


def test_a_run_and_its_control_differ_in_the_weights_alone():
    controlled = [case for case in CASES.values() if case.control is not None]
    assert controlled
    for case in controlled:
        own, other = (c.config(Budget(), "cpu").as_json() for c in (case, CASES[case.control]))
        assert {k for k in own if own[k] != other[k]} == {"method"}
        assert own["method"].split("=")[0] == other["method"].split("=")[0]
        # _against_control reads this reward of both.
        assert case.reward == CASES[case.control].reward == REWARD
    assert CASES[CONTROL].control is None
    assert CASES[CONTROL].scale == 0


def test_epochs_fill_the_steps():
    """The old copy is renewed as often as the forecast has epochs."""
    for case in CASES.values():
        if case.epochs > 1:
            config = case.config(Budget(), "cpu")
            method = config.parsed_method
            assert method.refresh_every * case.epochs == config.steps
            assert method.pool == config.bank


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.scale is not None])
def test_exact_methods_are_predicted_by_their_scale(name, tmp_path):
    """Whatever was sampled: the folder is empty."""
    assert predicted(CASES[name], tmp_path) == CASES[name].scale


def drawn(folder, rewards, label=REWARD, **others):
    """audit_base of these rewards (prompts, n), prompts in turn, as draw_samples numbers them."""
    values = rewards.T.flatten().double()
    index = torch.arange(len(values))
    with SampleWriter(folder, "audit_base", PROMPTS) as writer:
        writer.add(index, index, 1 + index % len(rewards), {label: values, **others})
    return folder


def spread(n, std, mean=0.0):
    """n rewards in equal steps, of this standard deviation (that of the law, not of a sample)."""
    ramp = torch.linspace(-1, 1, n, dtype=torch.float64)
    return mean + std * ramp / ramp.std(correction=0)


@pytest.mark.parametrize("nft_beta", [0.2, 1.0, 50.0])
def test_one_epoch_of_nft(nft_beta, tmp_path):
    """(2/nft_beta)/(10 std): a uniform law is never clipped. Here with what the released mapping
    adds, 1e-4 to the deviation and 1 - 1/n of a group's own mean."""
    n, std = 600, 0.05
    folder = drawn(tmp_path, torch.stack([spread(n, std), spread(n, std)]))
    found = predicted(Case("", "", nft_beta=nft_beta), folder)
    expected = 2 / nft_beta * (1 - 1 / n) / (10 * (std + 1e-4))
    assert QUADRATURE.holds(found, expected)
    plain = 2 / nft_beta / (10 * std)
    assert abs(found / plain - 1) < 1 / n + 1e-4 / std


def test_the_deviation_is_that_of_the_batch(tmp_path):
    """Prompts of other means: S^2 is the variance within, and between. Catches prompts that are
    taken in rows of the wrong order, and a deviation within prompts."""
    n, std, gap = 600, 0.05, 0.04
    folder = drawn(tmp_path, torch.stack([spread(n, std, -gap), spread(n, std, gap)]))
    found = predicted(Case("", "", nft_beta=1.0), folder)
    expected = 2 * (1 - 1 / n) / (10 * (math.hypot(std, gap) + 1e-4))
    assert QUADRATURE.holds(found, expected)


def test_more_epochs_tilt_more(tmp_path):
    """Each epoch's step is that of its own law, which narrows here: less would be one step for
    all, times their number."""
    folder = drawn(tmp_path, torch.stack([spread(600, 0.05)] * 2))
    tilts = [predicted(Case("", "", nft_beta=1.0, epochs=k), folder) for k in (1, 2, 5)]
    assert 2 * tilts[0] < tilts[1]
    assert 2.5 * tilts[1] < tilts[2]


def test_the_forecast_is_of_the_cases_own_reward(tmp_path):
    n = 600
    other = {"brightness:zero=0.2": 2 * spread(2 * n, 0.05)}
    folder = drawn(tmp_path, torch.stack([spread(n, 0.05)] * 2), **other)
    plain = predicted(Case("", "", nft_beta=1.0), folder)
    wider = predicted(Case("", "", nft_beta=1.0, reward="brightness:zero=0.2"), folder)
    assert wider < 0.6 * plain


# --- the table


def row(name, value=0):
    return {"name": name, "value": value}


def read(path):
    return [(r["name"], r["value"]) for r in json.loads(path.read_text("utf-8"))["rows"]]


def test_rows_are_replaced_by_name_and_kept_in_order(tmp_path):
    path = tmp_path / "docs" / "loop.json"
    first, second, *_, last = CASES
    write([row(last)], path)
    write([row(second, 1), row(first, 2)], path)
    assert read(path) == [(first, 2), (second, 1), (last, 0)]
    write([row(second, 3)], path)
    assert read(path) == [(first, 2), (second, 3), (last, 0)]
    write([row(second, 4), row(second, 5)], path)
    assert read(path) == [(first, 2), (second, 5), (last, 0)]
    # Runs that the loop no longer has leave the table.
    path.write_text(json.dumps({"rows": [row("gone"), row(first, 6)]}))
    write([], path)
    assert read(path) == [(first, 6)]


def test_numbers_that_json_lacks_are_not_written(tmp_path):
    path = tmp_path / "loop.json"
    write([row(CONTROL)], path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write([row(CONTROL, math.nan)], path)
    assert read(path) == [(CONTROL, 0)]


def test_no_control_where_it_was_not_trained(tmp_path):
    for name in ("weighted_8", CONTROL, "nft"):
        assert loop._against_control(CASES[name], tmp_path, tmp_path, SMALL, "cpu") is None


def test_a_cpu_has_a_name():
    assert loop._device("cpu") == "CPU"
