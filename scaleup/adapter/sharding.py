"""The frozen base divided among processes by FSDP2, as accelerate is configured.

Only the base is sharded: every process gathers a block's weights when it runs the block. Adapters
are small: each process keeps them whole, and their gradients are averaged as without sharding, so
checkpoints, the old copy and the optimiser are the same in both. Gathered weights are the very
weights, so a sharded run takes the steps of an unsharded one.

All processes must run the network equally often, or the gathering waits for ever.
"""

from __future__ import annotations

import os
import re
from typing import Any

from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    fsdp2_prepare_model,
    str_to_bool,
)
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.distributed.fsdp import FSDPModule

ADAPTER_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


def sharding_plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """accelerate's FSDP configuration, None where it asks for none.

    accelerate itself takes no notice of it on CPUs; it is read all the same.

    Raises:
        ValueError: FSDP1, or options that a frozen base with adapters cannot have.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        _check_version(plugin.fsdp_version)
    elif accelerator.distributed_type == DistributedType.MULTI_CPU and str_to_bool(
        os.environ.get("ACCELERATE_USE_FSDP", "false")
    ):
        _check_version(os.environ.get("FSDP_VERSION", "1"))
        plugin = FullyShardedDataParallelPlugin()
    else:
        return None
    if plugin.activation_checkpointing:
        raise ValueError(
            "fsdp_activation_checkpointing must be false in accelerate's configuration, got true; "
            "--gradient-checkpointing recomputes activations here"
        )
    # accelerate launch's own choice would leave all but one process without text encoders. Every
    # process loads everything.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    plugin.cpu_ram_efficient_loading = False
    return plugin


def _check_version(version: Any) -> None:
    if int(version) != 2:
        raise ValueError(f"fsdp_version must be 2 in accelerate's configuration, got {version}")


def shard_base(accelerator: Accelerator, plugin: Any, network: nn.Module) -> None:
    """Divide the network's weights, adapters excepted, among the processes, in place.

    network: on the run's device, with every adapter that the run will have.
    """
    apart = [
        getattr(layer, part)
        for layer in network.modules()
        if isinstance(layer, LoraLayer)
        for part in ADAPTER_PARTS
    ]
    plugin.ignored_modules = [*apart, *_named(plugin.ignored_modules, network)]
    # Adapters are float32 beside a base of half precision under autocast; a policy of FSDP's own
    # would also round the times that the network is called with.
    plugin.mixed_precision_policy = None
    accelerator.state.fsdp_plugin = plugin
    fsdp2_prepare_model(accelerator, network)


def _named(ignored: Any, network: nn.Module) -> list[nn.Module]:
    """What the user's configuration leaves out: modules, or a pattern of their names."""
    if isinstance(ignored, str):
        return [m for name, m in network.named_modules() if re.fullmatch(ignored, name)]
    return list(ignored or ())


def release(network: nn.Module) -> None:
    """Let go of gathered weights, on every process: reading a network's state does it on one
    alone, which would then gather what the others still hold."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
