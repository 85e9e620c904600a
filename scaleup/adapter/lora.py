"""LoRA on one frozen base: the student, its old copy and the reference share every other weight.

W x becomes W x + (alpha / rank) B A x in the targeted linear layers (Hu et al. 2021, (3)), with
two named adapters of peft: `default` (the student), `old` (a method's lagging copy, when it asks
for one), and none, the base itself, as the reference. B starts at zero, so all three begin equal.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaleup.adapter.model import ImageModel
from scaleup.adapter.velocity import Guided, NetworkVelocity
from theory.common.checks import check_order, check_positive
from theory.common.files import write_tensors
from theory.fields.mixture import VelocityModel
from theory.methods.contract.method import Role

STUDENT, OLD = "default", "old"
TARGETS = {
    "sd15": ("to_q", "to_k", "to_v", "to_out.0"),
    "sd3": (
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    ),
}


@dataclass(frozen=True)
class LoraOptions:
    """rank; alpha (0: the rank, so B A is added as it is); targets: names of linear layers, or
    their ends (empty: the attention layers of the model's family)."""

    rank: int = 16
    alpha: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_order("lora_rank", self.rank, 1)
        if self.alpha:
            check_positive("lora_alpha", self.alpha)

    def config(self, family: str) -> LoraConfig:
        """As peft takes it."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or self.rank,  # type: ignore[arg-type]
            target_modules=list(self.targets or TARGETS[family]),
            init_lora_weights=True,
        )


class Adapters:
    """The network with its adapters; whoever calls it says which one counts.

    Outside `using` the student's adapter is active. Only the student's weights ever ask for a
    gradient. Adapters are held in float32, whatever the base is: in bfloat16, AdamW's small steps
    would be lost. weights: of each adapter, by names that do not hold the adapter's.
    """

    def __init__(self, network: Any, config: LoraConfig, generator: torch.Generator) -> None:
        self.network, self.config = network, config
        self.active: str | None = STUDENT
        self.rows_at_once: int | None = None  # of a call without gradients; longer ones are split
        self.weights: dict[str, dict[str, nn.Parameter]] = {}
        self._make(STUDENT)
        with torch.no_grad():
            for name, value in self.weights[STUDENT].items():
                if "lora_A" in name:  # uniform in +- 1/sqrt(fan in), peft's own choice
                    bound = 1 / math.sqrt(value.shape[1:].numel())
                    value.copy_(bound * (torch.rand(value.shape, generator=generator) * 2 - 1))

    def _make(self, adapter: str) -> None:
        # peft draws from the global generator, and wonders at a second adapter.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            try:
                self.network.add_adapter(self.config, adapter_name=adapter)
            except ValueError as error:
                raise _no_layers(
                    self.network, self.config.target_modules or (), str(error).partition(".")[0]
                ) from error
        mark = f".{adapter}."
        self.weights[adapter] = {
            name.replace(mark, "."): value
            for name, value in self.network.named_parameters()
            if "lora_" in name and mark in name
        }
        for value in self.weights[adapter].values():
            value.data = value.data.to(torch.float32)  # peft takes the base's dtype
        self._switch(self.active)

    def add(self, adapter: str) -> None:
        """Another adapter, equal to the student's as it is now."""
        if adapter in self.weights:
            raise ValueError(f"adapter must be a new name, got {adapter!r}, which is there already")
        self._make(adapter)
        twin = self.weights[adapter]
        with torch.no_grad():
            for name, value in self.weights[STUDENT].items():
                twin[name].copy_(value)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """The network with this adapter, or with none; afterwards as it was before."""
        before = self.active
        if adapter == before:
            yield
            return
        try:
            self._switch(adapter)
            yield
        finally:
            self._switch(before)

    def _switch(self, adapter: str | None) -> None:
        if adapter is None:
            self.network.disable_adapters()
        else:
            if self.active is None:
                self.network.enable_adapters()
            self.network.set_adapter(adapter)
        self.active = adapter
        # peft's switches turn requires_grad on for what they activate and off for the rest.
        for name, weights in self.weights.items():
            for value in weights.values():
                value.requires_grad_(name == STUDENT)

    def recompute_activations(self) -> None:
        """Gradient checkpointing. What the backward pass runs again, it runs with the adapter of
        its forward pass: a gradient may run through the base (a lean adjoint) after `using`."""

        def checkpointed(module: nn.Module, *inputs: Any) -> Any:
            again = _Again(self, self.active)
            return checkpoint(
                module.__call__,
                *inputs,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), again),
            )

        self.network.enable_gradient_checkpointing(checkpointed)


class _Again(AbstractContextManager[None]):
    """`using`, entered as often as a retained graph is gone through."""

    def __init__(self, adapters: Adapters, adapter: str | None) -> None:
        self.adapters, self.adapter = adapters, adapter
        self.entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self.entered.append(self.adapters.using(self.adapter))
        self.entered[-1].__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self.entered.pop().__exit__(*error)


def _check_targets(network: nn.Module, targets: tuple[str, ...]) -> None:
    """Every target is a layer's name, or its end: peft is content where any of them is."""
    names = [name for name, _ in network.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise _no_layers(network, targets, f"{target!r} is no layer of the network")


def _no_layers(network: nn.Module, targets: Iterable[str], why: str) -> ValueError:
    names = [n.split(".") for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    # The last part of every linear layer's name; the last two where that is a number.
    ends = sorted({".".join(n[-2:] if n[-1].isdigit() else n[-1:]) for n in names})
    return ValueError(
        f"lora_targets must be names of linear layers or their ends ({', '.join(ends)}), got "
        f"{sorted(targets)}: {why}"
    )


class LoraVelocity(nn.Module):
    """The velocity with one adapter: v(x, t, cond). Its parameters are the adapter's alone.

    model: what calls the network (a NetworkVelocity, or Guided around one).
    adapter: `default`, `old`, or None for the base.
    """

    def __init__(self, adapters: Adapters, model: VelocityModel, adapter: str | None) -> None:
        super().__init__()
        self.adapter = adapter
        # Held without being registered: the base's weights are not this module's.
        object.__setattr__(self, "adapters", adapters)
        object.__setattr__(self, "model", model)

    adapters: Adapters
    model: VelocityModel

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        most = self.adapters.rows_at_once
        with self.adapters.using(self.adapter):
            if torch.is_grad_enabled() or most is None or len(x) <= most:
                return self.model(x, t, cond)
            times = t if isinstance(t, Tensor) and t.ndim else torch.as_tensor(t).expand(len(x))
            parts = [
                self.model(x[i : i + most], times[i : i + most],
                           None if cond is None else cond[i : i + most])
                for i in range(0, len(x), most)
            ]  # fmt: skip
            return torch.cat(parts)

    def frozen_copy(self, role: Role = "reference") -> LoraVelocity:
        """The base without adapters ("reference"), or the adapter `old` ("old").

        Raises:
            ValueError: a reference is asked for when the student has left the base, or a second
                old copy.
        """
        if role == "old":
            self.adapters.add(OLD)
            return LoraVelocity(self.adapters, self.model, OLD).eval()
        moved = [k for k, v in self.named_parameters() if "lora_B" in k and bool(v.any())]
        if moved:  # elsewhere than at zero, where B A is nothing
            raise ValueError(
                "the reference must be taken before training, where it is the base; the student "
                f"differs from it ({moved[0]} is not zero)"
            )
        return LoraVelocity(self.adapters, self.model, None).eval()

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        if self.adapter is not None:
            dot = f"{prefix}." if prefix else ""
            for name, value in self.adapters.weights[self.adapter].items():
                yield dot + name, value

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The adapter's tensors, sharing memory with it."""
        return {name: value.detach() for name, value in self.named_parameters()}


def lora_student(
    model: ImageModel,
    velocity: NetworkVelocity,
    options: LoraOptions,
    generator: torch.Generator,
    guidance: float = 1.0,
) -> LoraVelocity:
    """A student on the model's base, under guidance of this weight.

    Raises:
        ValueError: a target that is no layer of the network.
    """
    _check_targets(model.network, options.targets)
    adapters = Adapters(model.network, options.config(model.family), generator)
    return LoraVelocity(adapters, Guided(velocity, guidance), STUDENT)


def save_lora(model: ImageModel, folder: Path) -> None:
    """The student's adapter as diffusers' own `load_lora_weights` reads it, alpha included.

    Raises:
        OSError: the disk is full; names the path.
    """
    network = model.network
    part = "transformer" if model.family == "sd3" else "unet"
    layers = get_peft_model_state_dict(network, adapter_name=STUDENT)
    # As diffusers itself writes them; JSON has no sets.
    options = {
        f"{part}.{key}": sorted(value) if isinstance(value, set) else value
        for key, value in network.peft_config[STUDENT].to_dict().items()
    }
    words = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(options, sort_keys=True)}
    model.pipe.save_lora_weights(
        folder,
        **{f"{part}_lora_layers": layers},
        save_function=lambda weights, file: write_tensors(Path(file), weights, words),
    )


def parse_targets(text: str) -> tuple[str, ...]:
    """Names from a text with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
