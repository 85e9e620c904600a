"""nabla, output regularisation: G12, for one Gaussian and a linear log R.

First routes: springs in a row along every eigenvector, and the modes of a round
(`theory.gflownet.anchored`). Second routes: one least-squares problem in all unknowns, solved round
after round where the anchor moves (`theory.ledger.oracle.gflownet.anchored`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from theory.common.tolerances import QUADRATURE
from theory.fields.paths import PATHS
from theory.gflownet.anchored import AnchoredChain, output_gains
from theory.gflownet.flows import last_law
from theory.laws.gaussians import GaussianSum
from theory.ledger.core import Array, Context, Finding, Identity, Region, extra, fit_slope, number
from theory.ledger.gflownet.starts import MEMORYLESS
from theory.ledger.oracle.gflownet import anchored as oracle
from theory.ledger.settings.anchored import AnchoredChains, AnchoredSetting
from theory.samplers.chain import Chain
from theory.tilts.quadratic import linear_reward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import Exponential

# Chains whose rounds end soon: of 1500 drawn the slowest mode keeps 0.91 of its way a round.
SHORT = AnchoredChains(paths=MEMORYLESS, steps=(2, 3), pulls=(0.02, 1.0), late=False)
MANY_ROUNDS = 500


def _chain(s: AnchoredSetting, kind: type[AnchoredChain] = AnchoredChain, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "strength": s.strength,
        "gains": torch.as_tensor(s.gains),
        "w_forward": s.w_forward,
        "w_backward": s.w_backward,
        "w_terminal": s.w_terminal,
    }
    return kind(s.chain, s.base, torch.as_tensor(s.slope), **(options | changes))


def _numbers(chain: AnchoredChain, shifts: Tensor) -> Array:
    """Shifts, the flows' scores and the mean of X_T, in one row."""
    parts = shifts, chain.scores(shifts), chain.law(shifts).mean
    return np.concatenate([part.numpy().ravel() for part in parts])


def _row(found: oracle.Settled) -> Array:
    return np.concatenate([found.shifts.ravel(), found.scores.ravel(), found.mean])


# --- anchored at the pretrained model


class _Stiff(AnchoredChain):
    """A flow's score that is fixed, not free: one spring of two."""

    @property
    def springs(self) -> tuple[float, float]:
        return self.w_forward, self.w_forward


class _Unscaled(AnchoredChain):
    """The penalty on u in the place of the output."""

    @property
    def penalties(self) -> Tensor:
        return self.strength / self.gains**2


def _at_base(
    s: AnchoredSetting, kind: type[AnchoredChain] = AnchoredChain, **changes: Any
) -> Array:
    chain = _chain(s, kind, **changes)
    return _numbers(chain, chain.anchored_to_base())


TO_THE_BASE = Identity(
    "anchored at the pretrained model: means, flows and law where all losses settle",
    AnchoredChains(),
    _at_base,
    lambda s: _row(oracle.settled(s.numbers)),
    {
        "no penalty": lambda s: _at_base(s, strength=0.0),
        "1.1 lambda": lambda s: _at_base(s, strength=1.1 * s.strength),
        "flows held": lambda s: _at_base(s, _Stiff),
        "the kernels' variance forgotten": lambda s: _at_base(s, _Unscaled),
        "w_F and w_B exchanged": lambda s: _at_base(
            s, w_forward=s.w_backward, w_backward=s.w_forward
        ),
    },
    role="instead",
)

# --- anchored at the last step's output


def _after(s: AnchoredSetting, rounds: int, **changes: Any) -> Array:
    chain = _chain(s, **changes)
    return _numbers(chain, chain.after_rounds(rounds))


ROUND_BY_ROUND = Identity(
    "anchored at the last step's output: what each round leaves of the way to the tilt",
    AnchoredChains(),
    lambda s: _after(s, s.rounds),
    lambda s: _row(oracle.after_rounds(s.numbers, s.rounds)),
    {
        "a round more": lambda s: _after(s, s.rounds + 1),
        "anchored at the pretrained model": _at_base,
        "no penalty": lambda s: _after(s, s.rounds, strength=0.0),
        "1.1 lambda": lambda s: _after(s, s.rounds, strength=1.1 * s.strength),
    },
    role="condition",
)


def _moments(law: GaussianSum) -> Array:
    return np.concatenate([law.mean.numpy().ravel(), law.cov.numpy().ravel()])


def _data_target(s: AnchoredSetting) -> Array:
    """Of R^beta p_T, p_T the data's law in the place of the pretrained kernels'."""
    law = tilt(
        last_law(s.chain, s.base), linear_reward(torch.as_tensor(s.slope)), Exponential(1.0)
    ).law
    assert law is not None
    return _moments(law)


def _last_law(s: AnchoredSetting) -> Array:
    found = oracle.after_rounds(s.numbers, MANY_ROUNDS)
    mean, cov = oracle.law_of(s.numbers, found.shifts)
    return np.concatenate([mean, cov.ravel()])


LIMIT = Identity(
    "anchored at the last step's output: rounds end at R^beta P# / Z",
    SHORT,
    lambda s: _moments(_chain(s).target()),
    _last_law,
    {
        "anchored at the pretrained model": lambda s: _moments(
            _chain(s).law(_chain(s).anchored_to_base())
        ),
        "R^(1.1 beta)": lambda s: _moments(
            replace(_chain(s), slope=1.1 * _chain(s).slope).target()
        ),
        "the base": lambda s: _moments(_chain(s).law(torch.zeros(s.steps, s.dim).double())),
        "R^beta times the data's law": _data_target,
    },
    role="condition",
    dims=(1, 2),
    share=0.5,
)

# --- how much is left with Algorithm 1's anchor


def unit_chain(
    strength: float, steps: int, path: str = "rectified_flow", output: str = "velocity"
) -> AnchoredChain:
    """N(0, 1), log R^beta = x; the last state keeps half of the noise before it, at most 0.1."""
    times = torch.tensor([(steps - 1) / steps], dtype=torch.float64)
    law = PATHS[path]()
    end = min(0.1, 0.5 * float(law.sigma(times) / law.alpha(times)))
    chain, slope = Chain(steps, end, law), torch.ones(1, dtype=torch.float64)
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    return AnchoredChain(chain, base, slope, strength, output_gains(chain, output))


def kept(chain: AnchoredChain) -> float:
    """The share of the mean's shift that an anchor at the pretrained model keeps."""
    moved = [chain.law(u).mean for u in (chain.anchored_to_base(), 0 * chain.factors)]
    return float((moved[0] - moved[1]) / (chain.target().mean - moved[1]))


def _apart(chain: AnchoredChain, shifts: Tensor | None = None) -> float:
    """TV of a law of X_T to R^beta P# / Z on the line, where both variances are one; by default
    that with the anchor at the pretrained model."""
    law = chain.law(chain.anchored_to_base() if shifts is None else shifts)
    target = chain.target()
    gap = abs(float(law.mean - target.mean)) / math.sqrt(float(target.cov))
    return float(2 * ndtr(gap / 2) - 1)


def fixed_points(context: Context) -> Finding:
    """What Algorithm 1's anchor leaves: two steps, and the paper's lambdas at its 50 steps."""
    small = unit_chain(1.0, 2)
    found = {strength: _apart(replace(small, strength=strength)) for strength in (0.1, 1.0, 10.0)}
    shares = {
        strength: kept(unit_chain(strength, 50, "variance_preserving", "noise"))
        for strength in (1.0, 100.0, 1000.0)
    }
    proximal = _apart(small, small.after_rounds(MANY_ROUNDS))
    free = _apart(replace(small, strength=0.0))
    mean, target = float(small.law(small.anchored_to_base()).mean), float(small.target().mean)
    return Finding(
        name="wherever the regularised loss settles, samples follow R^beta P# / Z",
        role="claim",
        kind="exact",
        holds=max(found.values()) <= QUADRATURE.rtol,
        figure="anchored at the pretrained model (T = 2, velocities): "
        + ", ".join(f"TV {number(v)} (lambda {k:g})" for k, v in found.items())
        + f"; {number(proximal)} at the last step's output; of the tilt's shift 50 steps of the "
        "variance-preserving path with a noise output keep "
        + ", ".join(f"{100 * v:.2g} % (lambda {k:g})" for k, v in shares.items()),
        numbers={
            "TV": {f"{k:g}": v for k, v in found.items()},
            "last step": proximal,
            "kept at 50 steps": {f"{k:g}": v for k, v in shares.items()},
        },
        worst=f"N(0, 1), log R^beta = x, two steps, lambda 1: mean {mean:.4f} for {target:.4f}",
        mutants={
            "anchored at the last step's output": proximal <= QUADRATURE.rtol,
            "no penalty": free <= QUADRATURE.rtol,
        },
    )


def order_one(context: Context) -> Finding:
    """How the tilt is lost as lambda grows from 0, two steps."""
    strengths = np.geomspace(1e-3, 0.1, 12)
    chain = unit_chain(1.0, 2)
    lost = np.array([1 - kept(replace(chain, strength=a)) for a in strengths.tolist()])
    rate = (1 - kept(replace(chain, strength=1e-7))) / 1e-7
    slope = fit_slope(strengths, lost, 1e-14)
    beyond = fit_slope(strengths, np.abs(lost - rate * strengths), 1e-10)
    return Finding(
        name="anchored at the pretrained model the tilt is lost in proportion to lambda",
        role="instead",
        kind="order",
        order=slope.order,
        holds=slope.is_order and slope.order == 1,
        figure=f"slope {slope}, N(0, 1) in two steps; {number(rate)} lambda of the mean's shift",
        numbers={"slope": [slope.slope, slope.half, slope.low, slope.high], "rate": rate},
        mutants={"less its leading term": beyond.order != 1},
    )


def descent(chain: AnchoredChain, anchor: str, steps: int, rate: float) -> Array:
    """|u - tilt| / |tilt| after every step of gradient descent, the anchor at the pretrained model
    ("base"), at the output from which a step starts ("now") or the one before it ("before")."""
    shifts, tilted, gaps = torch.zeros_like(chain.factors), chain.tilted(), []
    base = before = shifts
    scores = torch.cat([shifts, shifts[:1]])
    for _ in range(steps):
        held = {"base": base, "before": before, "now": shifts}[anchor]
        unknowns = shifts.clone().requires_grad_(), scores.clone().requires_grad_()
        slopes = torch.autograd.grad(chain.loss(*unknowns, held), unknowns)
        before = shifts
        shifts, scores = shifts - rate * slopes[0], scores - rate * slopes[1]
        gaps.append(float((shifts - tilted).norm() / tilted.norm()))
    return np.array(gaps)


@extra
def single_steps(context: Context) -> Finding:
    """One gradient step an anchor: its own output pulls at nothing, an older one slows."""
    chain, rate, steps = unit_chain(5.0, 2), 0.2, 400
    free = descent(replace(chain, strength=0.0), "base", steps, rate)
    found = {name: descent(chain, name, steps, rate) for name in ("base", "before", "now")}
    ends = {name: float(gaps[-1]) for name, gaps in found.items()}
    same = float(np.abs(found["now"] - free).max())
    waits = {
        name: int((gaps > 0.01).sum()) + 1
        for name, gaps in (("free", free), ("before", found["before"]), ("now", found["now"]))
    }
    return Finding(
        name="one gradient step for every anchor at the last output: the tilt is reached",
        role="support",
        kind="exact",
        holds=max(ends["before"], ends["now"], same) <= QUADRATURE.rtol,
        figure=f"steps to within 1 % of the tilt (T = 2, lambda 5): {waits['free']} without a "
        f"penalty, {waits['now']} anchored at the output that a step starts from, where the "
        f"penalty has no gradient, {waits['before']} at the one before; the pretrained model "
        f"keeps it {number(ends['base'])} of the way off",
        numbers={"steps": waits, "ends": ends, "from the step's start": same},
        mutants={
            "the pretrained model": ends["base"] > QUADRATURE.rtol,
            "the one before is no penalty": waits["before"] > waits["free"],
        },
    )


def anchor_region(cells: int) -> Region:
    """TV to R^beta P# with the anchor at the pretrained model, a shift of one standard deviation,
    as the paper has it: 2 to 50 steps, noise outputs."""
    strengths = np.geomspace(1e-3, 1e3, cells)
    steps = np.unique(np.round(np.geomspace(2, 50, min(cells, 5))).astype(int))
    errors = [
        [_apart(unit_chain(float(a), int(t), "variance_preserving", "noise")) for t in steps]
        for a in strengths
    ]
    return Region(
        "what an anchor at the pretrained model costs, N(0, 1), log R^beta = x",
        "lambda",
        strengths,
        "steps",
        steps.astype(np.float64),
        np.array(errors),
        "TV to R^beta P#",
        log_axes="x",
    )


G12_PARTS = (fixed_points, TO_THE_BASE, ROUND_BY_ROUND, LIMIT, order_one, single_steps)
