"""From a run's folder to an audit's samples: which rows, which pictures."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from scaleup.audit import run_samples
from scaleup.audit.run_samples import from_run
from scaleup.comparison.features import Features, Statistics
from scaleup.rewards.contract import parse_reward
from scaleup.samples.records import SampleWriter
from scaleup.training.config import TrainConfig
from scaleup.training.identity import IDENTITY, run_digest

PROMPTS = ["", "a red square", "a cyan cross"]
LABELS = ("redness", "0.5*a+b")
SIZES = {"bank": 7, "base": 5, "tuned": 4, "audit_base": 9, "audit_tuned": 6}
SEEDS = {"bank": 0, "base": 100, "tuned": 100, "audit_base": 200, "audit_tuned": 300}
# Every number is told from the set it belongs to and its index there.
MARK = {which: 20 * (i + 1) for i, which in enumerate(SIZES)}


class Corner(Features):
    """The first pixel's first channel and one more: told from the picture."""

    name, dim = "corner", 2

    def __call__(self, images):
        return torch.stack([images[:, 0, 0, 0], images[:, 1, 0, 0]], 1)


def begun(folder, reward="redness", **changes):
    """A run's config.json."""
    content = asdict(TrainConfig(reward=reward)) | dict.fromkeys(IDENTITY, "0") | changes
    (folder / "config.json").write_text(json.dumps(content))


def maker(folder):
    """What drew the run's own samples."""
    return f"{run_digest(json.loads((folder / 'config.json').read_text()))}-code"


def write(folder, which, labels=LABELS, prompts=PROMPTS, images=True, n=None, made_by=None):
    index = torch.arange(SIZES[which] if n is None else n)
    mark = (MARK[which] + index).to(torch.uint8)
    picture = torch.stack([mark, 255 - mark, 0 * mark], 1)[:, :, None, None].expand(-1, -1, 4, 4)
    rewards = {label: MARK[which] + index + 0.5 * i for i, label in enumerate(labels)}
    by = maker(folder) if made_by is None else made_by
    with SampleWriter(folder, which, prompts, made_by=by) as writer:
        writer.add(
            index,
            SEEDS[which] + index,
            1 + index % 2,
            {label: values.double() for label, values in rewards.items()},
            picture.contiguous() if images else None,
        )


@pytest.fixture
def folder(tmp_path):
    """A run with a bank, base and tuned samples."""
    begun(tmp_path, "redness")
    for which in ("bank", "base", "tuned"):
        write(tmp_path, which)
    return tmp_path


def numbers(*sets):
    """What rewards of these sets are, in their order."""
    return np.concatenate([MARK[which] + np.arange(SIZES[which]) for which in sets])


def in_order(side):
    """A side's rewards as they were given, before they were sorted by prompt."""
    return side.reward[np.argsort(side.row)]


def test_base_and_bank_against_tuned(folder):
    found = from_run(folder, Corner())
    data = found.data
    assert in_order(data.base).tolist() == numbers("base", "bank").tolist()
    assert in_order(data.tuned).tolist() == numbers("tuned").tolist()
    assert data.prompts == tuple(PROMPTS[1:])
    assert data.left_out == ()
    assert (found.source, found.reward) == (str(folder), "redness")
    for side in (data.base, data.tuned):
        assert np.all(np.diff(side.prompt) >= 0)
        # Row by row: the features are of the row's picture, the seed and the prompt its own.
        assert np.array_equal(np.round(255 * side.features[:, 0]), side.reward)
        assert np.array_equal(np.round(255 * side.features[:, 1]), 255 - side.reward)
        assert np.array_equal(side.seed % 100, side.reward % 20)
        assert np.array_equal(side.prompt, side.reward % 20 % 2)


def test_shared_seeds_are_pairs(folder):
    """Base and tuned have four in common, bank and tuned none: also where indices agree."""
    data = from_run(folder, Corner()).data
    assert data.paired
    _, counts = np.unique(data.pooled.unit, return_counts=True)
    assert sorted(counts) == [1] * (SIZES["bank"] + 1) + [2] * SIZES["tuned"]


def test_samples_drawn_for_the_audit_come_first(folder):
    write(folder, "audit_base")
    before = from_run(folder, Corner()).data
    assert in_order(before.base).tolist() == numbers("base", "bank").tolist()
    write(folder, "audit_tuned")
    data = from_run(folder, Corner()).data
    assert in_order(data.base).tolist() == numbers("audit_base").tolist()
    assert in_order(data.tuned).tolist() == numbers("audit_tuned").tolist()
    assert not data.paired


def test_a_run_without_a_bank(tmp_path):
    begun(tmp_path, "redness")
    for which in ("base", "tuned"):
        write(tmp_path, which)
    data = from_run(tmp_path, Corner()).data
    assert in_order(data.base).tolist() == numbers("base").tolist()


# --- the reward


def test_another_recorded_reward(folder):
    found = from_run(folder, Corner(), "0.5*a+b")
    assert found.reward == "0.5*a+b"
    expected = 0.5 + numbers("base", "bank")
    assert in_order(found.data.base).tolist() == expected.tolist()


def test_a_bank_that_lacks_the_reward_is_left_out(tmp_path):
    begun(tmp_path, "redness")
    write(tmp_path, "bank", labels=LABELS[:1])
    for which in ("base", "tuned"):
        write(tmp_path, which)
    assert len(from_run(tmp_path, Corner()).data.base) == SIZES["base"] + SIZES["bank"]
    assert len(from_run(tmp_path, Corner(), LABELS[1]).data.base) == SIZES["base"]


def test_a_reward_that_was_not_recorded(folder):
    with pytest.raises(
        ValueError, match=r"reward recorded in .* must be .*redness.* got 'blueness'"
    ):
        from_run(folder, Corner(), "blueness")


def test_the_runs_own_reward_in_its_canonical_form(tmp_path):
    """config.json holds what was asked for; the records hold the parsed reward's label."""
    asked = "brightness:zero=0.370"
    label = parse_reward(asked).label
    assert label != asked
    begun(tmp_path, asked)
    for which in ("base", "tuned"):
        write(tmp_path, which, labels=("redness", label))
    found = from_run(tmp_path, Corner())
    assert found.reward == label
    assert in_order(found.data.tuned).tolist() == (0.5 + numbers("tuned")).tolist()


def test_the_runs_own_reward_where_its_file_has_moved(tmp_path):
    """One label is recorded, so that is it; of several it is not guessed."""
    begun(tmp_path, "gone/my_reward.py:strength=2")
    for which in ("base", "tuned"):
        write(tmp_path, which, labels=("greenness:strength=2.0",))
    assert from_run(tmp_path, Corner()).reward == "greenness:strength=2.0"


def test_of_several_labels_none_is_guessed(tmp_path):
    begun(tmp_path, "gone/my_reward.py")
    for which in ("base", "tuned"):
        write(tmp_path, which)
    with pytest.raises(
        ValueError, match=r"'gone/my_reward.py', is none of those recorded in .*'redness'"
    ):
        from_run(tmp_path, Corner())


def test_a_reward_that_cannot_be_parsed_is_named(tmp_path):
    begun(tmp_path, "gone/my_reward.py")
    for which in ("base", "tuned"):
        write(tmp_path, which)
    with pytest.raises(ValueError, match="my_reward"):
        from_run(tmp_path, Corner())


# --- pictures and features


def test_pictures_are_of_the_rows_asked_for(folder):
    """Rows as `Side.row` counts them, over base and bank together."""
    found = from_run(folder, Corner())
    for i, (side, rows) in enumerate(
        ((found.data.base, [11, 0, 5, 4]), (found.data.tuned, [3, 1]))
    ):
        place = {int(row): j for j, row in enumerate(side.row)}
        pictures = found.pictures(i, rows)
        assert [p.dtype for p in pictures] == [np.uint8] * len(rows)
        assert [tuple(p.shape) for p in pictures] == [(3, 4, 4)] * len(rows)
        assert [int(p[0, 0, 0]) for p in pictures] == [side.reward[place[row]] for row in rows]


def test_features_in_chunks_are_those_of_all(folder, monkeypatch):
    whole = from_run(folder, Statistics()).data
    monkeypatch.setattr(run_samples, "CHUNK", 2)
    parts = from_run(folder, Statistics()).data
    assert whole.dim == Statistics.dim
    assert np.array_equal(parts.base.features, whole.base.features)
    assert np.array_equal(parts.tuned.features, whole.tuned.features)


# --- runs that are refused


def test_no_samples(tmp_path):
    with pytest.raises(ValueError, match=r"run must be the folder .* which holds no samples"):
        from_run(tmp_path, Corner())
    begun(tmp_path)
    write(tmp_path, "bank")
    with pytest.raises(ValueError, match=r"samples/base must be .* holds no samples"):
        from_run(tmp_path, Corner())


FOREIGN = {
    "another run's": ("tuned", "0123456789-code-weights"),
    "an older version's": ("base", ""),
    "another run's bank": ("bank", "0123456789-code"),
    "other code's": ("tuned", None),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_samples_of_another_run_or_code(case, folder):
    """E2: samples of another run, copied in, are not reported under this run's name."""
    which, by = FOREIGN[case]
    by = f"{maker(folder)[:10]}-other-weights" if by is None else by
    write(folder, which, made_by=by)
    with pytest.raises(
        ValueError, match=rf"{which} must be drawn by .* another run or by other code"
    ):
        from_run(folder, Corner())
    write(folder, which, made_by=f"{maker(folder)}-weights")
    from_run(folder, Corner())


def test_a_run_of_another_version(folder):
    begun(folder)
    content = json.loads((folder / "config.json").read_text())
    del content["model_files"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"of Plumbline, and is another's \(model_files differ\)"):
        from_run(folder, Corner())


def test_other_prompts(tmp_path):
    begun(tmp_path, "redness")
    write(tmp_path, "base", prompts=["", "a cyan cross", "a red square"])
    write(tmp_path, "tuned")
    with pytest.raises(ValueError, match="base and tuned samples must have the same prompts"):
        from_run(tmp_path, Corner())


def test_samples_without_images(tmp_path):
    begun(tmp_path, "redness")
    write(tmp_path, "base")
    write(tmp_path, "tuned", images=False)
    with pytest.raises(ValueError, match="tuned samples were recorded without images"):
        from_run(tmp_path, Corner())


def test_few_samples_miss_some_prompts(tmp_path):
    begun(tmp_path, "redness")
    write(tmp_path, "base")
    write(tmp_path, "tuned", n=1)
    data = from_run(tmp_path, Corner()).data
    assert (data.prompts, data.left_out) == (("a red square",), ("a cyan cross",))
    assert in_order(data.base).tolist() == numbers("base")[::2].tolist()
