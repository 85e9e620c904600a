"""The whole audit: doubts, words and JSON in every case."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.theory.audit.synthetic import data_of, gaussians, planted
from theory.audit import as_json, audit, audit_data, verdict
from theory.audit.page.verdict import p_words
from theory.common.tolerances import ALGEBRA

FEW = {"wrappers": ("linear",), "permutations": 99, "second": False}


def rows(n, m, seed=0, a=0.4):
    rng = np.random.default_rng(seed)
    return data_of([rng.normal(size=n)], [a + rng.normal(size=m)])


def sound(report):
    """JSON holds it, and says what the words say."""
    plain = as_json(report)
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text)["verdict"] == verdict(report)
    assert plain["conclusive"] == report.conclusive == (not report.doubts)
    return plain


def test_a_tilt_is_told():
    rng = np.random.default_rng(0)
    report = audit(data_of([rng.normal(size=400)], [0.5 + rng.normal(size=400)]), **FEW)
    plain = sound(report)
    words = verdict(report)
    assert words[0].startswith(f"effective tilt {report.tilt} per unit of reward")
    assert "explained by exp(0." in words[1]
    assert words[2].startswith("KL to the base is at least")
    assert words[-1] == "beyond the tilt: cannot conclude, because no features were given"
    assert plain["conclusive"]
    assert plain["tilt"]["low"] < 0.5 < plain["tilt"]["high"]
    assert [c["name"] for c in plain["wrappers"]] == [c.name for c in report.wrappers.candidates]
    refused = set(plain["wrappers_refused"])
    assert {c["name"] for c in plain["wrappers"]} | refused == {"exponential", "linear"}
    assert "conditional" not in plain
    assert "excess" not in plain


def test_no_tilt_is_told():
    words = verdict(audit(rows(200, 200, a=0.0), **FEW))
    assert "not told from no tilt" in words[0]
    (kl,) = (line for line in words if line.startswith("KL"))
    assert "at most" in kl


def test_few_rows():
    report = audit(rows(19, 60), **FEW)
    assert report.doubts == ("base has 19 samples, 20 are needed",)
    assert verdict(report) == [f"cannot conclude, because {report.doubts[0]}"]
    assert sound(report)["tilt"] is None
    assert len(audit(rows(5, 6), **FEW).doubts) == 2
    assert audit(rows(60, 19), **FEW).doubts == ("tuned has 19 samples, 20 are needed",)


def test_constant_rewards():
    report = audit(data_of(np.full((2, 30), 0.3), np.full((2, 30), 0.3)), **FEW)
    assert "constant in every prompt" in report.doubts[0]
    sound(report)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("prompts", "n"), [(1, 40), (30, 4), (4, 300)])
def test_separated_rewards(prompts, n):
    rng = np.random.default_rng(0)
    base = 0.1 * rng.normal(size=(prompts, n))
    report = audit(data_of(base, 10 + 0.1 * rng.normal(size=(prompts, n))), **FEW)
    assert "separated in every prompt, the tuned ones above" in report.doubts[0]
    sound(report)


def test_tiny_effective_size():
    report = audit(rows(60, 60, a=2.5), **FEW)
    assert "30 are needed: draw about" in report.doubts[0]
    words = verdict(report)
    assert words[1].startswith("for what it is worth, the likeliest tilt is")
    plain = sound(report)
    assert ALGEBRA.holds(plain["effective_samples"], report.reweighted.total)
    assert plain["effective_samples"] < 30


def test_features_and_a_planted_prompt():
    report = audit(planted(np.random.default_rng(1), 4, 80, scale=[1, 1, 0.3, 1]), **FEW)
    plain = sound(report)
    words = "\n".join(verdict(report))
    assert "given prompt and reward, tuned samples are not the base's (p ≤ 0.01)" in words
    assert "mostly in prompts 'prompt 2'" in words
    assert "diversity lost beyond the tilt" in words
    assert plain["conditional"]["p_value"] == 1 / 100
    assert plain["excess"]["lost"]["value"] > 0
    assert plain["features"] == 4
    wider = "\n".join(verdict(audit(planted(np.random.default_rng(1), 2, 80, scale=2.0), **FEW)))
    assert "diversity gained beyond the tilt" in wider


def test_features_of_a_mere_tilt():
    report = audit(planted(np.random.default_rng(2), 2, 120), **FEW)
    assert "given prompt and reward, tuned samples look like the base's" in "\n".join(
        verdict(report)
    )
    sound(report)


def test_features_of_too_few_rows():
    data = planted(np.random.default_rng(3), 1, 45, a=0.2)
    report = audit(data.take(np.arange(45), np.arange(20)), **FEW)
    assert report.conclusive
    assert report.conditional is None
    assert "pairs" in report.beyond[0]
    sound(report)


def test_by_prompt_rows_are_the_prompts():
    """One prompt with constant rewards, which has no tilt, before others, which have."""
    rng = np.random.default_rng(4)
    base = [rng.normal(size=60), np.ones(30), 5 + rng.normal(size=50), rng.normal(size=40)]
    tuned = [rng.normal(size=55), np.ones(25), 6 + rng.normal(size=45), rng.normal(size=35)]
    report = audit(data_of(base, tuned), **FEW)
    plain = sound(report)
    found = plain["by_prompt"]
    assert [row["prompt"] for row in found] == [f"prompt {i}" for i in range(4)]
    assert [row["base_samples"] for row in found] == [60, 30, 50, 40]
    assert [row["tuned_samples"] for row in found] == [55, 25, 45, 35]
    assert ALGEBRA.holds([r["base_reward"] for r in found], [b.mean() for b in base])
    assert ALGEBRA.holds([r["tuned_reward"] for r in found], [t.mean() for t in tuned])
    assert [row["tilt"] is None for row in found] == [False, True, False, False]
    for g in (0, 2, 3):
        alone = audit(data_of([base[g]], [tuned[g]]), **FEW)
        assert abs(found[g]["tilt"] - alone.tilt.value) < 0.2 * found[g]["tilt_error"]
    assert "1 prompts with constant rewards say nothing of the tilt" in plain["notes"][0]


def test_left_out_prompts_and_shared_seeds_are_noted():
    rng = np.random.default_rng(5)
    report = audit(
        audit_data(
            rng.normal(size=61),
            rng.normal(size=60),
            ["a"] * 60 + ["b"],
            ["a"] * 60,
            base_seed=np.arange(61),
            tuned_seed=np.arange(60),
            common_prompts=True,
        ),
        **FEW,
    )
    plain = sound(report)
    assert plain["left_out"] == ["b"]
    assert any("one side alone" in note for note in plain["notes"])
    assert any("share seeds" in note for note in plain["notes"])
    assert plain["by_prompt"] == []


def test_tilts_that_vary_are_told():
    own = np.random.default_rng(6).choice([-0.6, 1.2], size=20)
    words = verdict(audit(gaussians(np.random.default_rng(6), 20, 60, 60, own), **FEW))
    assert "it varies between prompts, by a standard deviation of" in words[0]


def test_no_wrapper_explains_everything():
    rng = np.random.default_rng(7)
    words = verdict(audit(data_of([rng.normal(size=600)], [0.3 * rng.normal(size=600)]), **FEW))
    assert words[1].startswith("explained by no wrapper; nearest is ")


def test_refused_options():
    with pytest.raises(ValueError, match=r"permutations must .*got 18"):
        audit(rows(60, 60), permutations=18)
    with pytest.raises(ValueError, match=r"wrapper must .*got 'exp'"):
        audit(rows(60, 60), wrappers=("exp",))


@pytest.mark.parametrize(
    ("p", "permutations", "words"),
    [
        (0.01, 99, "p ≤ 0.01"),
        (0.02, 99, "p = 0.02"),
        (1e-9, None, "p < 0.0001"),
        (0.034, None, "p = 0.034"),
    ],
)
def test_p_in_words(p, permutations, words):
    assert p_words(p, permutations) == words
