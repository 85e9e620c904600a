"""Samples that misled the audit: copies, units, deviations, one row, a base that does not vary."""

from __future__ import annotations

import numpy as np
import pytest

from theory.audit import audit, audit_data, validity, verdict
from theory.audit.data.copies import distinct
from theory.audit.estimators.validity import Check
from theory.audit.families.families import FAMILIES
from theory.common.tolerances import ALGEBRA, QUADRATURE

QUICK = {"wrappers": ["linear"], "permutations": 39, "second": False}
TIMES = 4


def rows(seed, prompts=4, n=60, dim=0, scale=1.0):
    """Columns of N(0, 1) rewards, with seeds of their own and features of deviation `scale`."""
    rng = np.random.default_rng(seed)
    count = prompts * n
    found = {
        "reward": rng.normal(size=count), "prompt": np.repeat(np.arange(prompts), n),
        "seed": 1000 * seed + np.arange(count),
    }  # fmt: skip
    if dim:
        found["features"] = scale * rng.normal(size=(count, dim))
    return found


def data_of(base, tuned):
    def named(side, columns):
        return {f"{side}_{name}": values for name, values in columns.items()}

    return audit_data(**named("base", base), **named("tuned", tuned))


def tiled(columns, times=TIMES):
    """Every row several times, one beside the other."""
    return {name: np.repeat(values, times, axis=0) for name, values in columns.items()}


def without(columns, *names):
    return {name: values for name, values in columns.items() if name not in names}


def answer(report, name) -> Check:
    return next(check for check in report.validity if check.name == name)


# --- A2: copies


@pytest.mark.parametrize("known", ["seeds", "values", "features"])
def test_a2_copies_count_once(known):
    base, tuned = (rows(seed, dim=8 if known == "features" else 0) for seed in (1, 2))
    if known != "seeds":
        base, tuned = without(base, "seed"), without(tuned, "seed")
    once = audit(data_of(base, tuned), **QUICK)
    found = audit(data_of(tiled(base), tiled(tuned)), **QUICK)
    assert found.copies.left_out == (720, 720)
    assert found.copies.by_seed == ((720, 720) if known == "seeds" else (0, 0))
    assert (found.tilt.value, found.tilt.error) == (once.tilt.value, once.tilt.error)
    assert verdict(found) == verdict(once)
    said = answer(found, "copies")
    assert said.ok is False
    assert "720 of 960 base rows" in said.answer
    assert "each sample counts once" in said.answer
    assert answer(once, "copies").answer == "none"


def test_a2_every_row_four_times_is_no_evidence():
    """Before: interval half as wide, every wrapper refused, tuned samples not the base's."""
    hits = 0
    for seed in range(40):
        base, tuned = rows(2 * seed), rows(2 * seed + 1)
        tilt = audit(data_of(tiled(base), tiled(tuned)), wrappers=["exponential"]).tilt
        hits += tilt.low <= 0 <= tilt.high
    assert hits >= 33  # of 40 at 95 %: fewer once in 5e4; at a coverage of 0.65 once in 70 as many


def test_a2_copies_of_some_rows_and_in_any_order():
    rng = np.random.default_rng(0)
    base, tuned = without(rows(1), "seed"), without(rows(2), "seed")
    order = rng.permutation(340)
    more = {k: np.concatenate([v, v[:100]])[order] for k, v in base.items()}
    _, found = distinct(data_of(more, tuned))
    assert found.left_out == (100, 0)


def test_a2_pictures_encoded_again():
    """Features off by a thousandth, rewards by rounding."""
    rng = np.random.default_rng(0)
    base, tuned = (without(rows(seed, dim=8), "seed") for seed in (1, 2))
    again = tiled(base)
    again["features"] = again["features"] * (1 + 1e-3 * rng.normal(size=again["features"].shape))
    again["reward"] = again["reward"].astype(np.float32)
    _, found = distinct(data_of(again, tuned))
    assert found.left_out == (720, 0)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("power", [4, 8])
def test_a2_a_flat_reward_of_few_features_makes_no_copies(power, dim):
    """Near its maximum rewards are equal to a millionth, and one feature always has a neighbour."""
    sides = []
    for seed in (1, 2):
        x = np.random.default_rng(seed).normal(size=(2000, dim))
        sides.append({"reward": -(np.abs(x[:, 0]) ** power), "features": x})
    assert distinct(data_of(*sides))[1].left_out == (0, 0)
    written = [{name: np.concatenate([v, v[:400]]) for name, v in side.items()} for side in sides]
    assert distinct(data_of(*written))[1].left_out == (400, 400)


def test_a2_prompts_in_two_spellings():
    rng = np.random.default_rng(0)
    reward, other = rng.normal(size=60), rng.normal(size=120)
    two = np.repeat(["a caf\u00e9", "A  cafe\u0301 "], 60)
    data = audit_data(np.tile(reward, 2), other, two, two)
    kept, found = distinct(data)
    assert found.by_value == (60, 0)
    assert kept.prompts == ("A  cafe\u0301 ",)
    assert (len(kept.base), len(kept.tuned)) == (60, 120)
    assert "one prompt in several spellings counts as one" in answer(audit(data), "copies").answer
    # Without copies they stay two prompts, and that is said.
    data = audit_data(rng.normal(size=120), other, two, two)
    report = audit(data, **QUICK)
    assert len(report.data.prompts) == 2
    assert answer(report, "prompts").ok is False
    assert "in several spellings" in answer(report, "prompts").answer


def legitimate():
    rng = np.random.default_rng(3)
    binary = (rng.random(2000) < 0.9) * 1.0
    clipped = np.clip(rng.normal(size=3000), -1, 1)
    features = (rng.normal(size=(2000, 3)) > 0) * 1.0
    return {
        "0 and 1": (binary, None),
        "0 and 1, features too": (binary, features),
        "0 and 1, a dense feature": (binary, rng.normal(size=(2000, 1))),
        "ratings": (rng.integers(1, 11, size=2000) / 2, None),
        "three digits": (np.round(rng.normal(size=3000), 3), None),
        "three digits in other units": (3.7 * np.round(rng.normal(size=3000), 3) + 11, None),
        "half precision": ((0.25 + 0.05 * rng.normal(size=3000)).astype(np.float16), None),
        "at a bound": (clipped, None),
        "at a bound, with features": (clipped, np.stack([clipped, clipped**2], 1)),
        "file sizes": (np.round(900 + 200 * rng.normal(size=3000)), None),
    }


@pytest.mark.parametrize("prompts", [1, 20])
@pytest.mark.parametrize("name", legitimate())
def test_a2_ties_that_chance_makes_are_samples(name, prompts):
    reward, features = legitimate()[name]
    columns = {"reward": reward, "prompt": np.arange(len(reward)) % prompts}
    if features is not None:
        columns["features"] = features
    _, found = distinct(data_of(columns, columns))
    assert found.left_out == (0, 0)
    # And every one of them twice is found even so, where there are values enough to tell.
    if len(np.unique(reward)) * prompts > 60:
        _, found = distinct(data_of(tiled(columns, 2), columns))
        assert found.left_out == (len(reward), 0)


@pytest.mark.parametrize("size", [1, 6])
def test_a2_seeds_that_are_no_names(size):
    """A constant seed, and that of a batch: rows of one seed are other samples."""
    columns = [rows(1), rows(2)]
    for side in columns:
        side["seed"] = np.arange(240) // 6 if size == 6 else np.full(240, 7)
    data = data_of(*columns)
    kept, found = distinct(data)
    assert found.left_out == (0, 0)
    # Rows of one seed are paired in turn: the interval is not that of one pair a prompt.
    found = audit(kept, wrappers=["exponential"]).tilt
    plain = audit(data_of(*(without(c, "seed") for c in columns)), wrappers=["exponential"]).tilt
    assert 0.7 < found.error / plain.error < 1.4


# --- A3: units


@pytest.mark.parametrize("unit", [1e6, 1e-6])
def test_a3_units_change_nothing(unit):
    """Tuned features have 0.6 of the base's deviation; a ninth of another unit has the base's."""
    found = []
    for size in (1.0, unit):
        base, tuned = rows(1, n=150, dim=8), rows(2, n=150, dim=8, scale=0.6)
        for seed, side in ((3, base), (4, tuned)):
            ninth = size * np.random.default_rng(seed).normal(size=(600, 1))
            side["features"] = np.hstack([side["features"], ninth])
        found.append(audit(data_of(base, tuned), **QUICK))
    first, second = (report.excess for report in found)
    # 8 of 9 features lose 0.64 of their variance: 0.57 of the standardised ones'.
    assert first.lost.low < 0.57 < first.lost.high
    for name in ("base", "implied", "frechet_total", "frechet_excess", "p_value"):
        assert QUADRATURE.holds(getattr(second, name), getattr(first, name), 1.0)
    assert QUADRATURE.holds(second.lost.value, first.lost.value)
    assert found[0].conditional.p_value == found[1].conditional.p_value
    assert "% of the variance of standardised features" in "\n".join(verdict(found[1]))


def test_a3_a_constant_feature_is_dropped():
    base, tuned = rows(1, n=150, dim=3), rows(2, n=150, dim=3)
    plain = audit(data_of(base, tuned), **QUICK)
    for side in (base, tuned):
        side["features"] = np.hstack([side["features"], np.full((600, 1), 0.1)])
    found = audit(data_of(base, tuned), **QUICK)
    assert QUADRATURE.holds(found.excess.base, plain.excess.base)
    assert "4, of which 1 do not vary" in answer(found, "features").answer


# --- A4: n - 1


@pytest.mark.parametrize("each", [1, 2, 5])
def test_a4_deviation_within_prompts(each):
    """Rewards p % 7 + N(0, 1), tuned ones + 0.5: a tilt of 0.5 per standard deviation."""
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(1200), each)
    base, tuned = (prompt % 7 + move + rng.normal(size=len(prompt)) for move in (0, 0.5))
    report = audit(audit_data(base, tuned, prompt, prompt), wrappers=["exponential"])
    line = verdict(report)[0]
    per = float(line.split("(")[1].split(" ")[0])
    expected = base.reshape(1200, each).var(1, ddof=1).mean() ** 0.5 if each > 1 else 1.0
    assert abs(per / report.tilt.value - expected) < (0.01 if each > 1 else 0.1)
    whose = " of both sides' rewards" if each == 1 else ""
    assert f"per standard deviation{whose} within prompts" in line


# --- B1, B2


def test_b1_a_base_that_does_not_vary():
    tuned = np.random.default_rng(0).normal(size=500)
    report = audit(audit_data(np.full(500, 0.3), tuned))
    assert not report.conclusive
    assert "no tilt of such a base makes these" in report.doubts[0]
    assert answer(report, "base").ok is False
    # Prompts of one base reward each are no such base.
    few = data_of(rows(1, prompts=200, n=1), rows(2, prompts=200, n=1))
    assert audit(few, wrappers=["exponential"]).conclusive


@pytest.mark.parametrize("reward", [30.0, 1e6, 1e9])
def test_b2_one_row_decides(reward):
    """Before: "draw about 60000 base samples"; a conclusive negative tilt, of a truth of 0.5."""
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=2000), rng.normal(size=2000) + 0.5
    right = audit(audit_data(np.delete(base, 16), tuned), wrappers=["exponential"])
    base[16] = reward
    report = audit(audit_data(base, tuned), wrappers=["exponential"])
    assert not report.conclusive
    assert len(report.doubts) == 1
    assert report.doubts[0].startswith(f"one row decides: without base row 17 (reward {reward:.4g}")
    assert str(right.tilt) in report.doubts[0]
    assert answer(report, "row").ok is False
    assert QUADRATURE.holds(report.influence.row.tilt.value, right.tilt.value)
    assert answer(right, "row").ok is True
    assert right.conclusive


def test_b2_a_tuned_row_decides_kl_alone():
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=1000), rng.normal(size=1000) + 0.5
    tuned[5] = 1e6
    report = audit(audit_data(base, tuned), wrappers=["exponential"])
    assert report.conclusive
    assert report.kl is None
    assert any("tuned row 6 (reward 1e+06) decides" in n or "without tuned row 6" in n
               for n in report.notes)  # fmt: skip


def test_b2_a_row_decides_diversity():
    base, tuned = rows(1, n=150, dim=3), rows(2, n=150, dim=3)
    base["features"][7, 1] = 1e5
    report = audit(data_of(base, tuned), **QUICK)
    assert report.excess is None
    assert any("one row decides it: without base row 8" in why for why in report.beyond)
    assert answer(report, "features").ok is False
    assert "base row 8, feature 2" in answer(report, "features").answer


def test_influence_is_that_of_fits_without():
    """The row, the prompt named are those whose loss moves the tilt most, by trying each."""
    rng = np.random.default_rng(4)
    sizes = [12, 5, 20, 8]
    who = np.repeat(np.arange(4), sizes)
    base, tuned = rng.normal(size=45), rng.normal(size=45) + 0.4

    def tilt(kept0, kept1):
        pooled = audit_data(base[kept0], tuned[kept1], who[kept0], who[kept1]).pooled
        return FAMILIES["exponential"].fit(pooled).parameters["a"]

    every = np.ones(45, dtype=bool)
    report = audit(audit_data(base, tuned, who, who), wrappers=["exponential"])
    moved = [
        [abs(tilt(*(np.arange(45) != i if s == side else every for s in (0, 1)))
             - report.tilt.value) for i in range(45)]
        for side in (0, 1)
    ]  # fmt: skip
    side, row = np.unravel_index(np.argmax(moved), (2, 45))
    assert report.influence.row.tilt is not None
    change = abs(report.influence.row.tilt.value - report.tilt.value)
    assert QUADRATURE.holds(change, moved[side][row])
    assert f"{('base', 'tuned')[side]} row {row + 1} " in answer(report, "row").answer
    by_prompt = [abs(tilt(who != g, who != g) - report.tilt.value) for g in range(4)]
    change = abs(report.influence.prompt.tilt.value - report.tilt.value)
    assert QUADRATURE.holds(change, max(by_prompt))


def test_validity_comes_with_its_numbers():
    base, tuned = rows(1, dim=2), rows(2, dim=2)
    report = audit(
        data_of(base, tuned), sampling={"steps": (["20"], ["50"]), "scheduler": (["DDIM"],) * 2},
        **QUICK,
    )  # fmt: skip
    names = [check.name for check in report.validity]
    assert names == ["prompts", "copies", "shared", "sampling", "base", "features", "enough",
                     "row", "prompt", "percent"]  # fmt: skip
    said = answer(report, "sampling")
    assert said.ok is False
    assert said.answer == "no: steps '20' in base, '50' in tuned; scheduler DDIM"
    assert answer(audit(data_of(base, tuned), **QUICK), "sampling").ok is None
    assert len(validity(report)) == len(names)
    same = audit(data_of(base, base), **QUICK)
    assert answer(same, "shared").ok is False
    assert ALGEBRA.holds(answer(report, "enough").numbers["effective"], report.reweighted.total)
