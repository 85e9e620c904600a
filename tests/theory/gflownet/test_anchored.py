"""Output regularisation: the losses against real kernels, where they settle by their gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.helpers import points, size
from theory.common.tolerances import ALGEBRA
from theory.fields.mixture import MixtureField
from theory.fields.paths import VariancePreserving
from theory.gflownet.anchored import AnchoredChain, output_gains
from theory.gflownet.balance import ResidualBalance
from theory.gflownet.kernels import GaussianKernels
from theory.laws.gaussians import GaussianSum
from theory.samplers.chain import Chain

BASE = GaussianSum.mixture([1.0], [[0.7, -0.4]], covs=[[[0.5, 0.2], [0.2, 0.9]]])
SLOPE = torch.tensor([0.8, -0.5], dtype=torch.float64)
WEIGHTS = {"w_forward": 0.7, "w_backward": 1.6, "w_terminal": 1.2}


def anchored(strength: float = 2.0, first_time: float = 0.0, **weights: float) -> AnchoredChain:
    chain = Chain(3, 0.2, first_time=first_time)
    return AnchoredChain(chain, BASE, SLOPE, strength, output_gains(chain), **weights)


class Flat:
    """Flows with scores h (T + 1, d)."""

    def __init__(self, scores):
        self.scores = scores

    def log_flow(self, k, x):
        return x @ self.scores[k]

    def score(self, k, x):
        return self.scores[k].expand(x.shape)


def test_the_losses_are_those_of_kernels():
    """A network's output moved by s_k^2 u_k / gain_k: (12), (13), (14) and the squared output, at
    any states."""
    case, generator = anchored(**WEIGHTS), torch.Generator().manual_seed(3)
    chain, field = case.chain, MixtureField(BASE)
    u, h = (torch.randn(n, 2, dtype=torch.float64, generator=generator) for n in (3, 4))
    variance = chain.coefficients(SLOPE)[2] ** 2
    moves = variance[:, None] * u / case.gains[:, None]

    def moved(x, t, cond=None):
        return field(x, t) + moves[(chain.times - t[0]).abs().argmin()]

    pretrained = GaussianKernels(chain, field)
    balance = ResidualBalance(GaussianKernels(chain, moved), pretrained, Flat(h))
    x, x_next = points(1, 2), points(2, 2)[1:] + 0.3
    total = case.w_terminal * ((h[-1] - SLOPE) ** 2).sum() + case.strength * (moves**2).sum()
    for k in range(chain.steps):
        total = total + case.w_forward * (balance.forward(k, x, x_next) ** 2).sum()
        total = total + case.w_backward * (balance.reverse(k, x, x_next) ** 2).sum()
    assert ALGEBRA.holds(case.loss(u, h, torch.zeros_like(u)), total, 1.0)
    assert not ALGEBRA.holds(case.loss(u, h, u), total, 1.0)


def slopes(case, shifts, anchor):
    """The loss's gradient in the shifts and in the flows' scores."""
    unknowns = shifts.clone().requires_grad_(), case.scores(shifts).requires_grad_()
    return torch.cat(torch.autograd.grad(case.loss(*unknowns, anchor), unknowns))


@pytest.mark.parametrize("first_time", [0.0, 0.4])
def test_every_fixed_point_has_no_gradient(first_time):
    case = anchored(first_time=first_time, **WEIGHTS)
    nothing = torch.zeros(3, 2, dtype=torch.float64)
    free = replace(case, strength=0.0)
    assert size(slopes(case, case.anchored_to_base(), nothing)) < ALGEBRA.rtol
    assert size(slopes(free, case.tilted(), nothing)) < ALGEBRA.rtol
    assert size(slopes(case, case.tilted(), case.tilted())) < ALGEBRA.rtol
    assert size(slopes(case, case.tilted(), nothing)) > 0.01
    for rounds in range(1, 5):
        before, after = case.after_rounds(rounds - 1), case.after_rounds(rounds)
        assert size(slopes(case, after, before)) < ALGEBRA.rtol
        assert size(slopes(case, after, nothing)) > 1e-3 or rounds == 1
    assert ALGEBRA.holds(case.after_rounds(0), nothing, 1.0)
    assert ALGEBRA.holds(case.after_rounds(1), case.anchored_to_base(), 1.0)
    for shifts in (free.anchored_to_base(), free.after_rounds(1)):
        assert ALGEBRA.holds(shifts, case.tilted(), 1.0)


def round_matrix(case):
    """What a round makes of the anchor's shifts, (6, 6), by the loss's second derivatives."""

    def loss(unknowns, anchor):
        shifts, scores = unknowns[:6].reshape(3, 2), unknowns[6:].reshape(4, 2)
        return case.loss(shifts, scores, anchor.reshape(3, 2))

    zeros = torch.zeros(14, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    (own, mixed), _ = torch.autograd.functional.hessian(loss, zeros)
    return -torch.linalg.solve(own, mixed)[:6]


def test_rounds_end_at_the_tilt_as_fast_as_the_slowest_mode():
    case = anchored()
    assert 0 < case.slowest < 1
    rate = torch.linalg.eigvals(round_matrix(case)).abs().max()
    assert ALGEBRA.holds(case.slowest, rate)
    gaps = [(case.after_rounds(n) - case.tilted()).flatten() for n in (2, 3)]
    assert ALGEBRA.holds(gaps[1], round_matrix(case) @ gaps[0], 1.0)
    assert not ALGEBRA.holds(gaps[1], gaps[0], 1.0)
    assert size(case.after_rounds(5000) - case.tilted()) < ALGEBRA.rtol
    assert replace(case, strength=0.0).slowest == 0.0
    assert replace(case, strength=20.0).slowest > case.slowest


@pytest.mark.parametrize("first_time", [0.0, 0.4])
def test_the_tilt_needs_a_start_without_signal(first_time):
    case = anchored(first_time=first_time)
    law, target = case.law(case.tilted()), case.target()
    assert ALGEBRA.holds(law.cov, target.cov, 1.0)
    assert ALGEBRA.holds(law.mean, target.mean, 1.0) == (first_time == 0)
    assert not ALGEBRA.holds(case.law(case.anchored_to_base()).mean, target.mean, 1.0)


def test_gains_of_a_velocity_and_of_noise():
    """Noise moved by one moves the velocity that the path has for it, at the same state."""
    chain = Chain(4, 0.1, VariancePreserving())
    x = torch.tensor([[0.3]], dtype=torch.float64)
    for k, t in enumerate(chain.times):
        alpha, sigma = chain.path.alpha(t), chain.path.sigma(t)

        def velocity(noise, t=t, alpha=alpha, sigma=sigma):
            data = (x - sigma * noise) / alpha
            return chain.path.dalpha(t) * data + chain.path.dsigma(t) * noise

        for output, wanted in (("velocity", 1.0), ("noise", velocity(1.2) - velocity(0.2))):
            moved = [
                chain.mean(lambda x, t, cond, v=v: v * torch.ones_like(x), k, x)
                for v in (wanted, 0.0)
            ]
            gain = output_gains(chain, output)[k]
            assert ALGEBRA.holds(moved[0] - moved[1], gain, 1.0)
    assert output_gains(Chain(3, 0.2), "noise")[0].isinf()


def test_a_noise_without_signal_is_held_by_nothing():
    """Its output moves the mean by any amount: the first kernel is free."""
    chain = Chain(3, 0.2)
    case = AnchoredChain(chain, BASE, SLOPE, 2.0, output_gains(chain, "noise"))
    assert case.penalties[0] == 0
    assert torch.isfinite(case.anchored_to_base()).all()
    assert size(case.after_rounds(3000) - case.tilted()) < ALGEBRA.rtol


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": GaussianSum.mixture([0.5, 0.5], [[0.0], [1.0]], stds=[1, 1])}, "one Gaussian"),
        ({"slope": SLOPE[:1]}, "slope must have shape"),
        ({"gains": SLOPE}, "gains must have shape"),
        ({"strength": -1.0}, "strength must be"),
        ({"w_forward": 0.0}, "w_forward must be"),
        ({"w_backward": -1.0}, "w_backward must be"),
        ({"w_terminal": float("nan")}, "w_terminal must be"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        replace(anchored(), **change)


def test_bad_rounds_and_outputs():
    with pytest.raises(ValueError, match="rounds must be"):
        anchored().after_rounds(-1)
    with pytest.raises(ValueError, match="output must be"):
        output_gains(Chain(3, 0.2), "score")
