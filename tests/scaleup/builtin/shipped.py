"""The built-in model as a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline

from scaleup.builtin import builtin_folder
from scaleup.builtin.model import ABSENT


def load_builtin(folder: Path | None = None) -> Any:
    """The pipeline of a folder that `train_builtin` wrote (None: the shipped one), in float32.

    Raises:
        FileNotFoundError: the folder holds no model_index.json.
    """
    folder = builtin_folder() if folder is None else Path(folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"folder = {str(folder)!r} holds no model_index.json: must be a folder written by "
            "train_builtin"
        )
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, **ABSENT)
    pipe.unet.eval()
    pipe.text_encoder.eval()
    return pipe
