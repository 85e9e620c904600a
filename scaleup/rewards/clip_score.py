"""CLIPScore: how well CLIP thinks that a picture fits its prompt.

    r = 100 cos(f(picture), g(prompt))

with CLIP's projected image and text features (Radford et al. 2021). Hessel et al. (2021), the
metric's paper, clip it at 0 and scale by 2.5, others by 100; it is kept unclipped here, so that a
bad picture still has a gradient. Pictures are prepared as CLIP's own are: the shorter side resized
to the model's (bicubic, antialiased), the middle cut out, the channels normalised; all of it
differentiable, without torchvision. The model comes from a folder; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from scaleup.rewards.contract import Reward, check_images
from theory.common.checks import check_order

# The statistics of CLIP's training pictures, by channel; every CLIP checkpoint has these.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """CLIP from a folder, frozen: projected features of pictures and texts, of length 1.

    Raises:
        ValueError: the folder holds no CLIP model with tokenizer; names it.
    """

    def __init__(self, folder: Path) -> None:
        import transformers  # half a second, only where asked for

        if not (folder / "config.json").is_file():
            raise ValueError(
                "model must be a folder as transformers' CLIPModel.save_pretrained and "
                f"CLIPTokenizer.save_pretrained write it, got {str(folder)!r}, without config.json"
            )
        try:
            loaded: Any = transformers.CLIPModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            self.tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except Exception as error:  # transformers raises many kinds here
            raise ValueError(
                f"model = {str(folder)!r} cannot be loaded as CLIP: {type(error).__name__}: {error}"
            ) from error
        model, found = loaded
        # transformers fills missing weights at random and goes on.
        if missing := sorted(found["missing_keys"]):
            raise ValueError(
                f"model = {str(folder)!r} lacks {len(missing)} weights of CLIP, {missing[0]} first"
            )
        self.model: Any = model.eval().requires_grad_(False)
        self.side = int(model.config.vision_config.image_size)
        self.length = int(model.config.text_config.max_position_embeddings)
        self._texts: dict[str, Tensor] = {}

    def of_images(self, images: Tensor, chunk: int) -> Tensor:
        """Features (n, d) float64, rows of length 1; differentiable; `chunk` pictures at a time."""
        self.model.to(images.device)
        pixels = prepare(images.to(torch.float32), self.side)
        found = [self.model.get_image_features(pixel_values=part) for part in pixels.split(chunk)]
        return normalize(torch.cat([_projected(f) for f in found]).to(torch.float64), dim=1)

    def of_texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Features (n, d) float64, rows of length 1; long texts are cut. Each text is read once,
        and alone: its features do not depend on its neighbours, not in the last bit either."""
        self.model.to(device)
        for text in dict.fromkeys(texts):
            if text not in self._texts:
                words = self.tokenizer(
                    [text], padding="max_length", truncation=True, max_length=self.length,
                    return_tensors="pt",
                )  # fmt: skip
                with torch.no_grad():
                    found = self.model.get_text_features(**words.to(device))
                self._texts[text] = normalize(_projected(found)[0].to(torch.float64), dim=0)
        return torch.stack([self._texts[text].to(device) for text in texts])


def _projected(found: object) -> Tensor:
    """Of transformers 5, an object's pooler_output; of transformers 4, the tensor itself."""
    features = found if isinstance(found, Tensor) else getattr(found, "pooler_output", None)
    assert isinstance(features, Tensor)
    return features


@lru_cache(maxsize=4)
def load_clip(folder: str) -> Clip:
    """The folder's CLIP, loaded once a process.

    Raises:
        ValueError: as `Clip`.
    """
    return Clip(Path(folder))


def prepare(images: Tensor, side: int) -> Tensor:
    """What CLIP's network sees: (n, 3, h, w) in [0, 1] to (n, 3, side, side), normalised."""
    height, width = images.shape[-2:]
    factor = side / min(height, width)
    size = [side if length == min(height, width) else int(length * factor) for length in
            (height, width)]  # fmt: skip
    small = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    middle = small[..., top : top + side, left : left + side]
    mean, std = (images.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return (middle - mean) / std


@dataclass(frozen=True)
class ClipScore(Reward):
    """100 times the cosine between CLIP's features of a picture and of its prompt.

    model: a folder with a CLIPModel and its tokenizer. chunk: pictures that go through the model
    at a time.

    Raises:
        ValueError: chunk out of range; on a call, the folder holds no CLIP model.
    """

    model: str
    chunk: int = 32

    name = "clip_score"
    summary = "100 x cosine of CLIP's features of picture and prompt"
    bounds = (-100.0, 100.0)
    differentiable = True

    def __post_init__(self) -> None:
        check_order("chunk", self.chunk, 1)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        if not len(images):
            return images.new_zeros(0, dtype=torch.float64)
        clip = load_clip(self.model)
        texts = clip.of_texts(prompts, images.device)
        return 100 * (clip.of_images(images, self.chunk) * texts).sum(1)
