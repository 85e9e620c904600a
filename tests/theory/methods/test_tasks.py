"""Draws, tasks and policies."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import ks_bound, ks_distance, points, size, tensor
from tests.theory.methods.test_relations import BUMPS, DOUBLE, NOTE, PLANE
from theory.common.tolerances import ALGEBRA
from theory.methods import Draws, Policy, ProblemTask, endpoint_batch, square
from theory.methods.contract.probe import (
    gradient_test,
    prepare,
)
from theory.methods.policy_gradient.ddpo import DDPO


def test_blocks_do_not_see_their_neighbours():
    together, alone = Draws.seeded([3, 8, 5], DOUBLE), Draws.seeded([8], DOUBLE)
    for draw in (lambda d: d.normal(7, 2), lambda d: d.uniform(7), lambda d: d.normal(7, 2)):
        a, b = draw(together), draw(alone)
        assert a.dtype == DOUBLE
        assert torch.equal(a[7:14], b)
        assert not torch.equal(a[:7], b)
    task = [ProblemTask([NOTE, BUMPS, NOTE], dtype=DOUBLE), ProblemTask([BUMPS], dtype=DOUBLE)]
    for quasi in (False, True):
        for t in task:
            t.low_discrepancy = quasi
        a, b = (t.endpoints(16, d) for t, d in zip(task, (together, alone), strict=True))
        for one, two in zip(a[:3], b[:3], strict=True):
            assert torch.equal(one[16:32], two)


def test_draws_go_on_where_they_were():
    draws = Draws.seeded([3, 8], DOUBLE)
    draws.normal(11)
    states = [s.clone() for s in draws.states()]
    first = draws.uniform(5), draws.normal(3, 2)
    other = Draws.seeded([1, 2], DOUBLE)
    other.restore(states)
    assert all(map(torch.equal, first, (other.uniform(5), other.normal(3, 2))))
    with pytest.raises(ValueError, match=r"states must be one a generator, 2, got 1"):
        other.restore(states[:1])
    with pytest.raises(ValueError, match=r"generators must hold at least one .*got \[\]"):
        Draws([])
    for seed in (-1, 2**63, 0.5):
        with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to .*, got "):
            Draws.seeded([seed])


@pytest.mark.parametrize("quasi", [False, True])
@pytest.mark.parametrize("problem", [BUMPS, PLANE], ids=lambda p: p.name)
def test_endpoints_follow_their_laws(problem, quasi):
    n = 2**14
    task = ProblemTask([problem], dtype=DOUBLE, low_discrepancy=quasi)
    x0, x1, t, *_ = task.endpoints(n, Draws.seeded([1], DOUBLE))
    bound = ks_bound(n)
    assert ks_distance(t, lambda u: u) <= bound
    for i in range(problem.dim):
        law = problem.base.marginal([i])
        assert (
            ks_distance(x0[:, i], lambda y: torch.special.ndtr(torch.as_tensor(y)).numpy()) <= bound
        )
        assert ks_distance(x1[:, i], lambda y, p=law: p.cdf(torch.as_tensor(y)).numpy()) <= bound
        # Power: the first component alone is told from the mixture.
        one = problem.base.mean[0, i], problem.base.cov[0, i, i].sqrt()
        z = (x1[:, i] - one[0]) / one[1]
        assert ks_distance(z, lambda y: torch.special.ndtr(torch.as_tensor(y)).numpy()) > bound
    # Independent of one another: every pair of ranks is uniform on the square's quarters.
    columns = torch.cat([x0, x1[:, :1], t[:, None]], 1)
    high = (columns > columns.median(0).values).double()
    quarters = high.T @ high / n
    quarters.fill_diagonal_(0.25)
    assert size(quarters - 0.25) <= 2 * bound


def test_base_samples_and_endpoints_agree_in_float32():
    task = ProblemTask([PLANE])
    x, *_ = task.base_samples(2**13, Draws.seeded([4]))
    assert x.dtype == torch.float32
    law = PLANE.base.marginal([1])
    assert ks_distance(x[:, 1].double(), lambda y: law.cdf(torch.as_tensor(y)).numpy()) <= ks_bound(
        2**13
    )
    x0, x1, t, *_ = ProblemTask([PLANE], low_discrepancy=True).endpoints(2**13, Draws.seeded([4]))
    assert all(bool(torch.isfinite(v).all()) for v in (x0, x1, t))
    assert float(t.max()) < 1


def block_losses(quasi, blocks=64, n=512):
    """Mean flow matching loss at v = 0 of every block: E|Y|^2 = E|X_1|^2 + d."""
    task = ProblemTask([PLANE] * blocks, dtype=DOUBLE, low_discrepancy=quasi)
    ends = task.endpoints(n, Draws.seeded(range(blocks), DOUBLE))
    return square(endpoint_batch(task, ends)["y"]).reshape(blocks, n).mean(1)


def test_sobol_points_have_the_same_expectation_and_less_variance():
    base = PLANE.base
    exact = float(base.covariance().diagonal().sum() + base.expectation().square().sum()) + 2
    plain, quasi = block_losses(False), block_losses(True)
    for sample in (plain, quasi):
        assert gradient_test(sample[:, None] - exact).vanishes
    assert 2 * float(quasi.var()) < float(plain.var())
    assert not gradient_test(quasi[:, None] - 1.1 * exact).vanishes


def test_networks_of_several_problems_are_each_their_own():
    """Rewards, base velocities and samples of a mixed batch are those of every problem alone."""
    cases = [NOTE, NOTE, BUMPS, NOTE]
    task = ProblemTask(cases, dtype=DOUBLE)
    assert [b.count for b in task.blocks_of_problems] == [2, 1, 1]
    x, t = points(4 * 6, 1), torch.linspace(0, 0.9, 24, dtype=DOUBLE)
    samples, *_ = task.base_samples(6, Draws.seeded(range(4), DOUBLE))
    for i, case in enumerate(cases):
        rows = slice(6 * i, 6 * i + 6)
        assert torch.equal(task.reward(x)[rows], case.reward(x[rows]))
        velocity = task.base_velocity(x, t)[rows]
        assert ALGEBRA.holds(velocity, case.base_field(x[rows], t[rows]), scale=1.0)
        alone, *_ = ProblemTask([case], dtype=DOUBLE).base_samples(6, Draws.seeded([i], DOUBLE))
        assert torch.equal(samples[rows], alone)
    with pytest.raises(ValueError, match=r"one dimension .*got d = \[1, 2\]"):
        ProblemTask([NOTE, PLANE])
    with pytest.raises(ValueError, match=r"problems must be at least one, got \[\]"):
        ProblemTask([])
    with pytest.raises(NotImplementedError, match="makes no auxiliary networks"):
        task.auxiliary(1, Draws.seeded([0]))


def test_times_of_a_task_are_respected():
    task = ProblemTask([NOTE], dtype=DOUBLE)
    task.times = tensor([0.1, 0.4, 0.9])
    drawn = task.draw_times(4096, Draws.seeded([2], DOUBLE))
    assert torch.equal(drawn.unique(), task.times)
    for t in task.times:
        assert abs(float((drawn == t).double().mean()) - 1 / 3) <= ks_bound(4096, 3)
    for quasi in (False, True):
        task.low_discrepancy = quasi
        ends = task.endpoints(64, Draws.seeded([2], DOUBLE))
        assert bool(torch.isin(ends[2], task.times).all())


def test_checkpoint_of_a_policy_goes_round():
    method = DDPO(0.5, steps=4, sigma_end=0.1)
    policy = prepare(method, NOTE, "reference", blocks=2, n=8).policy
    policy.old, policy.state = policy.student.frozen_copy(), {"mean": torch.arange(2.0)}
    for p in policy.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(0))
    saved = {k: v.clone() for k, v in policy.tensors().items()}
    assert {k.partition(".")[0] for k in saved} == {"student", "old", "networks", "state"}
    other = prepare(method, NOTE, "reference", blocks=2, n=8).policy
    other.old, other.state = other.student.frozen_copy(), {"mean": torch.zeros(2)}
    trained = {id(p) for p in other.parameters()}
    other.load(saved)
    assert all(torch.equal(v, saved[k]) for k, v in other.tensors().items())
    assert {id(p) for p in other.parameters()} == trained  # in place: an optimiser goes on
    assert not other.reference.theta.any()  # no part of a checkpoint
    for change in (
        {**saved, "student.more": torch.zeros(1)},
        {k: v for k, v in saved.items() if k != "networks.value.theta"},
        {k.replace("old.", "older."): v for k, v in saved.items()},
    ):
        with pytest.raises(ValueError, match=r"tensors must be named as this policy's, .*got"):
            other.load(change)
    with pytest.raises(ValueError, match=r"state.mean must have shape \(2,\), got \(3,\)"):
        other.load({**saved, "state.mean": torch.zeros(3)})
    with pytest.raises(TypeError, match=r"state.mean must have dtype .*float32, got torch.float64"):
        other.load({**saved, "state.mean": torch.zeros(2, dtype=DOUBLE)})


def test_parameters_are_those_of_student_and_networks():
    method = DDPO(0.5, steps=4, sigma_end=0.1)
    policy = prepare(method, NOTE, "reference", blocks=2, n=8).policy
    policy.old = policy.student.frozen_copy()
    own = [policy.student.theta, policy.networks["value"].theta]
    assert [id(p) for p in policy.parameters()] == [id(p) for p in own]
    assert Policy(NOTE.base_field).parameters() == []
