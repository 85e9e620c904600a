"""Flow networks: what they see, where they start, what they cost, and what cannot be cut down."""

import copy

import pytest
import torch

from scaleup.adapter import ImageModel
from scaleup.adapter.auxiliary import SHARE, flow_network
from scaleup.training.draws import generator_of
from tests.scaleup import tiny
from theory.common.tolerances import FLOAT32

TEXTS = ("a", "bb", "cccc")
MAKE = {"sd15": tiny.sd15, "pixel": lambda: tiny.sd15(pixel=True), "sd3": tiny.sd3}


@pytest.fixture(scope="module", params=MAKE)
def model(request):
    return ImageModel(MAKE[request.param]())


@pytest.fixture(scope="module")
def prompts(model):
    return model.prompts(TEXTS)


@pytest.fixture
def make(model, prompts):
    def network(outputs="event", seed=0, near_zero=False):
        return flow_network(model, prompts, outputs, generator_of("flow", seed), near_zero)

    return network


@pytest.fixture
def place(model):
    """Three rows, at both ends of time too, where the schedule does not reach."""
    x = torch.randn(3, *model.event_shape, generator=torch.Generator().manual_seed(2))
    return x, torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[1], [2], [3]])


@pytest.mark.parametrize("outputs", ["event", 1, 2])
def test_where_it_starts(outputs, make, model, place):
    shape = (3, *model.event_shape) if outputs == "event" else (3, outputs)
    assert torch.equal(make(outputs, near_zero=True)(*place), torch.zeros(shape))
    found = make(outputs)(*place).detach()
    assert found.shape == shape
    assert found.dtype == torch.float32
    assert 0 < float(found.abs().max()) < 0.1


@pytest.mark.parametrize("outputs", ["event", 2])
def test_it_sees_picture_time_and_prompt_of_its_row(outputs, make, place):
    network, (x, t, cond) = make(outputs), place
    with torch.no_grad():
        for weight in network.parameters():  # the zeros that some layers start with hide the rest
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        found = network(x, t, cond)
        for change in ((x.flip(0), t, cond), (x, t.flip(0), cond), (x, t, cond.flip(0))):
            moved = network(*change)
            assert not torch.equal(moved[0], found[0])
            assert not torch.equal(moved[2], found[2])
        assert FLOAT32.holds(network(x[:1], t[:1], cond[:1]), found[:1], 1.0)


@pytest.mark.parametrize("outputs", ["event", 1])
def test_it_is_the_generators_own(outputs, make):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, again, other = (make(outputs, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    assert not any("prompts" in name for name in first)  # their embeddings are no weights


@pytest.mark.parametrize("outputs", ["event", 1])
def test_all_of_it_trains(outputs, make, place):
    network = make(outputs)
    assert all(weight.requires_grad for weight in network.parameters())
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1)
    network(*place).square().sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("outputs", ["event", 1])
def test_it_is_small(outputs, make, model):
    """A quarter of the channels, or of heads and layers."""
    size = sum(weight.numel() for weight in make(outputs).parameters())
    whole = sum(weight.numel() for weight in model.network.parameters())
    # So narrow, the prompt's width and biases count too.
    assert size < whole / SHARE


def test_the_pipelines_network_is_not_touched(model, make):
    before = copy.deepcopy(model.network.state_dict())
    make(), make(1)
    after = model.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_cannot_be_cut_down():
    pipe = tiny.sd15()
    model = ImageModel(pipe, source="mine")
    pipe.unet.register_to_config(block_out_channels=(2, 16))
    with pytest.raises(
        ValueError,
        match=r"mine must have a network that can be cut down .* block_out_channels must be at "
        r"least 4, got \(2, 16\)",
    ):
        flow_network(model, model.prompts(TEXTS), "event", generator_of("flow", 0))
