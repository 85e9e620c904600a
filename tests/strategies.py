"""Hypothesis strategies: valid random problems by construction (theory.ledger.settings.random)."""

from __future__ import annotations

import math
import os

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from theory.ledger.oracle.instants import instant
from theory.ledger.settings.plane import Array, PlaneProblem
from theory.ledger.settings.random import (
    KINDS,
    MAX_CONDITION,
    SPREADS,
    Shape,
    most_components,
    random_case,
    random_point,
)

# Examples of a test: quick here, more with PLUMBLINE_PROFILE=ci (in CI) or thorough.
EXAMPLES = {"": (24, 8), "ci": (60, 14), "thorough": (600, 140)}
MANY, SOME = (
    settings(derandomize=True, deadline=None, max_examples=count)
    for count in EXAMPLES[os.environ.get("PLUMBLINE_PROFILE", "")]
)

seeds = st.integers(0, 2**32 - 1)
times = st.one_of(st.floats(0.0, 0.99), st.sampled_from([0.0, 1e-6, 0.5, 0.99]))


@st.composite
def shapes(draw: st.DrawFn, dims: tuple[int, ...], kinds: tuple[str, ...] = KINDS) -> Shape:
    """Dimension, components, condition number, kind of reward and its spread."""
    dim = draw(st.sampled_from(dims))
    condition = math.exp(draw(st.floats(0.0, math.log(MAX_CONDITION))))
    return Shape(
        dim=dim,
        components=draw(st.integers(1, most_components(dim, condition))),
        condition=condition,
        kind=draw(st.sampled_from(kinds)),
        spread=math.exp(draw(st.floats(math.log(SPREADS[0]), math.log(SPREADS[1])))),
        bumps=draw(st.integers(1, 2)),
    )


@st.composite
def cases(
    draw: st.DrawFn, dims: tuple[int, ...], kinds: tuple[str, ...] = KINDS
) -> tuple[PlaneProblem, Array, float]:
    """A problem, a point of X_t (sometimes three times as far out as it should be), and t."""
    case = random_case(draw(shapes(dims, kinds)), draw(seeds))
    t = draw(times)
    tail = draw(st.sampled_from([1.0, 1.0, 3.0]))
    rng = np.random.default_rng(draw(seeds))
    return case, random_point(case, instant("rectified_flow", t), rng, tail), t
