"""Flow networks: of the pipeline's own kind, cut down, and trained from nothing.

    a field, (rows, *event)        sd15: the UNet with a quarter of its channels and one layer a
                                   block; sd3: the transformer with a quarter of its heads and
                                   layers
    numbers, (rows, outputs)       sd15: that UNet's encoder half (down and middle blocks), pooled;
                                   sd3: that transformer with `outputs` channels, pooled

They see x, the time and the prompt's embeddings as the pipeline's network does, but in the path's
own coordinates and time, over all of [0, 1]: a flow is asked at t = 1 too, which no schedule
covers. Weights are float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from scaleup.adapter.model import ImageModel
from scaleup.adapter.prompts import Prompts
from scaleup.adapter.velocity import prompt_index
from theory.methods.contract.auxiliary import Outputs

SHARE = 4  # of channels, or of heads and layers, one in so many is kept
TINY = 1e-2  # of the last layer's own initial weights, where they are not to be 0
TIME_STEPS = 1000.0  # what the networks' embeddings of time are made for
CHANNELS = {"sd15": "sample", "sd3": "hidden_states"}


class FlowNetwork(nn.Module):
    """(x, t, prompt) -> (rows, *event), or (rows, outputs)."""

    def __init__(self, network: nn.Module, sample_name: str, prompts: Prompts) -> None:
        super().__init__()
        self.network, self.sample_name = network, sample_name
        self.prompts = prompts  # no module: embeddings are no weights

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (rows, C, H, W), t (rows,), cond (rows, m) or None, the empty prompt."""
        rows = self.prompts.rows(prompt_index(cond, x))
        texts = {name: value.to(x.device, torch.float32) for name, value in rows.items()}
        place = {self.sample_name: x.float(), "timestep": TIME_STEPS * (1 - t.float())}
        found: Tensor = self.network(**place, **texts, return_dict=False)[0]
        return found.to(x.dtype)


def flow_network(
    model: ImageModel,
    prompts: Prompts,
    outputs: Outputs,
    generator: torch.Generator,
    near_zero: bool = False,
) -> FlowNetwork:
    """A fresh one, the same for the same generator's state; near_zero: its last layer starts at 0,
    else close to it.

    Raises:
        ValueError: the pipeline's network is of another kind, or cannot be cut down.
    """
    config, source = dict(model.network.config), model.source
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**62, (), generator=generator))
        torch.default_generator.manual_seed(seed)
        try:
            make = _unet if model.family == "sd15" else _transformer
            network, last = make(config, outputs)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source} must have a network that can be cut down to an auxiliary one with "
                f"outputs = {outputs!r}, got a {type(model.network).__name__} of which none can be "
                f"made: {error}"
            ) from error
    with torch.no_grad():
        for weight in last.parameters():
            weight.mul_(0.0 if near_zero else TINY)
    return FlowNetwork(network.to(model.device), CHANNELS[model.family], prompts)


def _unet(config: dict[str, Any], outputs: Outputs) -> tuple[nn.Module, nn.Module]:
    widths = [width // SHARE for width in config["block_out_channels"]]
    if min(widths) < 1:
        raise ValueError(
            f"block_out_channels must be at least {SHARE}, got {config['block_out_channels']}"
        )
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    levels = [heads] * len(widths) if isinstance(heads, int) else heads
    changes = {
        "block_out_channels": tuple(widths),
        "layers_per_block": 1,
        "norm_num_groups": math.gcd(config["norm_num_groups"], *widths),
        "num_attention_heads": None,
        # diffusers reads it as the number of heads of each level.
        "attention_head_dim": tuple(map(math.gcd, levels, widths)),
    }
    unet: Any = UNet2DConditionModel.from_config(config, **changes)
    if outputs == "event":
        return unet, unet.conv_out
    half = EncoderHalf(unet, outputs)
    return half, half.last


class EncoderHalf(nn.Module):
    """A UNet's down and middle blocks; what they give, averaged over the picture, linearly to
    numbers."""

    def __init__(self, unet: Any, outputs: int) -> None:
        super().__init__()
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.conv_in, self.down_blocks, self.mid_block = (
            unet.conv_in,
            unet.down_blocks,
            unet.mid_block,
        )
        width = unet.config.block_out_channels[-1]
        self.norm = nn.GroupNorm(unet.config.norm_num_groups, width)
        self.last = nn.Linear(width, outputs)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Called as the whole UNet is: (rows, outputs), in a tuple."""
        time = self.time_embedding(self.time_proj(timestep).to(sample.dtype))
        h = self.conv_in(sample)
        for block in self.down_blocks:
            h, _ = block(hidden_states=h, temb=time, **_texts(block, encoder_hidden_states))
        if self.mid_block is not None:
            h = self.mid_block(h, time, **_texts(self.mid_block, encoder_hidden_states))
        pooled = nn.functional.silu(self.norm(h)).flatten(2).mean(2)
        return (self.last(pooled),)


def _texts(block: Any, states: Tensor) -> dict[str, Tensor]:
    """The prompt's embeddings, for a block that looks at them."""
    return {"encoder_hidden_states": states} if getattr(block, "has_cross_attention", False) else {}


def _transformer(config: dict[str, Any], outputs: Outputs) -> tuple[nn.Module, nn.Module]:
    heads = max(1, config["num_attention_heads"] // SHARE)
    layers = max(1, config["num_layers"] // SHARE)
    changes = {
        "num_attention_heads": heads,
        "num_layers": layers,
        "caption_projection_dim": heads * config["attention_head_dim"],
        "dual_attention_layers": tuple(n for n in config["dual_attention_layers"] if n < layers),
        "out_channels": config["out_channels"] if outputs == "event" else outputs,
    }
    transformer: Any = SD3Transformer2DModel.from_config(config, **changes)
    return (transformer if outputs == "event" else Pooled(transformer)), transformer.proj_out


class Pooled(nn.Module):
    """A network's channels, averaged over the picture."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **inputs: Any) -> tuple[Tensor]:
        """(rows, channels), in a tuple."""
        return (self.network(**inputs)[0].flatten(2).mean(2),)
