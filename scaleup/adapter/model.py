"""A text-to-image pipeline of diffusers as Plumbline sees it: a velocity on the rectified flow.

ImageModel reads from the pipeline's own configuration what the network predicts, in which clock,
and how latents and pictures are related:

    sd15   StableDiffusionPipeline, UNet2DConditionModel; eps- or v-prediction, VP schedule
    sd3    StableDiffusion3Pipeline, SD3Transformer2DModel; flow, time reversed

Latents z and pictures p in [0, 1]: 2 p - 1 = decoder(z / scaling_factor + shift_factor), and
z = (encoder's mode(2 p - 1) - shift_factor) * scaling_factor; without a VAE z = 2 p - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from scaleup.adapter.clocks import Clock, FlowClock, VPClock
from scaleup.adapter.prompts import Prompts, prompts_of
from scaleup.adapter.velocity import NetworkVelocity
from scaleup.adapter.words import Reading, check_tokenizers, read
from theory.common.checks import unknown

Family = Literal["sd15", "sd3"]
# Pipeline class -> (family, its part that is fine-tuned, parts that hold weights).
PIPELINES: dict[str, tuple[Family, str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": ("sd15", "unet", ("unet", "vae", "text_encoder")),
    "StableDiffusion3Pipeline": (
        "sd3",
        "transformer",
        ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
    ),
}
PREDICTIONS: dict[str, Literal["eps", "v"]] = {"epsilon": "eps", "v_prediction": "v"}
# Options of a UNet that ask for inputs which Stable Diffusion 1.5 does not have.
FOREIGN_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)


class ImageModel:
    """A pipeline, frozen and in evaluation mode, as a VelocityModel.

    pipe: the pipeline.  network: its UNet or transformer.  family: "sd15" or "sd3".
    event_shape: (C, H, W) of x, latent or, without a VAE, pixel.  times: the times that the
    schedule covers, float64, increasing, or None for all of [0, 1].  span: the first and the last.
    start_std: the standard deviation of x at the first one (1/b_T; 1 for sd3).

    Raises:
        ValueError: an unknown pipeline, scheduler, prediction type or kind of network; `source`
            (what to call the pipeline in messages) is named.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        source: str = "the pipeline",
    ) -> None:
        name = type(pipe).__name__
        if name not in PIPELINES:
            raise unknown(source, name, PIPELINES)
        self.family, part, parts = PIPELINES[name]
        self.pipe, self.source = pipe, source
        self.device, self.dtype = torch.device(device), dtype
        self.network: Any = getattr(pipe, part)
        self.event_shape = _event_shape(self.network, f"{source}, {part}")
        self.clock: Clock = (_vp_clock if self.family == "sd15" else _flow_clock)(pipe, source)
        self.times, self.span = self.clock.times, self.clock.span
        self.start_std = self.clock.start_std
        for each in parts:
            module = getattr(pipe, each)
            if isinstance(module, nn.Module):
                module.to(self.device).requires_grad_(False).eval()
                if any(p.dtype != dtype for p in module.parameters()):
                    module.to(dtype=dtype)
            elif each not in ("vae", "text_encoder_3"):
                raise ValueError(f"{source}: {each} must be a network, got {module!r}")
            words = each.replace("text_encoder", "tokenizer")
            if module is not None and getattr(pipe, words) is None:
                raise ValueError(f"{source}: {words} must be {each}'s tokenizer, got None")
        check_tokenizers(pipe, source)

    def velocity(self, prompts: Prompts | None = None) -> NetworkVelocity:
        """The network as v(x, t, cond); cond indexes `prompts` (None: the empty prompt alone)."""
        known = self.prompts(()) if prompts is None else prompts
        return NetworkVelocity(self.network, self.clock, known, self.dtype)

    def prompts(self, texts: Sequence[str]) -> Prompts:
        """The empty prompt (index 0) and `texts` (indices 1, 2, ...), embedded when asked for.

        What exceeds the text encoder's length is cut off, as the pipeline itself does (`read`).
        """
        return prompts_of(self.pipe, self.family, texts, self.device)

    def read(self, texts: Sequence[str]) -> Reading:
        """What the text encoders see of texts: which are cut, and which are one to the model."""
        return read(self.pipe, texts)

    def decode(self, x1: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in [0, 1], float32, from x_1 (n, *event); differentiable.

        Values are clamped to [0, 1] with the gradient of the identity (straight through): with the
        clamp's own, a saturated pixel could never come back.
        """
        vae, signed = self.pipe.vae, x1
        if vae is not None:
            shift = vae.config.shift_factor or 0.0
            latents = (x1 / vae.config.scaling_factor + shift).to(self.device, self.dtype)
            signed = vae.decode(latents, return_dict=False)[0]
        return cast(Tensor, _Clamp.apply(0.5 * (signed.to(torch.float32) + 1)))

    def encode(self, images: Tensor) -> Tensor:
        """x_1 (n, *event), in the model's dtype, from pictures (n, 3, h, w) in [0, 1]."""
        signed = (2 * images - 1).to(self.device, self.dtype)
        vae = self.pipe.vae
        if vae is None:
            return signed
        latents = vae.encode(signed).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


class _Clamp(torch.autograd.Function):
    """clamp(x, 0, 1) with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def _event_shape(network: Any, where: str) -> tuple[int, int, int]:
    """(C, H, W) from the network's configuration; refuses networks that take or give more."""
    config = network.config
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"{where}: out_channels must be in_channels = {config.in_channels} (no inpainting, no "
            f"learned variance), got {config.out_channels}"
        )
    for option in FOREIGN_INPUTS:
        if config.get(option) is not None:
            raise ValueError(f"{where}: {option} must be None, got {config[option]!r}")
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return config.in_channels, height, width


def _vp_clock(pipe: Any, source: str) -> VPClock:
    scheduler, where = pipe.scheduler, f"{source}, scheduler {type(pipe.scheduler).__name__}"
    abar = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(abar, Tensor):
        raise ValueError(
            f"{where} must be a variance-preserving schedule (DDIMScheduler, DDPMScheduler, "
            "PNDMScheduler, ...): it has no alphas_cumprod"
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise unknown(f"{where}: prediction_type", prediction, PREDICTIONS)
    try:
        return VPClock(abar, PREDICTIONS[prediction])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _flow_clock(pipe: Any, source: str) -> FlowClock:
    name = type(pipe.scheduler).__name__
    if not name.startswith("FlowMatch"):
        raise ValueError(
            f"{source}: scheduler must be a flow-matching one (FlowMatchEulerDiscreteScheduler, "
            f"FlowMatchHeunDiscreteScheduler), got {name}"
        )
    return FlowClock(float(pipe.scheduler.config.num_train_timesteps))
