"""What an audit gathers from two tables."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scaleup.audit.gather import from_tables
from theory.audit.data.tables import Table


def table(source, prompts, codes, first=0, **changes):
    n = len(codes)
    parts = {
        "source": str(source),
        "reward": first + np.arange(n, dtype=float),
        "prompts": tuple(prompts),
        "prompt": np.array(codes),
        "seed": None,
        "features": None,
        "images": None,
    }
    return Table(**(parts | changes))


def of_prompt(side, prompts):
    """{prompt: its rewards}."""
    return {p: side.reward[side.prompt == i].tolist() for i, p in enumerate(prompts)}


def test_prompts_are_merged_by_name():
    """Both files number their prompts by first appearance: indices must not be compared."""
    base = table("b.csv", ["x", "y", "z"], [0, 1, 2, 1])
    tuned = table("t.csv", ["z", "x", "y"], [0, 1, 2, 0], first=10)
    found = from_tables(base, tuned)
    data = found.data
    assert set(data.prompts) == {"x", "y", "z"}
    assert of_prompt(data.base, data.prompts) == {"x": [0], "y": [1, 3], "z": [2]}
    assert of_prompt(data.tuned, data.prompts) == {"x": [11], "y": [12], "z": [10, 13]}
    assert (found.source, found.reward, found.pictures) == ("t.csv against b.csv", "reward", None)


def test_prompts_of_one_table_only():
    base = table("b.csv", ["x", "y"], [0, 1, 0])
    tuned = table("t.csv", ["y", "w"], [1, 0, 0], first=10)
    with pytest.raises(ValueError, match=r"1 only in base \('x'\); 1 only in tuned \('w'\)"):
        from_tables(base, tuned)
    data = from_tables(base, tuned, common_prompts=True).data
    assert data.prompts == ("y",)
    assert sorted(data.left_out) == ["w", "x"]
    assert (data.base.reward.tolist(), data.base.row.tolist()) == ([1], [1])
    assert (data.tuned.reward.tolist(), data.tuned.row.tolist()) == ([11, 12], [1, 2])


def paired(base_seed, tuned_seed):
    base = table("b", ["x"], [0] * 3, seed=base_seed)
    return from_tables(base, table("t", ["x"], [0] * 3, seed=tuned_seed)).data.paired


ARRAYS_COMPARED = "BUG: `None in (base.seed, tuned.seed)` compares arrays, which raises"


def test_seeds_of_tables():
    seeds = np.array([5, 6, 7])
    assert paired(seeds, np.array([7, 8, 9]))
    assert not paired(seeds, seeds + 100)


@pytest.mark.parametrize(
    "first",
    [False, pytest.param(True)],
)
def test_seeds_of_one_table_say_nothing(first):
    seeds = np.array([5, 6, 7])
    assert not paired(None, None)
    assert not (paired(seeds, None) if first else paired(None, seeds))


def test_features_of_tables():
    wide = np.arange(6, dtype=np.float32).reshape(3, 2)
    base = table("b", ["x", "y"], [1, 0, 1], features=wide)
    data = from_tables(base, table("t", ["y", "x"], [0, 1, 1], features=-wide)).data
    for side, sign in ((data.base, 1), (data.tuned, -1)):
        assert np.array_equal(side.features[:, 0], sign * 2 * side.reward)
    with pytest.raises(ValueError, match="tuned has no features"):
        from_tables(base, table("t", ["x", "y"], [0, 1, 1]))
    with pytest.raises(ValueError, match="as many features, got 2 and 1"):
        from_tables(base, table("t", ["x", "y"], [0, 1, 1], features=wide[:, :1]))


def draw_files(folder, levels):
    """Grey pictures; the last is RGBA, and one has another size."""
    folder.mkdir()
    for i, level in enumerate(levels):
        mode = "RGBA" if i == len(levels) - 1 else "L"
        color = (level, level, level, 255) if mode == "RGBA" else level
        Image.new(mode, (4 + i, 3), color).save(folder / f"{i}.png")
    return tuple(f"{i}.png" for i in range(len(levels)))


def test_pictures_of_tables(tmp_path):
    """Paths count from the table's own folder, not the working one; absolute ones are kept."""
    names = draw_files(tmp_path / "b", [10, 20, 30])
    other = draw_files(tmp_path / "t", [40, 50, 60])
    other = (str(tmp_path / "t" / other[0]), *other[1:])
    base = table(tmp_path / "b" / "b.csv", ["x", "y"], [1, 0, 1], images=names)
    tuned = table(tmp_path / "t" / "t.csv", ["x", "y"], [0, 1, 0], images=other)
    found = from_tables(base, tuned)
    pictures = found.pictures(0, [2, 0])
    assert [tuple(p.shape) for p in pictures] == [(3, 3, 6), (3, 3, 4)]
    assert [sorted(set(p.flatten().tolist())) for p in pictures] == [[30], [10]]
    assert [int(p[0, 0, 0]) for p in found.pictures(1, [0, 1, 2])] == [40, 50, 60]
    bare = table("t.csv", ["x", "y"], [0, 1, 0])
    assert from_tables(base, bare).pictures is None
    (tmp_path / "b" / "1.png").write_bytes(b"no picture")
    (tmp_path / "b" / "2.png").unlink()
    for row in (1, 2):
        with pytest.raises(ValueError, match=rf"image = .*{row}\.png' cannot be read"):
            found.pictures(0, [row])
