"""An audit's samples: of a run's folder or of two tables, with the pictures that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaleup.samples.records import read_samples
from scaleup.samples.samples import SampleSet
from theory.audit.data.inputs import audit_data
from theory.audit.data.samples import AuditData
from theory.audit.data.tables import Table
from theory.audit.estimators.validity import Sampling
from theory.common.checks import unknown

if TYPE_CHECKING:  # features bring CLIP's library along, which files do without
    from scaleup.comparison.features import Features

CHUNK = 256
# What PIL raises for a file that is no picture, or half of one.
UNREADABLE = (OSError, SyntaxError, ValueError, MemoryError)
# (0 base, 1 tuned; rows) -> pictures (3, h, w) uint8
Pictures = Callable[[int, Sequence[int]], list[Tensor]]


@dataclass(frozen=True, eq=False)
class Gathered:
    """data; source: where from, in words; reward: its label; pictures of rows, where there are any
    (None: none recorded); sampling: how both sides were sampled, where that is known."""

    data: AuditData
    source: str
    reward: str
    pictures: Pictures | None
    sampling: Sampling | None = None


# --- a run's folder


def from_run(folder: Path, features: Features, reward: str | None = None) -> Gathered:
    """Samples of a finished run: those drawn for an audit where there are any, else base and bank
    against tuned.

    reward: a recorded label; the run's own unless given.

    Raises:
        ValueError: no run's folder, or without samples, or with another run's; one of another
            version of Plumbline; a label that was not recorded.
    """
    from scaleup.training.runfolder import (
        check_makers,  # it brings diffusers along, which files do without
    )

    if not (folder / "samples").is_dir():
        raise ValueError(
            "run must be the folder of a finished run of `python -m scaleup train`, got "
            f"{str(folder)!r}, which holds no samples"
        )
    drawn = [
        (folder / "samples" / name / "prompts.json").is_file()
        for name in ("audit_base", "audit_tuned")
    ]
    if all(drawn):
        try:
            base, tuned = [read_samples(folder, "audit_base")], read_samples(folder, "audit_tuned")
        except ValueError as error:
            raise ValueError(f"{error} (or draw the rest of an audit's with --draw N)") from error
    else:
        base, tuned = [read_samples(folder, "base")], read_samples(folder, "tuned")
    check_makers(folder, [*base, tuned])
    label = _label(reward, tuned, folder)
    if not all(drawn) and (folder / "samples" / "bank" / "prompts.json").is_file():
        bank = read_samples(folder, "bank")
        check_makers(folder, [bank])
        if label in bank.rewards:
            base.append(bank)
    found = from_samples(base, tuned, label, features, str(folder))
    return replace(found, sampling=_settings(folder))


def _settings(folder: Path) -> Sampling | None:
    """Of a run: all of its samples are drawn alike."""
    from theory.common.files import read_json

    names = {"scheduler": "solver", "steps": "sampling_steps", "guidance": "guidance"}
    content = read_json(folder / "config.json")
    found = {k: [str(content[name])] for k, name in names.items() if name in content}
    return {name: (values, values) for name, values in found.items()} or None


def from_samples(
    base: Sequence[SampleSet], tuned: SampleSet, label: str, features: Features, source: str
) -> Gathered:
    """Recorded samples, several sets of the base's.

    Raises:
        ValueError: they were recorded with other prompts, or without images.
    """
    names = tuned.prompts
    for part in base:
        if part.prompts != names:
            raise ValueError(f"{source}: {part.which} and tuned samples must have the same prompts")
    data = audit_data(
        np.concatenate([part.rewards[label].numpy() for part in base]),
        tuned.rewards[label].numpy(),
        np.concatenate([part.prompt_index.numpy() for part in base]),
        tuned.prompt_index.numpy(),
        base_features=np.concatenate([_features(part, features) for part in base]),
        tuned_features=_features(tuned, features),
        base_seed=np.concatenate([part.seed.numpy() for part in base]),
        tuned_seed=tuned.seed.numpy(),
        prompt_names=names,
        common_prompts=True,  # a run's prompts are its own; few samples may miss some
    )
    images = [torch.cat([_images(part) for part in base]), _images(tuned)]
    return Gathered(data, source, label, lambda side, rows: list(images[side][list(rows)]))


def _label(reward: str | None, samples: SampleSet, folder: Path) -> str:
    from theory.common.files import read_json

    known, own = list(samples.rewards), None
    if reward is None:
        own = read_json(folder / "config.json").get("reward")
        found = [label for label in known if label == own]
        # A reward's label is as it was asked for, or its own canonical form.
        reward = found[0] if found else _canonical(own, known)
    if reward not in known:
        if not reward:
            raise ValueError(
                f"the run's own reward, {own!r}, is none of those recorded in {folder}: name one "
                f"with --reward, {', '.join(map(repr, known))}"
            )
        raise unknown(f"reward recorded in {folder}", reward, known)
    return reward


def _canonical(text: str, known: Sequence[str]) -> str:
    from scaleup.rewards.contract import parse_reward

    with suppress(ValueError, OSError):  # a file of the user's that has moved
        label = parse_reward(str(text)).label
        if label in known:
            return label
    return known[0] if len(known) == 1 else ""


def _images(samples: SampleSet) -> Tensor:
    if samples.images is None:
        raise ValueError(f"{samples.which} samples were recorded without images")
    return samples.images


def _features(samples: SampleSet, features: Features) -> NDArray[np.float32]:
    parts = [features(part.to(torch.float32) / 255) for part in _images(samples).split(CHUNK)]
    return np.asarray(torch.cat(parts).cpu().numpy())


# --- tables


def from_tables(base: Table, tuned: Table, common_prompts: bool = False) -> Gathered:
    """Samples of two files.

    Raises:
        ValueError: as `audit_data`; the sides do not fit.
    """
    names = dict.fromkeys((*base.prompts, *tuned.prompts))
    place = {name: i for i, name in enumerate(names)}
    codes = [
        np.array([place[name] for name in table.prompts], dtype=np.int64)[table.prompt]
        for table in (base, tuned)
    ]
    if (base.prompts == ("",)) != (tuned.prompts == ("",)):
        lacks, other = (base, tuned) if base.prompts == ("",) else (tuned, base)
        raise ValueError(
            f"both files must have prompts, or neither: {lacks.source} has none, {other.source} "
            "has (--prompt-column names their column)"
        )
    data = audit_data(
        base.reward,
        tuned.reward,
        codes[0],
        codes[1],
        base_features=base.features,
        tuned_features=tuned.features,
        base_seed=None if tuned.seed is None else base.seed,
        tuned_seed=None if base.seed is None else tuned.seed,
        prompt_names=list(names),
        common_prompts=common_prompts,
    )
    both = base.images is not None and tuned.images is not None
    pictures = partial(_pictures, (base, tuned)) if both else None
    sampling = {
        name: (values, tuned.settings[name])
        for name, values in base.settings.items()
        if name in tuned.settings
    }
    source = f"{tuned.source} against {base.source}"
    return Gathered(data, source, "reward", pictures, sampling or None)


def _pictures(tables: Sequence[Table], side: int, rows: Sequence[int]) -> list[Tensor]:
    """From the files that the tables name."""
    folder, images = Path(tables[side].source).parent, tables[side].images or ()
    return [_picture(folder / images[row]) for row in rows]


def _picture(path: Path) -> Tensor:
    from PIL import Image

    try:
        with (
            catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            pixels = np.asarray(image.convert("RGB"))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise ValueError(f"image = {str(path)!r} cannot be read: {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
