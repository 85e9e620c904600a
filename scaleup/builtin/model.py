"""The built-in model: a StableDiffusionPipeline of diffusers, 1.9 M parameters, in pixel space.

It is of Stable Diffusion 1.5's kind in everything but size: a UNet with cross-attention, a CLIP
text encoder, SD's betas (scaled linear, 1000 steps); it predicts v. There is no VAE: the "latents"
are pixels, 2 image - 1, of 3 x 16 x 16.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from scaleup.builtin.shapes import COLOURS, SHAPES, SIZE
from theory.common.checks import check_order

WIDTHS = (32, 64, 64)
TEXT_WIDTH = 64
TOKENS = 16
START, END = "<|startoftext|>", "<|endoftext|>"
# These become one token each; any other text is spelled in letters, bytes if need be. Pairs of
# earlier words merge first, so long words come first: "re" of red would split green, "an" triangle.
WORDS = sorted((*SHAPES, *COLOURS, "a", "an"), key=len, reverse=True)
ABSENT: dict[str, None] = {"vae": None, "safety_checker": None, "feature_extractor": None}


def build_pipeline(generator: torch.Generator) -> Any:
    """A StableDiffusionPipeline with random weights, the same for the same generator's state."""
    # diffusers and transformers initialise from torch's global state: lend it one, put it back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        unet: Any = UNet2DConditionModel(**unet_config())
        tokenizer = build_tokenizer()
        text_encoder = CLIPTextModel(text_config(tokenizer))
    return StableDiffusionPipeline(
        unet=unet.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        requires_safety_checker=False,
        **ABSENT,
    )


def unet_config() -> dict[str, Any]:
    """16 x 16, 8 x 8 and 4 x 4, with attention (to itself and to the text) at the lower two.

    Attention over 16 x 16 pixels would cost as much again and learns shapes no sooner: a shape is
    put together where a pixel sees all of it.
    """
    return {
        "sample_size": SIZE,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": WIDTHS,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        # diffusers reads it as the number of heads of each level: 16 channels each.
        "attention_head_dim": tuple(width // 16 for width in WIDTHS),
        "norm_num_groups": 8,
    }


def text_config(tokenizer: Any) -> CLIPTextConfig:
    """Two layers over TOKENS tokens of the tokenizer's vocabulary."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_tokenizer() -> Any:
    """CLIP's byte-pair encoding with a vocabulary of 256 bytes, their word ends, and WORDS."""
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[Any] = []
    for word in WORDS:
        left = word[0]
        for place, letter in enumerate(word[1:], start=2):
            right = letter + ("</w>" if place == len(word) else "")
            # A pair that an earlier word needed too is there already.
            if (left, right) not in merges:
                merges.append((left, right))
                tokens.append(left + right)
            left += right
    vocabulary = {token: index for index, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def build_scheduler() -> DDIMScheduler:
    """DDIM as Stable Diffusion has it, for a v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


# --- the clock, and a sampler


def rf_times(pipe: Any) -> Tensor:
    """The rectified-flow time of every integer step, float64 (1000,), falling from 0.972 to 0.064.

    With abar the scheduler's product of alphas: t = sqrt(abar) / (sqrt(abar) + sqrt(1 - abar)).
    """
    abar = pipe.scheduler.alphas_cumprod.double()
    return abar.sqrt() / (abar.sqrt() + (1 - abar).sqrt())


def nearest_steps(times: Tensor, table: Tensor) -> Tensor:
    """The integer step whose time in `table` (falling, (K,)) is nearest to each of `times`."""
    rising = table.flip(0)
    middle = (rising[1:] + rising[:-1]) / 2
    return len(table) - 1 - torch.searchsorted(middle, times.to(table.dtype).contiguous())


def embed_prompts(pipe: Any, prompts: list[str]) -> Tensor:
    """The text encoder's last hidden state for each prompt, (n, TOKENS, TEXT_WIDTH)."""
    tokens = pipe.tokenizer(
        prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    return pipe.text_encoder(tokens.input_ids.to(pipe.device))[0]


@torch.no_grad()
def sample(
    pipe: Any,
    prompts: list[str],
    generator: torch.Generator,
    steps: int = 20,
    guidance: float = 1.0,
    batch: int = 96,
) -> Tensor:
    """Pictures (n, 3, SIZE, SIZE) in [0, 1] by Euler's method on the rectified flow.

    With x = alpha X_1 + sigma X_0 and y = x / (alpha + sigma), dy/dt = v(y, t) = E[X_1 - X_0]; from
    the network's v-prediction u = alpha X_0 - sigma X_1, v = (alpha - sigma) x - (alpha + sigma) u.
    `steps` times, equally spaced over the schedule's range and moved to integer steps; the last
    step goes to t = 1. Guidance w: v_0 + w (v - v_0), v_0 at the empty prompt; w = 1 calls no v_0.

    Raises:
        ValueError: steps outside 1 to 1000.
    """
    check_order("steps", steps, 1, 1000)
    table = rf_times(pipe)
    ks = nearest_steps(torch.linspace(float(table[-1]), float(table[0]), steps).double(), table)
    times = torch.cat([table[ks], torch.ones(1, dtype=table.dtype)]).tolist()
    shape = (3, SIZE, SIZE)
    noise = torch.randn(len(prompts), *shape, generator=generator)
    empty = embed_prompts(pipe, [""])
    images = []
    for start in range(0, len(prompts), batch):
        text = embed_prompts(pipe, list(prompts[start : start + batch]))
        x = noise[start : start + batch].to(pipe.device)
        abar = pipe.scheduler.alphas_cumprod[ks[0]]
        y = x / float(abar.sqrt() + (1 - abar).sqrt())
        for k, t, after in zip(ks.tolist(), times[:-1], times[1:], strict=True):
            v = rf_velocity(pipe, y, t, k, text)
            if guidance != 1:
                v0 = rf_velocity(pipe, y, t, k, empty.expand(len(y), -1, -1))
                v = v0 + guidance * (v - v0)
            y = y + (after - t) * v
        images.append(((y + 1) / 2).clamp(0, 1).cpu())
    return torch.cat(images) if images else torch.zeros(0, *shape)


def rf_velocity(pipe: Any, y: Tensor, t: float, k: int, text: Tensor) -> Tensor:
    """v(y, t) of the rectified flow from the v-prediction at integer step k, y (n, 3, h, w)."""
    # alpha / (alpha + sigma) = t and alpha^2 + sigma^2 = 1
    total = (t**2 + (1 - t) ** 2) ** -0.5
    u = pipe.unet(total * y, k, encoder_hidden_states=text, return_dict=False)[0]
    return (2 * t - 1) * total**2 * y - total * u
