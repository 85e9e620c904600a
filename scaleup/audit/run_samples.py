"""An audit's samples of a run's folder, with their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scaleup.audit.gather import Gathered
from scaleup.comparison.features import Features
from scaleup.samples.records import read_samples
from scaleup.samples.samples import SampleSet
from scaleup.training.runfolder import check_makers
from theory.audit.data.inputs import audit_data
from theory.audit.estimators.validity import Sampling
from theory.common.checks import unknown
from theory.common.files import read_json

CHUNK = 256


def from_run(folder: Path, features: Features, reward: str | None = None) -> Gathered:
    """Samples of a finished run: those drawn for an audit where there are any, else base and bank
    against tuned.

    reward: a recorded label; the run's own unless given.

    Raises:
        ValueError: no run's folder, or without samples, or with another run's; one of another
            version of Plumbline; a label that was not recorded.
    """
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
    images = [np.concatenate([_images(part).numpy() for part in base]), _images(tuned).numpy()]
    return Gathered(data, source, label, lambda side, rows: list(images[side][list(rows)]))


def _label(reward: str | None, samples: SampleSet, folder: Path) -> str:
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


def _images(samples: SampleSet) -> torch.Tensor:
    if samples.images is None:
        raise ValueError(f"{samples.which} samples were recorded without images")
    return samples.images


def _features(samples: SampleSet, features: Features) -> NDArray[np.float32]:
    parts = [features(part.to(torch.float32) / 255) for part in _images(samples).split(CHUNK)]
    return np.asarray(torch.cat(parts).cpu().numpy())
