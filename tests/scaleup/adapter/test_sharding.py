"""FSDP: the base divided among processes. Here one process, whose share is the whole; that two take
the same steps is `python -m benchmarks scaleup --only processes`."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.launch import (
    _validate_launch_command,
    launch_command_parser,
    prepare_multi_gpu_env,
)
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import OffloadPolicy
from torch.distributed.tensor import DTensor
from transformers.integrations.fsdp import is_fsdp_enabled

from scaleup.adapter import ImageModel
from scaleup.adapter.lora import LoraOptions, lora_student
from scaleup.adapter.sharding import release, shard_base, sharding_plugin
from scaleup.training.config import RECIPES
from tests.scaleup import tiny
from theory.common.tolerances import FLOAT32

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # accelerate launch's own choice
}


def accelerator(kind: DistributedType = DistributedType.MULTI_CPU, **more: Any) -> Any:
    """As much of an Accelerator as sharding looks at."""
    return SimpleNamespace(
        distributed_type=kind,
        state=SimpleNamespace(fsdp_plugin=None),
        device=torch.device("cpu"),
        mixed_precision="no",
        is_main_process=True,
        **more,
    )


@pytest.fixture
def fsdp(monkeypatch):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def group(tmp_path):
    """A process group of one."""
    AcceleratorState._reset_state(True)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", world_size=1, rank=0
    )
    yield
    torch.distributed.destroy_process_group()


def test_no_sharding_where_none_is_asked_for(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert sharding_plugin(accelerator()) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding_plugin(accelerator(DistributedType.NO)) is None  # nobody to share with


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FSDP_VERSION", "1", "fsdp_version must be 2 in accelerate's configuration, got 1"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "--gradient-checkpointing recomputes"),
    ],
)
def test_configurations_that_cannot_be(fsdp, name, value, message):
    assert sharding_plugin(accelerator()).fsdp_version == 2
    fsdp.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        sharding_plugin(accelerator())


def test_accelerates_own_plugin_is_taken(fsdp):
    own = SimpleNamespace(fsdp_version=2, activation_checkpointing=False)
    found = accelerator(DistributedType.FSDP)
    found.state.fsdp_plugin = own
    assert sharding_plugin(found) is own
    own.fsdp_version = 1
    with pytest.raises(ValueError, match=r"fsdp_version must be 2 .* got 1"):
        sharding_plugin(found)


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_a_sharded_base_gives_the_same_velocity_and_gradients(fsdp, group, family):
    pipe = {"sd15": tiny.sd15, "sd3": tiny.sd3}[family]()
    students = []
    for own in (pipe, copy.deepcopy(pipe)):
        model = ImageModel(own)
        velocity = model.velocity(model.prompts(["a cat", "a dog"]))
        student = lora_student(model, velocity, LoraOptions(2), torch.Generator().manual_seed(3))
        with torch.no_grad():
            for value in student.parameters():
                value.add_(0.05)
        old = student.frozen_copy("old")
        with torch.no_grad():
            for value in old.parameters():
                value.mul_(0.5)
        students.append((model, student, old))
    network = students[1][0].network
    found = accelerator(torch_device_mesh=None)
    shard_base(found, sharding_plugin(found), network)
    kinds = {name: isinstance(p, DTensor) for name, p in network.named_parameters()}
    assert {sharded for name, sharded in kinds.items() if "lora_" in name} == {False}
    assert {sharded for name, sharded in kinds.items() if "lora_" not in name} == {True}
    x = torch.randn(3, *tiny.LATENT, generator=torch.Generator().manual_seed(1))
    t, cond = torch.tensor([0.3, 0.5, 0.8]), torch.tensor([1, 2, 1])
    outputs = []
    for model, student, old in students:
        with torch.no_grad():
            lagging = old(x, t, cond)
        value = student(x, t, cond)
        (value - lagging).square().mean().backward()
        outputs.append((value.detach(), lagging, [p.grad for p in student.parameters()]))
        assert all(p.grad is None for p in old.parameters())
        release(model.network)
    (value, lagging, gradients), (value_s, lagging_s, gradients_s) = outputs
    size = float(value.abs().max())
    assert FLOAT32.holds(value_s, value, size)
    assert FLOAT32.holds(lagging_s, lagging, size)
    assert not FLOAT32.holds(value, lagging, size)
    for mine, theirs in zip(gradients_s, gradients, strict=True):
        assert FLOAT32.holds(mine, theirs, max(float(g.abs().max()) for g in gradients))


def test_every_process_loads_everything(fsdp):
    """Under accelerate's choice transformers would give all but one process empty encoders."""
    assert sharding_plugin(accelerator()).cpu_ram_efficient_loading is False
    assert not is_fsdp_enabled()


def test_the_recipe_is_what_accelerate_reads(fsdp):
    words = ["--config_file", str(RECIPES / "fsdp.yaml"), "-m", "scaleup", "train"]
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    for name, value in prepare_multi_gpu_env(options).items():
        if name.startswith(("FSDP", "ACCELERATE_USE_FSDP")):
            fsdp.setenv(name, value)
    plugin = sharding_plugin(accelerator())
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert isinstance(plugin.cpu_offload, OffloadPolicy)
