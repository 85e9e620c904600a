"""Tiny pipelines of Stable Diffusion's two families, built from configurations: no hub, no files.

Every letter is a token of the hand-made CLIP vocabulary, so any English prompt can be embedded.
Latents are 4 x 8 x 8; pictures 3 x 16 x 16.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers

LATENT = (4, 8, 8)
PICTURE = (3, 16, 16)
LENGTH = 16  # tokens of a prompt, begin and end included
START, END = "<|startoftext|>", "<|endoftext|>"
# The schedule of Stable Diffusion 1.5.
SD15_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def tokenizer() -> transformers.CLIPTokenizer:
    """CLIP's tokenizer with letters, digits and punctuation as its only words."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    words = [START, END, *signs, *(f"{s}</w>" for s in signs)]
    return transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=LENGTH
    )


def text_encoder(projected: bool) -> Any:
    """A CLIP text encoder of 2 layers of width 16; with a projection to 16 for SD3."""
    words = tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=24,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def vae(**options: Any) -> diffusers.AutoencoderKL:
    """An autoencoder of two levels: pictures 16 x 16, latents 8 x 8."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=LATENT[0],
        norm_num_groups=2,
        sample_size=PICTURE[1],
        **options,
    )


def sd15(
    prediction: Literal["epsilon", "v_prediction"] = "epsilon",
    *,
    pixel: bool = False,
    seed: int = 0,
    scheduler: Any = None,
) -> diffusers.StableDiffusionPipeline:
    """A StableDiffusionPipeline; without a VAE, on 3 x 8 x 8 pixels, where `pixel`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = 3 if pixel else LATENT[0]
        unet = diffusers.UNet2DConditionModel(
            sample_size=LATENT[1],
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        return diffusers.StableDiffusionPipeline(
            vae=None if pixel else vae(),
            text_encoder=text_encoder(projected=False),
            tokenizer=tokenizer(),
            unet=unet,
            scheduler=scheduler
            or diffusers.DDIMScheduler(prediction_type=prediction, **SD15_SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def sd3(*, seed: int = 0) -> diffusers.StableDiffusion3Pipeline:
    """A StableDiffusion3Pipeline without T5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=LATENT[1],
            patch_size=2,
            in_channels=LATENT[0],
            out_channels=LATENT[0],
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        )
        return diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=text_encoder(projected=True),
            tokenizer=tokenizer(),
            text_encoder_2=text_encoder(projected=True),
            tokenizer_2=tokenizer(),
            text_encoder_3=None,
            tokenizer_3=None,
        )


def save(pipe: Any, folder: Path | str) -> str:
    """The pipeline in diffusers' layout (safetensors); returns the folder."""
    pipe.save_pretrained(folder, safe_serialization=True)
    return str(folder)
