"""An audit's samples, and those of two tables with the pictures that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.inputs import audit_data
from theory.audit.data.samples import AuditData
from theory.audit.data.tables import Table
from theory.audit.estimators.validity import Sampling

# What PIL raises for a file that is no picture, or half of one.
UNREADABLE = (OSError, SyntaxError, ValueError, MemoryError)
Picture = NDArray[np.uint8]  # (3, h, w)
# (0 base, 1 tuned; rows) -> pictures
Pictures = Callable[[int, Sequence[int]], list[Picture]]


@dataclass(frozen=True, eq=False)
class Gathered:
    """data; source: where from, in words; reward: its label; pictures of rows, where there are any
    (None: none recorded); sampling: how both sides were sampled, where that is known."""

    data: AuditData
    source: str
    reward: str
    pictures: Pictures | None
    sampling: Sampling | None = None


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


def _pictures(tables: Sequence[Table], side: int, rows: Sequence[int]) -> list[Picture]:
    """From the files that the tables name."""
    folder, images = Path(tables[side].source).parent, tables[side].images or ()
    return [_picture(folder / images[row]) for row in rows]


def _picture(path: Path) -> Picture:
    from PIL import Image

    try:
        with (
            catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            pixels = np.asarray(image.convert("RGB"))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise ValueError(f"image = {str(path)!r} cannot be read: {error}") from error
    return pixels.transpose(2, 0, 1)
