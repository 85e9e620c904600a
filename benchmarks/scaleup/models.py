"""Pipelines built from configurations, weights random: Stable Diffusion's two families.

tiny_sd15, tiny_sd3   latents 4 x 8 x 8, pictures 3 x 16 x 16, some ten thousand parameters
small_sd15            about 1 M parameters, latents 4 x 16 x 16
sd15                  the published sizes of Stable Diffusion 1.5: latents 4 x 64 x 64, 512 pixels
sd35_medium           those of Stable Diffusion 3.5 medium at 512 pixels (latents 16 x 64 x 64),
                      without its T5: prompts are embedded by the two CLIP encoders, T5's part is 0

The vocabulary is made by hand, a token a letter: any English prompt can be embedded.
"""

from __future__ import annotations

import string
from typing import Any

import diffusers
import torch
import transformers

START, END = "<|startoftext|>", "<|endoftext|>"
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
TINY_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
CLIP_G = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
TINY_UNET = {
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SD15_UNET = {
    "sample_size": 64,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SMALL_UNET = {
    "sample_size": 16,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "projection_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
TINY_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 16,
}
FULL_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
}
TINY_TRANSFORMER = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 8,
}
SD35_MEDIUM_TRANSFORMER = {
    "sample_size": 64,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}


def tiny_sd15(seed: int = 0) -> Any:
    """A StableDiffusionPipeline to test with."""
    return _sd15(seed, TINY_UNET, TINY_VAE, TINY_TEXT)


def small_sd15(seed: int = 0) -> Any:
    """A StableDiffusionPipeline of the built-in model's size, with latents of 4 x 16 x 16."""
    return _sd15(seed, SMALL_UNET, {**TINY_VAE, "sample_size": 32}, SMALL_TEXT)


def sd15(seed: int = 0) -> Any:
    """A StableDiffusionPipeline of Stable Diffusion 1.5's size: 1.07 billion parameters."""
    return _sd15(seed, SD15_UNET, FULL_VAE, CLIP_L)


def tiny_sd3(seed: int = 0) -> Any:
    """A StableDiffusion3Pipeline to test with."""
    return _sd3(seed, TINY_TRANSFORMER, {**TINY_VAE, "latent_channels": 4}, TINY_TEXT, TINY_TEXT)


def sd35_medium(seed: int = 0) -> Any:
    """A StableDiffusion3Pipeline of Stable Diffusion 3.5 medium's size, without T5."""
    vae = {**FULL_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    return _sd3(seed, SD35_MEDIUM_TRANSFORMER, vae, CLIP_L, CLIP_G)


def words() -> list[str]:
    """Letters, digits and punctuation, within a word and at its end."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    return [START, END, *signs, *(f"{sign}</w>" for sign in signs)]


def tokenizer(length: int) -> Any:
    """CLIP's tokenizer with `words` as its vocabulary."""
    vocabulary = {word: i for i, word in enumerate(words())}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def text_config(sizes: dict[str, Any]) -> transformers.CLIPTextConfig:
    """Of CLIP's text encoder, for `tokenizer`'s vocabulary (the rest of vocab_size is unused)."""
    known = tokenizer(sizes["max_position_embeddings"])
    ids = {f"{name}_token_id": getattr(known, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return transformers.CLIPTextConfig(**{"vocab_size": len(known), **sizes, **ids})


def _sd15(seed: int, unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return diffusers.StableDiffusionPipeline(
            unet=diffusers.UNet2DConditionModel(in_channels=4, out_channels=4, **unet),
            vae=diffusers.AutoencoderKL(latent_channels=4, scaling_factor=0.18215, **vae),
            text_encoder=transformers.CLIPTextModel(text_config(text)),
            tokenizer=tokenizer(text["max_position_embeddings"]),
            scheduler=diffusers.DDIMScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _sd3(
    seed: int,
    transformer: dict[str, Any],
    vae: dict[str, Any],
    text: dict[str, Any],
    text_2: dict[str, Any],
) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return diffusers.StableDiffusion3Pipeline(
            transformer=diffusers.SD3Transformer2DModel(patch_size=2, **transformer),
            vae=diffusers.AutoencoderKL(scaling_factor=1.5305, shift_factor=0.0609, **vae),
            text_encoder=transformers.CLIPTextModelWithProjection(text_config(text)),
            tokenizer=tokenizer(text["max_position_embeddings"]),
            text_encoder_2=transformers.CLIPTextModelWithProjection(text_config(text_2)),
            tokenizer_2=tokenizer(text_2["max_position_embeddings"]),
            text_encoder_3=None,
            tokenizer_3=None,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
