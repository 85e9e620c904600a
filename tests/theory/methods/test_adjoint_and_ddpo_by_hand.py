"""DDPO without a KL term and the lean adjoint, by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.helpers import tensor
from tests.theory.methods.test_relations import DOUBLE, NOTE, PLANE
from theory.common.tolerances import ALGEBRA
from theory.methods import Draws, Policy, ProblemTask
from theory.methods.adjoint.adjoint_matching import AdjointMatching
from theory.methods.contract.probe import (
    Perturbed,
    gradient_samples,
    gradient_test,
    prepare,
)
from theory.methods.policy_gradient.ddpo import DDPO
from theory.samplers.chain import chain_law, state_axes


def shifted(theta):
    """The base moved by the probe's features: what theta does to the law of X_T."""
    model = Perturbed(NOTE.base_field, 1, 1, 1)
    model.theta.data[0, :, 0] = theta
    return model.requires_grad_(False)


def ddpo_gap(loss_method, features=6):
    """Student's t of (sampled gradient + finite difference of the exact E[r(X_T)])."""
    method, h = DDPO(0.0, steps=5, sigma_end=0.12), 1e-3
    chain = method.chain(NOTE)
    axes = state_axes(chain, [NOTE.base], 0.5)
    r = NOTE.reward(torch.as_tensor(axes[0])[:, None]).numpy()
    exact = []
    for i in range(features):
        ends = [
            chain_law(chain, shifted(sign * h * torch.eye(features, dtype=DOUBLE)[i]), axes)
            for sign in (1, -1)
        ]
        exact.append((ends[0].integrate(r) - ends[1].integrate(r)) / (2 * h))
    setting = prepare(method, NOTE, "reference", n=1024)
    samples = gradient_samples(loss_method, setting)[:, :features]
    return gradient_test(samples + tensor(exact)), gradient_test(samples), samples, exact


def test_ddpo_without_kl_follows_the_exact_gradient():
    method = DDPO(0.0, steps=5, sigma_end=0.12)
    gap, alone, samples, exact = ddpo_gap(method)
    assert gap.vanishes
    assert not alone.vanishes
    # n is enough to see a tenth of it missing.
    assert not gradient_test(samples + 1.1 * tensor(exact)).vanishes


class Rotating(nn.Module):
    """v(x, t) = A x with A far from symmetric: an exact field's Jacobian is symmetric, and would
    not tell a product with it from one with its transpose."""

    def forward(self, x, t, cond=None):
        return x @ tensor([[0.2, 1.3], [-0.4, -0.5]]).T


def adjoint_errors(kind):
    """Largest errors of the adjoints and reference means, against products of matrices; the
    student is another field: the lean adjoint does not look at it."""
    method, task = kind(2.0, steps=4, sigma_end=0.15), ProblemTask([PLANE], dtype=DOUBLE)
    policy = Policy(Perturbed(PLANE.base_field, 1, 2, 2), reference=Rotating())
    batch = method.collect(policy, task, 16, Draws.seeded([3], DOUBLE))
    P, Q, _ = (c.numpy() for c in method.chain(task).coefficients(batch["x"]))
    A = np.array([[0.2, 1.3], [-0.4, -0.5]])
    precision, centre = np.array([[1.4, 0.5], [0.5, 0.9]]), np.array([1.2, -0.6])
    gap = batch["x"][:, -1].numpy() - centre
    g = -np.exp(-0.5 * np.einsum("ni,ij,nj->n", gap, precision, gap))[:, None] * (gap @ precision)
    worst = 0.0
    for k in range(3, -1, -1):
        J = P[k] * np.eye(2) + Q[k] * A
        means = batch["x"][:, k].numpy() @ J.T
        worst = max(worst, ALGEBRA.error(batch["adjoint"][:, k], g, 1.0))
        worst = max(worst, ALGEBRA.error(batch["reference"][:, k], means, 1.0))
        g = g @ J
    return worst


def test_lean_adjoint_is_the_product_of_transposed_jacobians():
    assert adjoint_errors(AdjointMatching) <= ALGEBRA.rtol
