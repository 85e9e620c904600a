"""The learnt correction (51)-(52): its loss, and that every policy meets it."""

from __future__ import annotations

import pytest
import torch

from tests.theory.methods.test_gflownet import SHORT, Setting, square
from theory.common.tolerances import ALGEBRA
from theory.gflownet.kernels import gradient
from theory.methods.gflownet.nabla_db import FLOW
from theory.methods.gflownet.residual_nabla_db import ADDED, PAIRED
from theory.methods.registry import parse_method

TEXT = f"residual_nabla_db:{SHORT},look_ahead=off,correction=true"


def corrections(s, k):
    """The correction's gradients at transition k, in X_{k+1} and in X_k."""
    x, after = s.x[:, k], s.x[:, k + 1]
    here, later = (
        time.expand(len(x)) for time in s.chain.times.new_tensor([k, k + 1])[:, None] / 4
    )

    def paired(y):
        return (s.policy.networks[PAIRED](y, here) * after).sum(1)

    added = s.policy.networks[ADDED](after, later)
    return s.policy.networks[PAIRED](x, here) + added, gradient(paired, x)


def expected_losses(s):
    """The corrected conditions, squared."""
    conditions, x = s.conditions(), s.x
    expected = square(s.score(4, x[:, 4]) - gradient(s.log_reward, x[:, 4].detach()))
    for k in range(4):
        after, before = corrections(s, k)
        expected = expected + square(conditions.forward(k, x[:, k], x[:, k + 1]) + after)
        reverse = square(conditions.reverse(k, x[:, k], x[:, k + 1]) + before)
        expected = expected + s.method.w_backward * reverse
    return expected.detach()


@pytest.mark.parametrize("more", ["", ",w_backward=0", ",held=true", ",second_order=true"])
def test_the_loss_is_the_corrected_conditions_squared(more):
    s = Setting(TEXT + more)
    expected = expected_losses(s)
    assert ALGEBRA.holds(s.losses().detach(), expected, scale=float(expected.max()))
    for name in (PAIRED, ADDED):
        assert s.gradients(name).abs().max() > 1e-3


def test_every_policy_meets_it():
    """With A = -u, grad b = h' and h = grad (|m|^2 - |m#|^2) / 2 s^2, whatever the policy is."""
    s = Setting(TEXT)
    P, Q, width = s.chain.coefficients(s.x)

    def means(k, x):
        t = s.chain.times[k].expand(len(x))
        velocities = s.student(x, t), s.problem.base_field(x, t)
        return [P[k] * x + Q[k] * velocity for velocity in velocities]

    def number(t):
        return round(4 * float(t[0]))

    def by_state(function):
        """One state's time after the other: the states of a trajectory come side by side."""

        def network(x, t, cond=None):
            found = torch.zeros_like(x)
            for time in t.unique():
                rows = t == time
                found = found.index_put((rows.nonzero()[:, 0],), function(number(t[rows]), x[rows]))
            return found

        return network

    def residual(k, x):
        own, base = means(k, x)
        return (own - base) / width[k] ** 2

    def flow(k, x):
        if k == 4:
            return gradient(s.log_reward, x)

        def energy(y):
            own, base = means(k, y)
            return (square(own) - square(base)) / (2 * width[k] ** 2)

        return gradient(energy, x)

    networks = s.policy.networks
    networks[FLOW] = networks[ADDED] = by_state(flow)
    networks[PAIRED] = by_state(lambda k, x: -residual(k, x))
    tilt = max(float(residual(k, s.x[:, k]).detach().abs().max()) for k in range(4))
    assert tilt > 0.1
    assert float(s.losses().detach().max()) < (ALGEBRA.rtol * tilt) ** 2
    assert s.method.optimum(s.problem) is None


def test_refused_without_a_flow():
    with pytest.raises(ValueError, match="correction must be False with bidirectional"):
        parse_method(f"{TEXT},bidirectional=true")
    with pytest.raises(ValueError, match="correction"):
        parse_method("nabla_db:correction=true")
