"""released, N6 by two routes: maps of one start, and laws of the samplers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.core import Array, Context, Finding, Identity, Tally, extra
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle.flow import LineField
from theory.ledger.oracle.released import times as oracle
from theory.ledger.released.sampling.moves import (
    COUNT,
    EVALUATION,
    FINE,
    GRID,
    TRAINING,
    move,
)
from theory.ledger.settings.problems import Problems, Setting
from theory.problems.problem import load_problem
from theory.released.times import (
    KnownAtTimes,
    Sampler,
    uniform_times,
)

FINE_FLOW = Sampler("ode", uniform_times(64))  # to the tier


FINE_POINTS = 1201  # to the tier


LINE = Problems(max_condition=100.0)


def start_of(s: Setting) -> Array:
    """The setting's point as a start x_0, within three standard deviations."""
    return 3 * np.tanh(s.x / 3)


def scale_of(s: Setting) -> float:
    """2/nft_beta: no longer a step than Euler's ten can follow."""
    return abs(s.a) + 0.1 * s.case.scale


def _mapped(s: Setting, sampler: Sampler, times: Sequence[float], stretch: float = 1.0) -> Array:
    """T(x_0) under every model of the field that was trained at `times`."""
    full = s.problem.cumulant_field(stretch * scale_of(s), 1)
    x0 = torch.as_tensor(start_of(s))[:, None]
    return np.array(
        [
            float(sampler.push(KnownAtTimes(full, tuple(times), m), x0)[0])
            for m in ("linear", "nearest", "none")
        ]
    )


def _whole_by_sums(s: Setting) -> Array:
    return np.repeat(oracle.euler(LineField(s.case, scale=scale_of(s)), start_of(s), GRID), 3)


def _known_by_sums(s: Setting) -> Array:
    return np.concatenate(
        [
            oracle.euler(
                oracle.known_field(s.case, scale_of(s), GRID[1:], m),
                start_of(s),
                EVALUATION_TIMES,
            )
            for m in ("linear", "nearest", "none")
        ]
    )


EVALUATION_TIMES = uniform_times(FINE)


def _map_size(s: Setting) -> float:
    """Maps are compared in units of the data, or of a step that is long."""
    return 1.0 + scale_of(s) * s.spread


def _known(s: Setting, models: Sequence[int]) -> Array:
    """The first route with its models in another order."""
    return _mapped(s, EVALUATION, GRID[1:])[list(models)]


SAME_SAMPLER = Identity(
    f"Euler {COUNT}, all its times trained: T(x_0) is that of v*",
    LINE,
    lambda s: _mapped(s, TRAINING, GRID),
    _whole_by_sums,
    {
        "the time nearest to the data left out": lambda s: _mapped(s, TRAINING, GRID[:-1]),
        "the time nearest to the noise left out": lambda s: _mapped(s, TRAINING, GRID[1:]),
        "another sampler": lambda s: _mapped(s, EVALUATION, GRID),
        "1 % off": lambda s: _mapped(s, TRAINING, GRID, 1.01),
    },
    _map_size,
    role="condition",
    dims=(1,),
    share=0.4,
)


ROUTES = Identity(
    f"Euler {FINE} of a field trained at {COUNT - 1} times: T(x_0) by two routes",
    LINE,
    lambda s: _mapped(s, EVALUATION, GRID[1:]),
    _known_by_sums,
    {
        "models exchanged": lambda s: _known(s, (1, 0, 2)),
        "as if learned everywhere": lambda s: _known(s, (0, 1, 1)),
        "the time nearest to the noise trained": lambda s: _mapped(s, EVALUATION, GRID),
    },
    _map_size,
    role="support",
    tier=QUADRATURE_TIGHT,
    dims=(1,),
    share=0.2,
)


@extra
def laws_agree(context: Context) -> Finding:
    """TV and mean reward by slopes carried along, and by distribution functions and sums."""
    tally = Tally(QUADRATURE, "all ten times trained")
    for name in ("bumps_1d", "note_1d")[: 1 + (context.profile.starts > 0)]:
        problem, case = load_problem(name), plain_numbers(load_problem(name))
        nodes, weight = oracle.reward_nodes()
        whole = oracle.euler(LineField(case, scale=problem.scale), oracle.STARTS, EVALUATION_TIMES)
        field = oracle.known_field(case, problem.scale, GRID[:-1], "linear")
        known = oracle.euler(field, oracle.STARTS, EVALUATION_TIMES)
        ends = oracle.euler(field, nodes, EVALUATION_TIMES)
        theirs = [oracle.total_variation(whole, known), oracle.mean_reward(case, ends, weight)]
        for times, wrong in ((GRID[:-1], ""), (GRID, "all ten times trained")):
            ours = move(name, EVALUATION, times, "linear", FINE_POINTS)
            tally.compare([ours.tv, ours.reward], theirs, 1.0, name, wrong)
        tally.add(_flow_gap(name), name)
    return tally.finding(
        "TV, mean reward and the ODE's map by two routes", "support", f"error {tally}"
    )


def _flow_gap(name: str) -> float:
    """The largest gap between the two routes' maps by the ODE, linear in between."""
    problem, case = load_problem(name), plain_numbers(load_problem(name))
    x0 = np.linspace(-2.4, 2.4, 5)
    field = KnownAtTimes(problem.cumulant_field(problem.scale, 1), GRID, "linear")
    ours = FINE_FLOW.push(field, torch.as_tensor(x0)[:, None])[0].numpy()
    theirs = oracle.ode(oracle.known_field(case, problem.scale, GRID), x0, GRID[1:])
    return QUADRATURE.error(ours, theirs, 1.0)
