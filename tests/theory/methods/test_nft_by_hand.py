"""NFT's released reward mapping, adaptive normaliser and old copy, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import points, size
from tests.theory.methods.test_relations import BUMPS, DOUBLE, NOTE, PLANE, collected, slopes
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT, SLOPE
from theory.fields.paths import PATHS
from theory.methods import Draws, Policy, ProblemTask, square
from theory.methods.contract.task import heun
from theory.methods.matching.nft import LEAST_WEIGHT, NFT
from theory.methods.matching.reward_mapping import released_mapping
from theory.problems.problem import load_problem
from theory.samplers.flow import FlowLaw


class Prompts(ProblemTask):
    """Rows in groups of eight of one prompt."""

    def reward_statistics(self, raw, cond=None):
        groups = raw.reshape(-1, 8)
        mean = groups.mean(1, keepdim=True).expand_as(groups).reshape(raw.shape)
        return mean, super().reward_statistics(raw, cond)[1]


def mapped_by_hand(raw, group):
    """clamp(1/2 + clip(A, -5, 5)/10, 0, 1), A = (R - prompt's mean) / (batch's std + 1e-4), of one
    network's rows."""
    centred = (raw.reshape(-1, group) - raw.reshape(-1, group).mean(1, keepdims=True)).ravel()
    advantage = centred / (np.sqrt(((raw - raw.mean()) ** 2).mean()) + 1e-4)
    return np.clip(0.5 + np.clip(advantage, -5, 5) / 10, 0, 1)


@pytest.mark.parametrize(("kind", "group"), [(ProblemTask, 64), (Prompts, 8)])
def test_released_mapping_is_that_of_its_docstring(kind, group):
    """Two networks of different rewards: each block by its own statistics."""
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=64), 40 + 12 * rng.exponential(size=64)]
    blocks[0][3], blocks[0][17] = 60.0, -25.0  # beyond the clip
    raw = torch.as_tensor(np.concatenate(blocks))
    ours = released_mapping(kind([NOTE, BUMPS], dtype=DOUBLE), raw)
    expected = np.concatenate([mapped_by_hand(block, group) for block in blocks])
    assert ALGEBRA.holds(ours, expected, scale=1.0)
    assert float(ours.max()) == 1.0
    mixed = mapped_by_hand(raw.numpy(), group)
    assert not ALGEBRA.holds(mixed, expected, scale=1.0)
    alone = released_mapping(kind([BUMPS], dtype=DOUBLE), raw[64:])
    assert torch.equal(alone, ours[64:])


def test_released_mapping_in_a_batch():
    method = NFT(reward_mapping="released")
    batch, _, _ = collected(method, NOTE, n=256)
    raw = NOTE.reward(batch["x"])  # any rewards: only the range is looked at
    assert float(batch["r"].min()) >= 0
    assert float(batch["r"].max()) <= 1
    assert abs(float(batch["r"].mean()) - 0.5) < SLOPE
    assert raw.shape == batch["r"].shape
    # scale: 2/nft_beta in units of the mapped reward, whose slope is 1/(10 std).
    axis = torch.linspace(-9, 11, 4001, dtype=DOUBLE)[:, None]
    p, r = NOTE.base.log_density(axis).exp() * 0.005, NOTE.reward(axis)
    std = float(((p * r**2).sum() - (p * r).sum() ** 2).sqrt())
    assert QUADRATURE_TIGHT.holds(method.scale(NOTE), 2 / (10 * (std + 1e-4)))
    assert not method.optimum(NOTE).exact


def branches(batch, velocity, nft_beta):
    step = nft_beta * (velocity(batch["x"], batch["t"]) - batch["v_old"])
    return batch["v_old"] + step - batch["y"], batch["v_old"] - step - batch["y"]


@pytest.mark.parametrize("path", PATHS)
def test_adaptive_normaliser_is_that_of_its_docstring(path):
    problem = replace(PLANE, path=PATHS[path]())
    off = NFT(0.8)
    batch, task, policy = collected(off, problem)
    assert torch.equal(
        off.loss(policy, task, batch)[0], NFT(0.8, "off").loss(policy, task, batch)[0]
    )
    student, t, r = problem.cumulant_field(1.0, 1), batch["t"], batch["r"]
    plus, minus = branches(batch, student, 0.8)
    policy = Policy(student, problem.base_field)
    plain = r * square(plus) + (1 - r) * square(minus)
    assert ALGEBRA.holds(off.loss(policy, task, batch)[0], plain)
    sizes = [e.abs().mean(1).clamp_min(LEAST_WEIGHT) for e in (plus, minus)]
    expected = r * square(plus) / sizes[0] + (1 - r) * square(minus) / sizes[1]
    found = NFT(0.8, "velocity").loss(policy, task, batch)[0]
    assert ALGEBRA.holds(found, expected)
    # x_1 - error of the x_1-prediction: theory.fields.paths converts both velocities.
    x1 = NFT(0.8, "x1").loss(policy, task, batch)[0]
    total = torch.zeros_like(x1)
    for weight, error in ((r, plus), (1 - r, minus)):
        inner = (t > 0.01) & (t < 0.99)
        ends = [
            problem.path.convert(v[inner], batch["x"][inner], t[inner], "velocity", "x1")
            for v in (error + batch["y"], batch["y"])
        ]
        gap = ends[0] - ends[1]
        total[inner] += weight[inner] * square(gap) / gap.abs().mean(1).clamp_min(LEAST_WEIGHT)
    assert QUADRATURE.holds(x1[inner], total[inner], scale=size(total))
    assert not QUADRATURE.holds(x1[inner], found[inner], scale=size(total))
    if path == "rectified_flow":  # the x_1-error is (1 - t) times the velocity's
        assert ALGEBRA.holds(x1, (1 - t) * found)


def normalised_slopes(batch, student, kind):
    """The gradient of the squared errors over constants, nft_beta = 0.8, on the rectified flow."""
    plus, minus = branches(batch, student, 0.8)
    r, factor = batch["r"][:, None], (1 - batch["t"][:, None]) if kind == "x1" else 1.0
    return (
        2
        * 0.8
        * factor
        * (
            r * plus / plus.abs().mean(1, keepdim=True)
            - (1 - r) * minus / minus.abs().mean(1, keepdim=True)
        )
    )


@pytest.mark.parametrize("kind", ["velocity", "x1"])
def test_adaptive_weight_is_held_fixed(kind):
    """The gradient is that of the squared errors over constants."""
    method, student = NFT(0.8, kind), PLANE.cumulant_field(1.0, 1)
    batch, _, _ = collected(method, PLANE)
    ours = slopes(method, batch, student, PLANE)
    assert ALGEBRA.holds(ours, normalised_slopes(batch, student, kind), scale=1.0)
    assert method.optimum(PLANE) is None


def test_old_copy_follows_every_so_many_steps():
    method = NFT(refresh_every=3, old_decay=0.75)
    _, task, policy = collected(method, NOTE, n=8)
    policy.student.theta.data.fill_(1.0)
    for step in (1, 2):
        method.after_step(policy, step)
        assert not policy.old.theta.any()
    method.after_step(policy, 3)
    assert ALGEBRA.holds(policy.old.theta, torch.full_like(policy.old.theta, 0.25))
    method.after_step(policy, 6)
    assert ALGEBRA.holds(policy.old.theta, torch.full_like(policy.old.theta, 0.25 + 0.75 * 0.25))
    assert not policy.reference.theta.any()
    assert not policy.old.theta.requires_grad
    # Data and the old velocity come from the old copy.
    batch = method.collect(policy, task, 8, Draws.seeded([5], DOUBLE))
    assert torch.equal(batch["v_old"], policy.old(batch["x"], batch["t"]))
    assert not torch.equal(batch["v_old"], policy.reference(batch["x"], batch["t"]))
    fresh = NFT(refresh_every=1)
    fresh.after_step(policy, 1)
    assert torch.equal(policy.old.theta, policy.student.theta)


def test_pool_is_drawn_once_an_epoch():
    method = NFT(refresh_every=2, pool=16)
    _, task, policy = collected(method, NOTE, n=8)
    pool = policy.state["pool"].clone()
    draws = Draws.seeded([5], DOUBLE)
    batch = method.collect(policy, task, 64, draws)
    assert torch.equal(policy.state["pool"], pool)  # the same epoch, the same pool
    x1 = batch["x"] + (1 - batch["t"])[:, None] * batch["y"]
    gaps = (x1[:, None, 0] - pool[None, :, 0]).abs().amin(1)
    assert ALGEBRA.holds(gaps, torch.zeros_like(gaps), scale=1.0)
    assert len({int((x - pool[:, 0]).abs().argmin()) for x in x1[:, 0]}) > 8
    policy.student.theta.data.fill_(1.0)
    method.after_step(policy, 2)
    method.collect(policy, task, 8, draws)
    assert not torch.equal(policy.state["pool"], pool)


def test_anchor_may_be_the_guided_reference():
    problem = load_problem("guided_1d")
    for anchor, reference in (("base", problem.base_field), ("guided", problem.guided_field)):
        batch, _, _ = collected(NFT(kl_weight=0.5, anchor=anchor), problem, n=8)
        x, t = batch["x"].to(torch.float64), batch["t"].to(torch.float64)
        assert ALGEBRA.holds(batch["v_ref"], reference(x, t), scale=1.0)
    assert NFT(kl_weight=0.5, anchor="guided").optimum(problem) is None
    assert NFT(kl_weight=0.5, anchor="guided").target(problem) is None
    with pytest.raises(ValueError, match=r"no guidance: must be one with a \[guidance\]"):
        NFT(kl_weight=0.5, anchor="guided").check_problem(NOTE)


def test_options_that_would_change_nothing():
    with pytest.raises(ValueError, match=r"pool must come with .*changes nothing, got 5"):
        NFT(pool=5)
    with pytest.raises(ValueError, match=r"anchor must come with .*changes nothing, got 'guided'"):
        NFT(anchor="guided")
    with pytest.raises(ValueError, match=r"kl_weight must be a finite number >= 0, got -0\.1"):
        NFT(kl_weight=-0.1)


def test_without_refresh_there_is_no_old_copy():
    method = NFT()
    batch, _, policy = collected(method, NOTE, n=8)
    assert policy.old is None
    method.after_step(policy, 1)
    assert torch.equal(batch["v_old"], NOTE.base_field(batch["x"], batch["t"]))
    with pytest.raises(TypeError, match="must be torch modules"):
        NFT(refresh_every=1).after_step(Policy(NOTE.base_field, old=NOTE.base_field), 1)


def test_heun_is_second_order():
    """The samples of an old copy, against the exact transport."""
    noise = points(40, 1, seed=2)
    exact = FlowLaw(NOTE.base_field).push(noise)
    gaps = [size(heun(NOTE.base_field, NOTE.path, noise, n) - exact) for n in (40, 80, 160)]
    orders = -np.diff(np.log2(gaps))
    assert np.all(np.abs(orders - 2) < 3 * SLOPE), orders
