"""Open a pipeline: a folder in diffusers' layout, or a name on the hub where one can be reached.

Only configurations, vocabularies and safetensors are read: nothing is unpickled, and no code of the
model's author is run. Every part is loaded by itself, so that a message can name its folder and
file, and so that weights which do not fit the configuration are refused (the libraries would fill
what is missing with random numbers and warn).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError, safe_open

from scaleup.adapter.model import PIPELINES, ImageModel
from theory.common.checks import unknown

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Parts that Plumbline never runs: they are not loaded.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
# What a part must be, by its name without a number: (library, class or base class).
KINDS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "scheduler": ("diffusers", "SchedulerMixin"),
    "text_encoder": ("transformers", "PreTrainedModel"),
    "tokenizer": ("transformers", "PreTrainedTokenizerBase"),
}
# The stem of a network's weight files, by library.
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
# Keys that old checkpoints hold and today's classes compute.
HARMLESS = ("position_ids",)
KEYS_SHOWN, SHOWN = 4, 110
ALLOWED = (
    "a folder in diffusers' layout (with a model_index.json), or owner/name of a pipeline on a hub "
    "that can be reached"
)


def open_model(
    model: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ImageModel:
    """The pipeline in the folder `model`, or of that name on the hub, as an ImageModel.

    dtype: of weights and network inputs.

    Raises:
        ValueError: no such folder and no such pipeline on a hub that can be reached; a folder that
            is no pipeline; an unknown class of pipeline or part, an unknown scheduler or
            prediction type; weights that are missing, truncated or of another shape. Folder and
            file are named.
    """
    folder = model_folder(model)
    with quiet():
        pipe = _assembled(folder, dtype)
    return ImageModel(pipe, device=device, dtype=dtype, source=f"model = {str(folder)!r}")


def model_folder(model: str) -> Path:
    """The folder `model`, or the local one of the pipeline of that name on the hub.

    Raises:
        ValueError: no such folder and no such pipeline on a hub that can be reached.
    """
    if not model:  # the empty path is the working directory
        raise ValueError(f"model must be {ALLOWED}, got {model!r}")
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else _fetch(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars and warnings (of a picture processor that is never used,
    of weights that are checked here, of a pipeline without a VAE); errors are raised as ever."""
    logs = transformers.utils.logging, diffusers.utils.logging
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bar) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def _assembled(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline in the folder, part by part."""
    name, kinds = _read_index(folder)
    parts = {part: kind and _load(folder / part, kind, dtype) for part, kind in kinds.items()}
    if "safety_checker" in parts:
        parts["requires_safety_checker"] = False
    try:
        return getattr(diffusers, name)(**parts)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"model = {str(folder)!r}: its parts make no {name}: {_brief(error)}"
        ) from error


def _fetch(model: str) -> Path:
    """The local folder of a pipeline of the hub, downloaded where it is not there yet."""
    if not HUB_NAME.fullmatch(model) or Path(model).exists():
        raise ValueError(f"model must be {ALLOWED}, got {model!r}, which is no folder")
    try:
        return Path(diffusers.DiffusionPipeline.download(model, use_safetensors=True))
    except Exception as error:  # the hub's client fails in many ways; all mean: not to be had
        raise ValueError(
            f"model must be {ALLOWED}, got {model!r}, which is no folder, and the hub gave none "
            f"({shorten(_brief(error), SHOWN)})"
        ) from error


def _read_index(folder: Path) -> tuple[str, dict[str, type | None]]:
    """(pipeline class's name, {part: class, or None where it is null or never used})."""
    file = folder / "model_index.json"
    index = _read_json(file, f"model = {str(folder)!r} is no pipeline")
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise unknown(f"{file}: _class_name", name, PIPELINES)
    wanted = inspect.signature(getattr(diffusers, name).__init__).parameters
    parts = [part for part in wanted if part not in ("self", "requires_safety_checker")]
    return name, {p: None if p in UNUSED else _class(file, p, index.get(p)) for p in parts}


def _class(file: Path, part: str, entry: Any) -> type | None:
    """The class that model_index.json names for a part; None for a part that is null."""
    if entry is None or entry == [None, None]:
        return None
    library, base = KINDS[part.rstrip("_0123456789")]
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == library:
        modules = {"diffusers": diffusers, "transformers": transformers}
        found = getattr(modules[library], str(entry[1]), None)
        if isinstance(found, type) and issubclass(found, getattr(modules[library], base)):
            return found
    raise ValueError(
        f"{file}: {part} must be null or a {base} of {library}, as [library, class], got {entry!r}"
    )


def _load(folder: Path, kind: type, dtype: torch.dtype) -> Any:
    """One part from its folder.

    Raises:
        ValueError: it cannot be read, or its weights do not fit its configuration.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder, and model_index.json names one")
    options: dict[str, Any] = {"local_files_only": True}
    network = issubclass(kind, torch.nn.Module)
    if network:
        library = kind.__module__.split(".")[0]
        _read_json(folder / "config.json", str(folder))
        _check_files(folder, STEMS[library])
        options |= {"use_safetensors": True, "output_loading_info": True}
        options["torch_dtype" if library == "diffusers" else "dtype"] = dtype
    try:
        loaded = kind.from_pretrained(str(folder), **options)  # type: ignore[attr-defined]
    except Exception as error:  # two libraries, each with errors of its own for bad files
        raise ValueError(f"{folder} holds no {kind.__name__}: {_brief(error)}") from error
    if not network:
        return loaded
    module, info = loaded
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = [k for k in map(str, info[what]) if not k.endswith(HARMLESS)]
        if keys:
            raise ValueError(
                f"{folder}: its weights must be those of config.json's network, got "
                f"{what.replace('_', ' ')} {', '.join(sorted(keys)[:KEYS_SHOWN])} ({len(keys)} in "
                "all)"
            )
    _check_finite(folder, module)
    return module


def _check_finite(folder: Path, module: torch.nn.Module) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{folder}: its weight {name} must be finite, got "
                f"{int((~torch.isfinite(value)).sum())} values that are not (of {value.numel()}, "
                f"as {value.dtype})"
            )


def _check_files(folder: Path, stem: str) -> None:
    """Every weight file can be opened: whole, and safetensors."""
    files = sorted(
        [*folder.glob(f"{stem}.safetensors"), *folder.glob(f"{stem}-*-of-*.safetensors")]
    )
    if not files:
        raise ValueError(
            f"{folder} must hold {stem}.safetensors, whole or in numbered shards (pickled .bin "
            "files are never read)"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} must be a safetensors file as it was saved, whole ({_brief(error)})"
            ) from error


def _read_json(file: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{what}: {file} cannot be read ({_brief(error)})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{what}: {file} must hold a table, got a {type(found).__name__}")
    return found


def _brief(error: Exception) -> str:
    """The kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
