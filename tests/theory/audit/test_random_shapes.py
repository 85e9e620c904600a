"""The whole audit on data of random shapes: a verdict or a named reason, never a traceback.

Quick here; PLUMBLINE_PROFILE=ci or thorough draws more, and up to thousands of rows a prompt.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from theory.audit import as_json, audit, audit_data, validity, verdict
from theory.audit.families.families import FAMILIES

EXAMPLES = {"": 40, "ci": 40, "thorough": 3000}
PROFILE = os.environ.get("PLUMBLINE_PROFILE", "")
MOST = 4000 if PROFILE == "thorough" else 400  # rows of a side
REWARDS = (
    "normal",
    "binary",
    "rounded",
    "heavy",
    "clipped",
    "constant",
    "float32",
    "outlier",
    "shared",
)
FEATURES = ("none", "normal", "units", "binary", "constant", "rewards", "outlier")
SEEDS = ("none", "own", "shared", "constant", "batch", "one side")
SIZES = (1e-300, 1e-8, 1.0, 1e8, 1e153, 1e300)


@dataclass(frozen=True)
class Shape:
    """What is drawn: rows of each prompt on either side, laws, units."""

    rows: tuple[tuple[int, int], ...]
    reward: str
    tilt: float
    zero: float
    size: float
    features: str
    dim: int
    seeds: str
    copies: int
    wrappers: tuple[str, ...]
    seed: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    prompts = draw(st.one_of(st.integers(1, 4), st.integers(1, 80)))
    most = max(MOST // prompts, 1)
    side = st.one_of(st.integers(1, min(4, most)), st.integers(1, most))
    kind = draw(st.sampled_from(("even", "ragged", "one large")))
    if kind == "even":
        rows = (draw(st.tuples(side, side)),) * prompts
    elif kind == "ragged":
        rows = tuple(draw(st.lists(st.tuples(side, side), min_size=prompts, max_size=prompts)))
    else:
        rows = ((MOST // 2, MOST // 3), *(draw(st.tuples(side, side)),) * (prompts - 1))
    return Shape(
        rows,
        draw(st.sampled_from(REWARDS)),
        draw(st.sampled_from((0.0, 0.3, -1.0, 4.0, 40.0))),
        draw(st.sampled_from((0.0, 3.0, -1e4))),
        draw(st.sampled_from(SIZES)),
        draw(st.sampled_from(FEATURES)),
        draw(st.integers(1, 6)),
        draw(st.sampled_from(SEEDS)),
        draw(st.sampled_from((1, 1, 1, 2, 5))),
        tuple(draw(st.sets(st.sampled_from(tuple(FAMILIES)), min_size=1, max_size=3))),
        draw(st.integers(0, 2**32 - 1)),
    )


def data_of(shape: Shape):
    rng = np.random.default_rng(shape.seed)
    names = [f"prompt {i}" for i in range(len(shape.rows))]
    middle = rng.normal(size=len(names))
    columns: dict[str, np.ndarray] = {}
    noise = rng.normal(size=sum(map(sum, shape.rows)))
    for number, (side, move) in enumerate((("base", 0.0), ("tuned", shape.tilt))):
        who = np.repeat(np.arange(len(names)), [pair[number] for pair in shape.rows])
        n = len(who)
        drawn = noise[:n] if shape.reward == "shared" else rng.normal(size=n)
        r = _rewards(shape.reward, drawn + middle[who] + move, rng)
        found = {"reward": shape.size * (r + shape.zero), "prompt": np.array(names)[who]}
        if shape.features != "none":
            found["features"] = _features(shape, rng, r, n)
        if shape.seeds != "none" and (side == "base" or shape.seeds != "one side"):
            found["seed"] = {
                "own": np.arange(n) + 10**6 * number,
                "constant": np.full(n, 7),
                "batch": np.arange(n) // 4,
            }.get(shape.seeds, np.arange(n))
        for name, values in found.items():
            columns[f"{side}_{name}"] = np.repeat(values, shape.copies, axis=0)
    return audit_data(**columns)


def _rewards(kind: str, r: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = {
        "binary": (r > 0) * 1.0,
        "rounded": np.round(r, 1),
        "heavy": np.sinh(np.clip(2 * r, -10, 10)),
        "clipped": np.clip(r, -0.5, 0.5),
        "constant": np.full(len(r), 0.1),
        "float32": r.astype(np.float32).astype(np.float64),
    }.get(kind, r)
    if kind == "outlier":
        found = np.array(found)
        found[rng.integers(len(found))] = 1e6
    return found


def _features(shape: Shape, rng: np.random.Generator, r: np.ndarray, n: int) -> np.ndarray:
    f = rng.normal(size=(n, shape.dim))
    if shape.features == "units":
        f = f * 10.0 ** rng.integers(-30, 30, size=shape.dim)
    elif shape.features == "binary":
        f = (f > 1) * 1.0
    elif shape.features == "constant":
        f[:, rng.integers(shape.dim) :] = 0.1
    elif shape.features == "rewards":
        f = np.tile(r[:, None], shape.dim)
    elif shape.features == "outlier":
        f[rng.integers(n), 0] = 1e12
    return f.astype(rng.choice([np.float32, np.float64]))


@settings(
    derandomize=True,
    deadline=None,
    max_examples=EXAMPLES[PROFILE],
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(shapes())
def test_a_verdict_or_a_named_reason(shape):
    data = data_of(shape)
    with np.errstate(all="raise", under="ignore"):
        report = audit(data, wrappers=shape.wrappers, permutations=19, second=shape.seed % 4 == 0)
        lines = verdict(report)
        found = json.dumps(as_json(report), allow_nan=False)
    assert report.conclusive == (not report.doubts)
    assert report.conclusive or all(doubt.strip() for doubt in report.doubts)
    assert lines
    assert len(validity(report)) >= 6
    assert report.tilt is None or report.tilt.low <= report.tilt.value <= report.tilt.high
    assert "nan" not in " ".join(lines).lower()
    assert json.loads(found)["verdict"] == lines
