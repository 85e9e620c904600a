"""The state of a training as tensors by name, which a run goes on from to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from theory.methods.contract.method import Policy


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries whose names start with prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries with prefix before their names."""
    return {f"{prefix}{k}": v for k, v in tensors.items()}


def optimiser_tensors(policy: Policy, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, by the number of the parameter."""
    return {
        f"{i}.{key}": torch.as_tensor(value)
        for i, parameter in enumerate(policy.parameters())
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser(
    policy: Policy, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave; the step counter stays on the CPU."""
    for i, parameter in enumerate(policy.parameters()):
        if own := under(f"{i}.", tensors):
            optimiser.state[parameter] = {
                k: v.clone() if k == "step" else v.to(parameter.device).clone()
                for k, v in own.items()
            }


def digest_of_tensors(tensors: Mapping[str, Tensor], words: str) -> str:
    """Of names and every bit, 64 hexadecimal digits: safetensors itself only sees that a file is
    too short."""
    found = hashlib.sha256(words.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
