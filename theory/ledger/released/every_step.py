r"""released, N8: the old copy replaced by the student after every step.

Then x1+- and x1_old coincide wherever a gradient is taken: with e = x1_old - x1,

    d/dmu (c/b) [r |x1+ - x1|^2 + (1 - r)|x1- - x1|^2] = 2 c (2r - 1) e,
    which is c (2r - 1) d/dmu |mu - x1|^2,

b = nft_beta gone, and c (2r - 1) = clip(A, -c, c), the advantage itself (c = 5). The parameters
that these gradients train are those of matching weighted by it. Given X_t = x such a loss is curved
by 2 E[2r - 1 | x], of either sign; one with the old copy kept, by 2 b^2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from theory.common.tolerances import ALGEBRA
from theory.ledger.core import Array, Claim, Context, Finding, Identity, extra, number, path_points
from theory.ledger.liu.laws import PROBLEMS, QUICK
from theory.ledger.oracle.released import steps as released_steps
from theory.ledger.released.cancel import PREFACTOR, _task
from theory.ledger.settings.problems import Problems, Setting
from theory.ledger.settings.steps import Steps, StepSetting
from theory.methods.matching.nft import NFT, Normaliser
from theory.methods.matching.reward_mapping import SPREAD
from theory.problems.problem import Problem, load_problem
from theory.tilts.moments import reward_moments


class Adapted(nn.Module):
    """W x + B A x, A and B trained: a LoRA of one layer."""

    def __init__(self, s: StepSetting) -> None:
        super().__init__()
        self.frozen = torch.tensor(s.W)
        self.A, self.B = (nn.Parameter(torch.tensor(m)) for m in (s.A, s.B))

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        return x @ (self.frozen + self.B @ self.A).mT


def descended(
    s: StepSetting,
    normaliser: Normaliser = "off",
    refresh: int = 1,
    decay: float = 0.0,
    prefactor: float | None = None,
) -> Array:
    """A and B after the steps of NFT's own code, old copy and all, flattened and joined.

    At t = 0 of the rectified flow the errors of velocity and of x_1-prediction are one."""
    method = NFT(s.nft_beta, normaliser, refresh_every=refresh, old_decay=decay)
    student, task = Adapted(s), _task()
    policy = method.setup(student, task, None)  # type: ignore[arg-type]
    assert policy.old is not None
    x, t = torch.tensor(s.x), torch.zeros(len(s.x), dtype=torch.float64)
    lead = PREFACTOR / s.nft_beta if prefactor is None else prefactor
    for k in range(1, s.steps + 1):
        with torch.no_grad():
            old = policy.old(x, t, None)
        batch = {
            "x": x,
            "t": t,
            "cond": None,
            "y": torch.tensor(s.y),
            "r": torch.tensor(s.r),
            "v_old": old,
        }
        loss = lead * method.loss(policy, task, batch)[0].mean()  # type: ignore[arg-type]
        slopes = torch.autograd.grad(loss, [student.A, student.B])
        with torch.no_grad():
            for part, slope in zip((student.A, student.B), slopes, strict=True):
                part.sub_(s.rate * slope)
        method.after_step(policy, k)
    return torch.cat([student.A.detach().flatten(), student.B.detach().flatten()]).numpy()


def _weighted(s: StepSetting) -> Array:
    return released_steps.descended(s.numbers, s.rate, s.steps)


def unsigned(s: StepSetting) -> StepSetting:
    """Rewards whose 2r - 1 is r."""
    return replace(s, r=0.5 * (1 + s.r))


STEPS = Identity(
    "parameters after steps with the old copy replaced after each: those of 5 (2r - 1)|x1 - y|²",
    Steps(),
    descended,
    _weighted,
    {
        "replaced after every second step": lambda s: descended(s, refresh=2),
        "half of the way": lambda s: descended(s, decay=0.5),
        "weight r, not 2r - 1": lambda s: descended(unsigned(s)),
        "times nft_beta": lambda s: descended(s, prefactor=PREFACTOR),
        "with the normaliser": lambda s: descended(s, "x1"),
    },
    tier=ALGEBRA,
    dims=(1, 2),
)

NORMALISED = Identity(
    "with the adaptive normaliser: those of 5 (2r - 1)|x1 - y|²/w, w = mean |x1 - y| held fixed",
    Steps(),
    lambda s: descended(s, "x1"),
    lambda s: released_steps.descended(s.numbers, s.rate, s.steps, True),
    {
        "without it": descended,
        "weight r, not 2r - 1": lambda s: descended(unsigned(s), "x1"),
    },
    role="instead",
    tier=ALGEBRA,
    dims=(1, 2),
    share=0.5,
)


def curvatures(s: Setting, weighted: float | None = None) -> Array:
    """2 E[2r - 1 | x] of the weighted loss, 2 nft_beta² with the old copy kept."""
    m = float(s.problem.conditional_reward.mean(s.point, s.t)[0])
    own = 2 * (2 * m - 1) if weighted is None else weighted * m
    return np.array([own, 2 * s.nft_beta**2])


CURVED = Identity(
    "given X_t curved by 2 E[2r - 1 | X_t]: with the old copy kept, by 2 nft_beta²",
    Problems(),
    curvatures,
    lambda s: released_steps.curvatures(s.case, s.x, s.at, s.nft_beta),
    {
        "2 E[r | X_t]": lambda s: curvatures(s, 2.0),
        "2 nft_beta² of both": lambda s: curvatures(s)[[1, 1]],
    },
    lambda s: 1 + 4 * s.spread,
    role="instead",
    dims=(1, 2),
    share=0.6,
)

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


def upside_down(problem: Problem, draws: int) -> float:
    """The share of X_t, t uniform over TIMES, where E[r | X_t] < 1/2 under the released mapping:
    there the weighted loss has no minimum."""
    generator = torch.Generator().manual_seed(11)
    mean, _ = reward_moments(problem.base, problem.moments)
    low = []
    for t in TIMES:
        m = problem.conditional_reward.mean(path_points(problem, t, draws, generator), t)
        low.append(float((m < mean).double().mean()))
    return float(np.mean(low))


def directions(problem: Problem) -> dict[str, float]:
    """Cosines over the path, d = 1, of the mean field of (2r - 1) e/w, w = |e|, with that of
    (2r - 1) e: for the mapped reward, and for one whose mean is 0.6."""
    mean, std = reward_moments(problem.base, problem.moments)
    y = torch.linspace(-9.0, 9.0, 1801, dtype=torch.float64)
    p = problem.base.density(y[:, None])
    mapped = (problem.reward(y[:, None]) - mean) / std / SPREAD
    found = {}
    for name, offset in (("mapped", 0.0), ("mean 0.6", 0.1)):
        pull = 2 * (mapped + offset)
        sums = torch.zeros(3, dtype=torch.float64)
        for t in TIMES:
            x = torch.linspace(-4.0, 4.0, 161, dtype=torch.float64)[:, None]
            joint = p * torch.exp(-0.5 * ((x - t * y) / (1 - t)) ** 2)
            weight = joint / joint.sum(1, keepdim=True)
            e = (weight * y).sum(1, keepdim=True) - y
            plain, signed = (weight * pull * e).sum(1), (weight * pull * e.sign()).sum(1)
            here = joint.sum(1)
            here = here / here.sum()
            sums += torch.stack([(here * q).sum() for q in (plain**2, signed**2, plain * signed)])
        found[name] = float(sums[2] / (sums[0] * sums[1]).sqrt())
    return found


@extra
def what_changes(context: Context) -> Finding:
    """Where the weighted loss is upside down, and how far the normaliser turns its mean field."""
    shares = {
        name: upside_down(load_problem(name), context.choose(256, 2048))
        for name in (context.choose(QUICK, PROBLEMS))
    }
    cosines = {name: directions(load_problem(name)) for name in ("note_1d", "quadratic_1d")}
    least, most = min(shares.values()), max(shares.values())
    shown = "; ".join(
        f"{name} {number(v['mapped'])} and {number(v['mean 0.6'])}" for name, v in cosines.items()
    )
    return Finding(
        name="where it has no minimum, and what the normaliser turns",
        role="support",
        kind="exact",
        holds=least > 0.1 and all(v["mean 0.6"] < v["mapped"] < 1 for v in cosines.values()),
        figure=(
            f"released mapping: E[r | X_t] < 1/2 on {100 * least:.0f} to {100 * most:.0f} % of "
            f"the path ({len(shares)} problems); cosine of the mean fields with and without the "
            f"normaliser, d = 1, E r = 0.5 and 0.6: {shown}"
        ),
        numbers={"upside_down": shares, "cosine": cosines},
        worst=max(shares, key=lambda k: shares[k]),
        mutants={"a minimum everywhere": most > 0},
    )


N8 = Claim(
    id="N8",
    source="released, its loss with the old copy replaced after every optimiser step",
    statement=(
        "With the old copy replaced by the student after every step the gradient of the NFT loss "
        "is that of signed advantage weighting: 5 (2r - 1) times the flow-matching gradient, the "
        "clipped advantage itself, whatever nft_beta."
    ),
    assumptions=(
        "The adaptive normaliser off; the copy is whole (decay 0); any student, any optimiser "
        "that sees gradients alone."
    ),
    first="the method of theory.methods.matching.nft, its old copy and autograd, on a LoRA",
    second="the weighted loss, without an old copy, in exact rationals; quadrature given X_t",
    recorded="exact",
    remark=(
        "nft_beta sets nothing then: the step is learning rate times advantage. What is lost is "
        "the minimum. With the old copy kept the loss given X_t is curved by 2 nft_beta², "
        "whatever r; weighted by the advantage it is curved by 2 E[2r - 1|X_t] (before the "
        "factor 5), upside down wherever rewards are below one half, about half of the path: it "
        "does not end on fixed samples, and needs fresh ones from the student. The normaliser "
        "divides every sample by its own error: in d = 1 that turns the mean field, the more so "
        "the further E r is from one half. What is logged as the distance to the old copy is 0 "
        "at every step."
    ),
    parts=(STEPS, NORMALISED, CURVED, what_changes),
)
