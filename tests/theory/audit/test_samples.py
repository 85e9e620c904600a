"""Samples of an audit: what is refused, what stays aligned, what pairs of one seed leave."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from tests.theory.audit.synthetic import data_of
from theory.audit.data.inputs import audit_data
from theory.audit.data.samples import Pooled
from theory.common.tolerances import ALGEBRA

R3, R4 = np.arange(3.0), np.arange(4.0)
F3, F4 = np.ones((3, 2)), np.ones((4, 2))
P3, P4 = ["a", "b", "a"], ["b", "a", "a", "b"]


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (
            (np.array([0.0, np.nan, np.inf]), R4),
            {},
            r"base rewards must be finite .*, got 2 rows .* row 1",
        ),
        (
            (R3, np.array([0.0, 1, 2, -np.inf])),
            {},
            r"tuned rewards must be finite .*, got 1 rows .* row 3",
        ),
        ((R3[:, None], R4), {}, r"base rewards must .*, got float64 of shape \(3, 1\)"),
        ((R3, 2.0), {}, r"tuned rewards must .*, got float64 of shape \(\)"),
        ((R3 > 0, R4), {}, r"base rewards must be real numbers .*, got bool"),
        ((R3, np.array(list("abcd"))), {}, r"tuned rewards must be real numbers"),
        ((R3, R4, None, P4), {}, r"both sides or neither, base has no prompts"),
        ((R3, R4, P3, None), {}, r"both sides or neither, tuned has no prompts"),
        ((R3, R4, P4, P4), {}, r"base prompts must have shape \(3,\), got \(4,\)"),
        ((R3, R4, ["a"] * 3, P4), {}, r"common_prompts leave .*, got 1 only in tuned \('b'\)"),
        ((R3, R4, ["c"] * 3, P4), {"common_prompts": True}, r"must have a prompt in common"),
        ((R3, R4, ["c"] * 3, P4), {}, r"must have a prompt in common"),
        (([], R4), {}, r"must have a prompt in common"),
        ((R3, R4, [0, 1, 2], [0, 1, 1, 0]), {"prompt_names": ["x", "y"]}, r"0 to 1"),
        (
            (R3, R4, [0, 1, -1], [0, 1, 1, 0]),
            {"prompt_names": ["x", "y"]},
            r"base prompts must be .* from -1 to 1",
        ),
        (
            (R3, R4, [0, 1, 1], [0, 1, 1, 2]),
            {"prompt_names": ["x", "y"]},
            r"tuned prompts must be .* from 0 to 2",
        ),
        (
            (R3, R4, [0.0, 1, 1], [0, 1, 1, 1]),
            {"prompt_names": ["x", "y"]},
            r"must be indices into 2",
        ),
        ((R3, R4), {"base_features": F3}, r"both sides or neither, tuned has no features"),
        ((R3, R4), {"tuned_features": F4}, r"base has no features"),
        (
            (R3, R4),
            {"base_features": F3, "tuned_features": np.ones((4, 3))},
            r"as many features, got 2 and 3",
        ),
        ((R3, R4), {"base_features": F4, "tuned_features": F4}, r"base .*\(3, d\)"),
        (
            (R3, R4),
            {"base_features": R3, "tuned_features": F4},
            r"base features must .*, got float64 of shape \(3,\)",
        ),
        ((R3, R4), {"base_features": F3[:, :0], "tuned_features": F4}, r"\(3, 0\)"),
        (
            (R3, R4),
            {"base_features": F3, "tuned_features": F4 * np.nan},
            r"tuned features must be finite .*, got 4 rows",
        ),
        ((R3, R4), {"base_features": F3 > 0, "tuned_features": F4}, r"base features .*bool"),
        ((R3, R4), {"base_seed": [0.0, 1, 2]}, r"base seeds must be whole numbers"),
        (
            (R3, R4),
            {"tuned_seed": [0, 1, 2]},
            r"tuned seeds must .* shape \(4,\), got .* shape \(3,\)",
        ),
    ],
)
def test_refused(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        audit_data(*arguments, **keywords)


def test_many_missing_prompts_are_not_all_shown():
    names = [f"a prompt of some length, number {i:04d}, that goes on" for i in range(9)]
    with pytest.raises(ValueError, match=r"8 only in base .*…' and 5 more\)") as caught:
        audit_data(np.arange(9.0), R3, names, [names[0]] * 3)
    assert "0005" not in str(caught.value)


def test_only_common_prompts_are_kept():
    found = audit_data(
        [0.0, 1, 2, 3, 4],
        [5.0, 6, 7],
        ["c", "a", "x", "a", "c"],
        ["c", "y", "a"],
        common_prompts=True,
        prompt_names=None,
    )
    assert found.prompts == ("a", "c")
    assert set(found.left_out) == {"x", "y"}
    assert found.base.row.tolist() == [1, 3, 0, 4]
    assert found.base.reward.tolist() == [1, 3, 0, 4]
    assert found.base.prompt.tolist() == [0, 0, 1, 1]
    assert (found.tuned.row.tolist(), found.tuned.prompt.tolist()) == ([2, 0], [0, 1])


def some(rng, n, m, prompts=5):
    """Columns that all name their row."""
    p, q = (
        np.concatenate([np.arange(prompts), rng.integers(prompts, size=k - prompts)])
        for k in (n, m)
    )
    p, q = rng.permutation(p), rng.permutation(q)
    r, s = rng.normal(size=n), rng.normal(size=m)
    data = audit_data(
        r,
        s,
        p,
        q,
        prompt_names=list("vwxyz"),
        base_features=np.stack([r, 2 * r], 1),
        tuned_features=np.stack([s, 2 * s], 1),
        base_seed=np.arange(n),
        tuned_seed=100 + np.arange(m),
    )
    return data, (r, s), (p, q)


def test_sorting_keeps_rows_together():
    data, rewards, prompts = some(np.random.default_rng(0), 60, 41)
    for side, r, p, first in zip((data.base, data.tuned), rewards, prompts, (0, 100), strict=True):
        assert (np.diff(side.prompt) >= 0).all()
        assert (side.reward == r[side.row]).all()
        assert (side.prompt == p[side.row]).all()
        assert (side.features == np.stack([side.reward, 2 * side.reward], 1)).all()
        assert (side.seed == first + side.row).all()
        assert sorted(side.row) == list(range(len(r)))
        part = side.take(side.reward > 0)
        assert (part.features[:, 0] == part.reward).all()
        assert (part.seed == first + part.row).all()
    assert data.dim == 2
    assert data_of([R3], [R4]).dim == 0


def test_texts_and_numbers_name_prompts():
    one = audit_data(R3, R4, ["10", "9", "9"], [9, 10, 9, 10])
    assert one.prompts == ("10", "9")
    assert one.base.reward.tolist() == [0, 1, 2]
    assert audit_data(R3, R4).prompts == ("",)


def test_pooled_sums_are_loops():
    data, (r, s), (p, q) = some(np.random.default_rng(1), 60, 41)
    pooled = data.pooled
    both, prompt = np.concatenate([r, s]), np.concatenate([p, q])
    label = np.concatenate([np.zeros(60), np.ones(41)])
    assert ALGEBRA.holds(pooled.centre, both.mean())
    assert ALGEBRA.holds(pooled.spread, both.std())
    assert ALGEBRA.holds(pooled.z, (pooled.reward - both.mean()) / both.std())
    values = np.random.default_rng(2).normal(size=(len(pooled), 2))
    for g in range(5):
        rows = pooled.prompt == g
        assert ALGEBRA.holds(pooled.sums(values)[g], sum(values[rows]))
        assert pooled.n1[g] == ((prompt == g) & (label == 1)).sum()
        assert pooled.n0[g] == ((prompt == g) & (label == 0)).sum()
        assert sorted(pooled.reward[rows]) == sorted(both[prompt == g])
        assert sorted(pooled.reward[rows & ~pooled.is_base]) == sorted(s[q == g])
        assert pooled.over_rows(pooled.n1)[rows].tolist() == [pooled.n1[g]] * rows.sum()
    assert pooled.unit is None
    assert not data.paired


def test_small_rows_are_those_of_small_prompts():
    rng = np.random.default_rng(3)
    sizes = [(3, 2), (40, 4), (1, 1), (16, 16), (17, 16)]
    data = data_of([rng.normal(size=n) for n, _ in sizes], [rng.normal(size=m) for _, m in sizes])
    place, used = data.pooled.small_rows
    assert place.shape == used.shape == (3, 32)
    for row, g in enumerate((0, 2, 3)):
        assert place[row][used[row]].tolist() == np.flatnonzero(data.pooled.prompt == g).tolist()


def test_two_sided_and_take():
    label = np.array([0, 1, 0, 0, 1, 1, 1], dtype=float)
    prompt = np.array([0, 0, 1, 1, 1, 3, 3])
    pooled = Pooled.sorted(np.arange(7.0) ** 2, label, prompt)
    everything = np.ones(7, dtype=bool)
    assert pooled.two_sided(everything).tolist() == [True] * 5 + [False] * 2
    rows = np.array([True, True, True, True, False, True, True])
    assert pooled.two_sided(rows).tolist() == [True, True] + [False] * 5
    part = pooled.take(np.array([False, False, True, True, True, False, False]))
    assert (part.count, part.centre, part.spread) == (1, pooled.centre, pooled.spread)
    assert ALGEBRA.holds(part.z, pooled.z[2:5])


# --- seeds on both sides


def keys(side):
    return collections.Counter(zip(side.prompt.tolist(), side.seed.tolist(), strict=True))


def seeded(base, tuned):
    """From (prompt, seed) pairs a row."""
    rng = np.random.default_rng(len(base))
    (p, u), (q, v) = (np.array(rows).T for rows in (base, tuned))
    return audit_data(
        rng.normal(size=len(p)),
        rng.normal(size=len(q)),
        p,
        q,
        prompt_names=list("abcdefgh"[: max(p) + 1]),
        base_seed=u,
        tuned_seed=v,
    )


PAIRS = {
    "all shared": ([(g, s) for g in range(3) for s in range(7)],) * 2,
    "some shared": (
        [(g, s) for g in range(3) for s in range(9)],
        [(g, s) for g in range(3) for s in range(5, 12)],
    ),
    "many base rows alone": (
        [(g, s) for g in range(2) for s in range(40)],
        [(g, s) for g in range(2) for s in range(35, 45)],
    ),
    "a seed twice": ([(0, 1), (0, 1), (0, 2), (0, 3)], [(0, 1), (0, 2), (0, 2), (0, 3)]),
    "the same seed in another prompt": ([(0, 1), (1, 2)], [(0, 2), (1, 1), (0, 3), (1, 3)]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_unpaired_leaves_no_pair(name):
    data = seeded(*PAIRS[name])
    found = data.unpaired()
    assert not keys(found.base) & keys(found.tuned)
    assert not found.paired
    shared = set(keys(data.base)) & set(keys(data.tuned))
    assert data.paired == bool(shared)
    # What stood alone among the tuned stays; a shared key keeps all rows of one side, unless the
    # base rows that stand alone are as many as the tuned ones.
    lonely = {k: n for k, n in keys(data.tuned).items() if k not in shared}
    assert all(keys(found.tuned)[k] == n for k, n in lonely.items())
    alone = {k: n for k, n in keys(data.base).items() if k not in shared}
    assert all(keys(found.base)[k] == n for k, n in alone.items())
    if sum(alone.values()) >= len(data.tuned):
        assert keys(found.tuned) == keys(data.tuned)
    else:
        for key in shared:
            kept = keys(found.base)[key], keys(found.tuned)[key]
            assert kept in ((keys(data.base)[key], 0), (0, keys(data.tuned)[key]))
        by_side = [sum(1 for k in shared if keys(s)[k]) for s in (found.base, found.tuned)]
        assert abs(by_side[0] - by_side[1]) <= 1


def test_rows_without_a_pair_are_left_alone():
    data = seeded(*PAIRS["the same seed in another prompt"])
    assert data.unpaired() is data
    assert seeded([(0, 1), (0, 2)], [(0, 2)]).paired


def test_units_are_pairs():
    data = seeded([(0, 5), (0, 6), (1, 5)], [(1, 5), (0, 6), (0, 7)])
    unit = data.pooled.unit
    rows = list(zip(data.pooled.prompt.tolist(), data.pooled.label.tolist(), strict=True))
    named = collections.defaultdict(list)
    for number, row in zip(unit.tolist(), rows, strict=True):
        named[number].append(row)
    assert sorted(map(sorted, named.values())) == [
        [(0, 0.0)],
        [(0, 0.0), (0, 1.0)],
        [(0, 1.0)],
        [(1, 0.0), (1, 1.0)],
    ]


def test_unpaired_keeps_every_prompt_that_it_can():
    """Prompt 0: ten pairs. Prompt 1: base rows alone, more than all tuned rows. Five pairs of
    prompt 0 could stay on each side; all its base rows go, and the prompt with them."""
    base = [(0, s) for s in range(10)] + [(1, 100 + s) for s in range(100)]
    tuned = [(0, s) for s in range(10)] + [(1, 500 + s) for s in range(10)]
    found = seeded(base, tuned).unpaired()
    assert np.bincount(found.base.prompt, minlength=2).min() > 0
    assert np.bincount(found.tuned.prompt, minlength=2).min() > 0


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_large_finite_features_are_finite():
    big = np.full((3, 4), 2e38, dtype=np.float32)
    audit_data(R3, R3, base_features=big, tuned_features=big)
