"""nabla, conditions without a flow or with a part of it: G6 and G7.

First routes: `theory.gflownet`'s kernels and flows; second routes: integrals over X_T and their
numerical derivatives (`theory.ledger.oracle.gflownet`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from theory.gflownet.balance import ResidualBalance
from theory.gflownet.flows import (
    look_ahead_strengths,
    residual_flows,
)
from theory.gflownet.kernels import kernel_scores
from theory.ledger.core import Array, Context, Finding, Identity, number, row
from theory.ledger.gflownet.points import EVEN, base_of, flows_of, residual_of, score_size
from theory.ledger.oracle.gflownet import flows as oracle
from theory.ledger.oracle.gflownet import looking
from theory.ledger.settings.gflownet import FlowSetting
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Exponential

# --- G6: no flow


def _three(s: FlowSetting) -> tuple[int, Array, Array, Array]:
    """k, x_k, x_{k+1}, x_{k+2}."""
    k = min(s.k, s.numbers.steps - 2)
    return k, s.states[k], s.states[k + 1], s.states[k + 2]


def _forces(s: FlowSetting, sign: float = -1.0, base: float = 1.0, turned: bool = False) -> Array:
    """grad' log Pt(x'|x), then -grad' log Pt(x''|x'): Remark 6 says that they are one, (2 d,)."""
    k, *states = _three(s)
    x, here, after = (torch.as_tensor(state)[None] for state in states)
    own, prior = flows_of(s), base_of(s)

    def force(step: int, one: Tensor, other: Tensor, which: int) -> Tensor:
        ours = kernel_scores(own, step, one, other)[which]
        return ours - base * kernel_scores(prior, step, one, other)[which]

    ahead = force(k, x, here, 0 if turned else 1)
    return np.concatenate([row(ahead), row(sign * force(k + 1, here, after, 0))])


def _flow_between(s: FlowSetting) -> Array:
    """The score of the residual flow at x' twice, from integrals."""
    k, _, here, _ = _three(s)
    score = oracle.residual_score(s.numbers, k + 1, here)
    return np.concatenate([score, score])


BIDIRECTIONAL = Identity(
    "grad' log Pt(x'|x) and -grad' log Pt(x''|x') are one function of x', the flow's score",
    EVEN,
    _forces,
    _flow_between,
    {
        "sign": lambda s: _forces(s, sign=1.0),
        "without the pretrained kernel": lambda s: _forces(s, base=0.0),
        "the first kernel's gradient in x": lambda s: _forces(s, turned=True),
    },
    score_size,
)


def _directional(points: int, steps: int, with_flow: bool) -> Array:
    """The conditions on tables log Pt_k (points x points, k = 0 .. steps - 1), without a terminal
    one, as a matrix: Remark 6's, or (11) and (13)'s with the flow's scores as more unknowns."""
    n = points * points
    flows = (steps + 1) * points if with_flow else 0
    slope = np.diff(np.eye(points), axis=0)  # of a function of one state, between its points
    rows = []

    def table(k: int, before: Array, after: Array) -> Array:
        line = np.zeros(steps * n + flows)
        line[k * n : (k + 1) * n] = np.outer(before, after).ravel()
        return line

    def flow(k: int, j: int) -> Array:
        line = np.zeros(steps * n + flows)
        line[steps * n + k * points + j] = 1.0
        return line

    eye = np.eye(points)
    for k in range(steps):
        for i in range(points):
            for j in range(points - 1):
                ahead, behind = table(k, eye[i], slope[j]), table(k, slope[j], eye[i])
                if with_flow:
                    rows += [ahead - flow(k + 1, j), behind + flow(k, j)]
                elif k + 1 < steps:
                    after = [table(k + 1, slope[j], eye[m]) for m in range(points)]
                    rows += [ahead + other for other in after]
    return np.array(rows)


def _ranks(points: int, steps: int) -> tuple[int, int, int]:
    """Dimensions of the tables that meet Remark 6, of those that meet (11) and (13) with some flow,
    and of those that meet both: equal where the conditions are equivalent."""
    n = steps * points * points
    both = _directional(points, steps, with_flow=True)
    alone = _directional(points, steps, with_flow=False)
    free = n - np.linalg.matrix_rank(alone)
    # A flow's scores follow from the tables, but the last point of each state's is in no condition.
    seen = (steps + 1) * (points - 1)
    directional = n + seen - np.linalg.matrix_rank(both)
    joined = np.vstack([both, np.pad(alone, ((0, 0), (0, both.shape[1] - n)))])
    return int(free), int(directional), int(n + seen - np.linalg.matrix_rank(joined))


def equivalence(context: Context) -> Finding:
    """Tables of log Pt on a few points, differences for gradients: dimensions of the solutions."""
    found = {}
    for points, steps in ((4, 2), (5, 3), (4, 4)):
        found[f"{points} points, T = {steps}"] = _ranks(points, steps)
    holds = all(len(set(dims)) == 1 for dims in found.values())
    free = _ranks(4, 3)[0]
    one_way = 3 * 16 - np.linalg.matrix_rank(_directional(4, 3, with_flow=False)[::4])
    return Finding(
        name="Remark 6 on all triples = (11) and (13) with some flow",
        role="claim",
        kind="exact",
        holds=holds,
        figure="dimensions of both solution sets: "
        + ", ".join(f"{v[0]} and {v[1]} ({k})" for k, v in found.items()),
        numbers={"dimensions": {k: list(v) for k, v in found.items()}},
        worst="neither knows the reward: (14) has to be added to both",
        mutants={"Remark 6 at one x'' alone": bool(one_way != free)},
    )


G6_PARTS = (BIDIRECTIONAL, equivalence)


# --- G7: forward-looking


def _gammas(s: FlowSetting) -> Array:
    """1, the signal coefficient of x_k, and its square."""
    signal = s.numbers.alpha[s.k] / s.numbers.alpha[s.numbers.steps]
    return np.array([1.0, signal, signal**2])


def _remainders(s: FlowSetting, ahead: Callable[[FlowSetting], Array] | None = None) -> Array:
    """g at x_k for the three gammas, (3 d,)."""
    flows = residual_of(s)
    if ahead is None:
        parts = [row(flows.remainder(s.k, s.point, float(g))) for g in _gammas(s)]
    else:
        parts = [row(flows.score(s.k, s.point)) - g * ahead(s) for g in _gammas(s)]
    return np.concatenate(parts)


def _at_the_state(s: FlowSetting) -> Array:
    """grad log R^beta at x itself, where xhat stands."""
    return row(residual_of(s).look_ahead(s.chain.steps, s.point, 1.0))


def _held(s: FlowSetting) -> Array:
    """grad log R^beta at xhat, xhat's Jacobian left out."""
    flows = residual_of(s)
    return row(flows.look_ahead(s.chain.steps, flows.predicted(s.k, s.point), 1.0))


def _left_over(s: FlowSetting) -> Array:
    return np.concatenate([looking.left_over(s.numbers, s.k, s.x, g, "last") for g in _gammas(s)])


REMAINDER = Identity(
    "g = grad log Ft - gamma grad log R^beta(xhat), gamma = 1, signal and its square",
    EVEN,
    _remainders,
    _left_over,
    {
        "R at x for xhat": lambda s: _remainders(s, _at_the_state),
        "xhat's Jacobian left out": lambda s: _remainders(s, _held),
        "nothing looked ahead": lambda s: np.tile(row(residual_of(s).score(s.k, s.point)), 3),
    },
)


def exact_losses_with_g(context: Context) -> Finding:
    """(16) and (17) at the exact policy and the exact g, and (18): zero beside what they subtract;
    with the g of another gamma they are not."""
    problem = load_problem("bump_2d")
    chain = Chain(6, 0.1)
    flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale))
    balance = ResidualBalance(flows.tilted, flows.base, flows)
    generator = torch.Generator().manual_seed(context.seed)
    states = flows.tilted.rollout(flows.tilted.start_law().sample(64, generator), generator)
    error = wrong = 0.0
    gammas = {kind: look_ahead_strengths(chain, kind) for kind in ("one", "signal")}
    for k in range(chain.steps):
        x, x_next = states[:, k], states[:, k + 1]
        before, after = balance.policy_scores(k, x, x_next)
        size = float(torch.cat([before, after]).norm(dim=-1).max())
        for kind, gamma in gammas.items():
            other = gammas["one" if kind == "signal" else "signal"]
            for g, at, y, force in ((k, gamma, x, -before), (k + 1, gamma, x_next, after)):
                ahead = flows.look_ahead(g, y, at[g])
                error = max(
                    error, float((force - ahead - flows.remainder(g, y, at[g])).abs().max()) / size
                )
                miss = force - ahead - flows.remainder(g, y, other[g])
                wrong = max(wrong, float(miss.abs().max()) / size)
    last = flows.remainder(chain.steps, states[:, -1], 1.0)
    error = max(error, float(last.abs().max()))
    return Finding(
        name="(16), (17) and (18) are zero at the exact policy with the exact g",
        role="claim",
        kind="exact",
        holds=error <= 1e-9,
        figure=f"largest residual {number(error)} of the scores; {number(wrong)} with another "
        "gamma's g",
        numbers={"error": error, "other gamma": wrong},
        worst="bump_2d, 6 steps",
        mutants={"g of another gamma": wrong > 1e-3},
    )


def how_much_is_left(context: Context) -> Finding:
    """rms of g over rms of grad log Ft, X_k by the tuned chain, note_1d and bump_2d; and one
    Gaussian with log R linear, where gamma = 1 leaves nothing."""
    shares: dict[str, dict[str, list[float]]] = {}
    chain = Chain(8, 0.06)
    for name in ("note_1d", "bump_2d"):
        problem = load_problem(name)
        flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale))
        generator = torch.Generator().manual_seed(5)
        states = flows.tilted.rollout(flows.tilted.start_law().sample(2000, generator), generator)
        shares[name] = {
            kind: [
                float(
                    flows.remainder(k, states[:, k], gamma).square().mean().sqrt()
                    / flows.score(k, states[:, k]).square().mean().sqrt()
                )
                for k, gamma in enumerate(look_ahead_strengths(chain, kind))
                if 0 < k < chain.steps
            ]
            for kind in ("one", "signal", "signal_squared")
        }
    means = {
        name: {kind: float(np.mean(row)) for kind, row in kinds.items()}
        for name, kinds in shares.items()
    }
    said = "; ".join(
        f"{name}: "
        + ", ".join(f"{kind.replace('_', ' ')} {number(v)}" for kind, v in kinds.items())
        for name, kinds in means.items()
    )
    return Finding(
        name="what is left for g to learn: rms of g over rms of the score, mean over k",
        role="support",
        kind="exact",
        holds=all(0 < v < 2 for kinds in means.values() for v in kinds.values()),
        figure=said,
        numbers={"by step": shares, "mean": means},
        worst="8 steps, sigma_end = 0.06; 1 is what no looking ahead leaves",
    )


G7_PARTS = (REMAINDER, exact_losses_with_g, how_much_is_left)
