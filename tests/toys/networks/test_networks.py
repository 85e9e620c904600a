"""Stacked networks are the single ones, side by side."""

import pytest
import torch
from torch import nn

from tests.helpers import size
from theory.common.tolerances import ALGEBRA
from theory.methods import Draws
from toys.networks.mlp import StackedMLP, single

DIM, OUTPUTS, WIDTH, DEPTH, ROWS = 2, 3, 7, 2, 5


def stacked(*seeds):
    return StackedMLP(DIM, OUTPUTS, WIDTH, DEPTH, Draws.seeded(seeds, torch.float64))


def plain(member):
    """The same network as torch.nn layers."""
    layers = []
    for k in range(DEPTH + 1):
        weight = member[f"weight.{k}"]
        linear = nn.Linear(*weight.shape, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            linear.bias.copy_(member[f"bias.{k}"][0])
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def inputs(blocks):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(blocks * ROWS, DIM, dtype=torch.float64, generator=generator)
    return x, torch.rand(blocks * ROWS, dtype=torch.float64, generator=generator)


def loop(networks, x, t):
    rows = torch.cat([x, t[:, None]], -1).reshape(len(networks), ROWS, -1)
    return torch.cat([network(part) for network, part in zip(networks, rows, strict=True)])


def test_stacked_networks_are_a_loop_over_single_ones():
    network = stacked(3, 1, 4)
    x, t = inputs(3)
    twins = [plain(network.member(i)) for i in range(3)]
    expected, found = loop(twins, x, t), network(x, t)
    assert found.shape == (3 * ROWS, OUTPUTS)
    scale = size(expected.detach())
    assert ALGEBRA.holds(found.detach(), expected.detach(), scale)
    swapped = loop([twins[1], twins[0], twins[2]], x, t)
    assert not ALGEBRA.holds(found.detach(), swapped.detach(), scale)

    found.square().sum().backward()
    expected.square().sum().backward()
    for i, twin in enumerate(twins):
        for k in range(DEPTH + 1):
            linear = twin[2 * k]
            for ours, theirs in (
                (network.weight[k].grad[i], linear.weight.grad.T),
                (network.bias[k].grad[i, 0], linear.bias.grad),
            ):
                assert ALGEBRA.holds(ours, theirs, size(theirs))
                assert not ALGEBRA.holds(ours / 3, theirs, size(theirs))


def test_a_network_starts_from_its_own_seed_alone():
    together, alone = stacked(3, 1, 4), stacked(1)
    assert all(torch.equal(v, alone.member(0)[k]) for k, v in together.member(1).items())
    assert not torch.equal(together.member(0)["weight.0"], alone.member(0)["weight.0"])


def test_initial_parameters_fill_their_range():
    member = StackedMLP(DIM, OUTPUTS, 64, DEPTH, Draws.seeded([0])).member(0)
    for k in range(DEPTH + 1):
        weight = member[f"weight.{k}"]
        bound = weight.shape[0] ** -0.5
        assert 0.9 * bound < size(weight) <= bound
        assert size(member[f"bias.{k}"]) <= bound
        assert abs(float(weight.mean())) < 0.2 * bound


def test_members_go_out_and_in_again():
    network, other = stacked(3, 1), stacked(8, 9)
    other.load_members([network.member(1), network.member(0)])
    assert all(torch.equal(v, network.member(1)[k]) for k, v in other.member(0).items())
    assert all(torch.equal(v, network.member(0)[k]) for k, v in other.member(1).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_network_is_the_member_frozen(dtype):
    network = StackedMLP(DIM, OUTPUTS, WIDTH, DEPTH, Draws.seeded([3, 1]))
    one = single(network.member(1), dtype)
    assert not any(p.requires_grad for p in one.parameters())
    x, t = inputs(1)
    found = one(x.to(dtype), t.to(dtype))
    assert found.dtype == dtype
    expected = plain({k: v.double() for k, v in network.member(1).items()})
    expected = loop([expected], x, t).detach()
    gap = (found.double() - expected).abs().max()
    if dtype == torch.float64:
        assert ALGEBRA.holds(found, expected, size(expected))
    else:
        assert gap < 32 * torch.finfo(dtype).eps * size(expected)


@pytest.mark.parametrize("name", ["dim", "outputs", "width", "depth"])
def test_empty_shapes_are_refused(name):
    sizes = {"dim": 1, "outputs": 1, "width": 1, "depth": 1, name: 0}
    with pytest.raises(ValueError, match=rf"{name} must be .*got 0"):
        StackedMLP(**sizes, draws=Draws.seeded([0]))
