"""The comparison sheet: which pictures stand where, and the numbers beside it."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from scaleup.comparison.comparison import Row, compare
from scaleup.comparison.metrics import (
    Estimate,
    Frechet,
    accuracy,
    diversity,
    frechet_distance,
    mean_reward,
    reward_gain,
)
from scaleup.comparison.sheet import DPI, SIDE, _choose, comparison_sheet, sample_grid
from scaleup.samples.samples import SampleSet

PROMPTS = ("a red square", "a very long prompt, " * 6, "costs $5 and $6_x^")
SUM = "0.7*redness+0.3*brightness"


def made(which, n=9, shift=0.0, **changes):
    """n made-up pictures: one colour each, told from its index and the model."""
    index = torch.arange(n)
    noise = torch.rand(n, 8, generator=torch.Generator().manual_seed(int(100 * shift)))
    levels = (20 * index + (7 if which == "tuned" else 0)).to(torch.uint8)
    images = torch.stack([levels, 255 - levels, 60 + 0 * levels], 1)[..., None, None]
    base = SampleSet(
        which,
        PROMPTS,
        index,
        1000 + index,
        index % 3,
        {SUM: index.double() ** 2 / 9 + shift, "shapes": (noise[:, 0] > 0.4).double()},
        images.expand(n, 3, 6, 6).contiguous(),
        None,
        noise + shift,
    )
    return replace(base, **changes)


def of(comparison, name):
    """The one measure of that name."""
    (row,) = (row for row in comparison.rows if row.name == name)
    return row


BASE, TUNED = made("base"), made("tuned", shift=0.5)
OF_UNLIKE_PROMPTS = [
    replace(samples, prompt_index=torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]))
    for samples in (BASE, TUNED)
]


def test_numbers_are_those_of_the_metrics():
    found = compare(BASE, TUNED, seed=3)
    a, b = BASE.rewards[SUM].numpy(), TUNED.rewards[SUM].numpy()
    assert found.n == 9
    assert found.prompts == 3
    reward = of(found, f"reward {SUM}")
    assert reward.base == mean_reward(a, 3)
    assert reward.tuned == mean_reward(b, 3)
    assert reward.change == reward_gain(a, b, 3)
    assert of(found, "prompt accuracy").tuned == accuracy(TUNED.rewards["shapes"].numpy() == 1)
    f, g = BASE.features.numpy(), TUNED.features.numpy()
    assert of(found, "diversity").base == diversity(f, seed=3)
    assert of(found, "diversity within prompts").tuned == diversity(g, np.arange(9) % 3, 3)
    assert of(found, "Frechet distance to the base").tuned == frechet_distance(f, g, 3)
    assert reward.change.value > 0
    swapped = compare(TUNED, BASE, seed=3)
    assert of(swapped, f"reward {SUM}").change.value < 0


def test_pairs_are_by_index_whatever_the_order():
    order = torch.tensor([5, 1, 2, 8, 0])
    found = compare(BASE, TUNED.take(order.sort().values), seed=3)
    a, b = (s.rewards[SUM].numpy()[[0, 1, 2, 5, 8]] for s in (BASE, TUNED))
    assert of(found, f"reward {SUM}").change == reward_gain(a, b, 3)


def test_what_cannot_be_measured_is_said():
    flat = {SUM: torch.ones(9, dtype=torch.float64), "redness": torch.zeros(9).double()}
    bare = compare(replace(BASE, rewards=flat, features=None), TUNED)
    assert [row.name for row in bare.rows] == [f"reward {SUM}"]
    assert bare.rows[0].change is None
    for needle in ("constant over the base", "'redness' is recorded for base", "no diversity"):
        assert any(needle in note for note in bare.notes)
    lone = [
        made(w, n=4, shift=s, prompts=(*PROMPTS, "x"), prompt_index=torch.arange(4))
        for w, s in (("base", 0), ("tuned", 0.5))
    ]
    assert any("no diversity within prompts" in note for note in compare(*lone).notes)
    with pytest.raises(ValueError, match="pairs of samples must be at least 4, got 3"):
        compare(made("base", 3), TUNED)
    with pytest.raises(ValueError, match="sample 0 must have one seed and prompt"):
        compare(replace(BASE, seed=BASE.seed + 1), TUNED)


def test_the_sheet_and_its_files(tmp_path):
    before, (base, tuned) = dict(mpl.rcParams), OF_UNLIKE_PROMPTS
    found = comparison_sheet(base, tuned, 3, tmp_path / "run" / "comparison.png", seed=1)
    assert dict(mpl.rcParams) == before
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert names == ["comparison.json", "comparison.md", "comparison.png"]
    numbers = json.loads((tmp_path / "run/comparison.json").read_text())
    assert numbers == json.loads(json.dumps(found.as_json()))
    assert numbers["rows"][0]["change"]["value"] == found.rows[0].change.value
    text = (tmp_path / "run/comparison.md").read_text()
    assert r"reward 0.7\*redness+0.3\*brightness" in text
    assert "base sd" in text
    # Every picture that was asked for, and no other, is on the page, base above tuned.
    page = np.asarray(Image.open(tmp_path / "run/comparison.png").convert("RGB"))
    heights = {}
    for samples in (base, tuned):
        for row in range(9):
            colour = samples.images[row, :, 0, 0].numpy()
            place = np.argwhere((page == colour).all(-1))
            if len(place) > (SIDE * DPI / 2) ** 2:
                heights[samples.which, row] = place.mean(0)
    assert set(heights) == {(w, r) for w in ("base", "tuned") for r in (0, 3, 5)}
    for row in (0, 3, 5):
        (y, x), (below, beside) = heights["base", row], heights["tuned", row]
        assert below > y + SIDE * DPI
        assert abs(beside - x) < 2
    assert heights["base", 0][1] < heights["base", 3][1] < heights["base", 5][1]
    # Nothing is cut: the rim of the page is white.
    rim = np.concatenate([page[0], page[-1], page[:, 0], page[:, -1]])
    assert (rim == 255).all()


def test_same_samples_same_bytes(tmp_path):
    for name in "ab":
        comparison_sheet(BASE, TUNED, 2, tmp_path / f"{name}.png")
    for ending in ("png", "json", "md"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_rows_are_of_many_prompts():
    asked, _ = OF_UNLIKE_PROMPTS
    assert _choose(asked, 4).tolist() == [0, 3, 5, 1]
    assert _choose(asked, 99).tolist() == [0, 3, 5, 1, 4, 6, 2, 7, 8]


def test_a_grid_keeps_its_pixels(tmp_path):
    """Four levels in a 2 x 2 picture come out as four squares of the same levels."""
    picture = torch.tensor([[10, 80], [160, 240]]).double().expand(1, 3, 2, 2) / 255
    sample_grid(torch.cat([picture] * 3), ["a", PROMPTS[1], PROMPTS[2]], tmp_path / "g.png", 2)
    page = np.asarray(Image.open(tmp_path / "g.png").convert("L"))
    for level in (10, 80, 160, 240):
        share = (page == level).sum() / (3 * (SIDE * DPI) ** 2)
        assert 0.2 < share < 0.3
    sample_grid(picture, ["a"], tmp_path / "h.png")
    assert (np.asarray(Image.open(tmp_path / "h.png").convert("L")) == 80).sum() > 1000


def test_bad_input(tmp_path, monkeypatch):
    pictures = BASE.images.double() / 255
    for images, captions in ((pictures, ["a"]), (pictures[:0], [])):
        with pytest.raises(ValueError, match="captions must be one an image"):
            sample_grid(images, captions, tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"must have shape \(n, 3, h, w\)"):
        sample_grid(pictures[0], ["a"], tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"rows must.*got 0"):
        comparison_sheet(BASE, TUNED, 0, tmp_path / "c.png")
    with pytest.raises(ValueError, match="without images"):
        comparison_sheet(replace(BASE, images=None), TUNED, 3, tmp_path / "c.png")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*c\.png: No space"):
        comparison_sheet(BASE, TUNED, 3, tmp_path / "c.png")
    assert not any(tmp_path.iterdir())


def test_a_row_in_words():
    assert Row("x", None, None).words() == ("x", "", "", "")
    plain, unbiased = Estimate(1.0, 0.5, 2.0), Frechet(1.0, 0.2, 0.9, 0.6, 0.3)
    words = Row("x", plain, unbiased, plain, "base sd").words()
    assert words == ("x", "1 [0.5, 2]", "0.6 [0.2, 0.9] (plain 1)", "1 [0.5, 2] base sd")
