"""Comparing a run's numbers with the committed reference, number by number.

Every number must agree to the `quadrature` tier of its own size or of 1, whichever is larger (the
fields' and laws' natural scale); fitted slopes and what is counted, exactly as good. Trained
networks are no references: their learning errors are held to the `trained` tier.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from matplotlib import image

from figures.shared.fresh import ENDINGS
from theory.common.tolerances import QUADRATURE, TRAINED_SHARE

# Share of coloured pixels below which a picture is blank: axes and text alone are grey.
LEAST_COLOUR = 0.002

Leaf = tuple[str, Any]


def reference_text(setting: str, name: str) -> str | None:
    """The committed JSON of a figure, or None where there is none."""
    file = resources.files("figures.shared").joinpath(f"reference/{setting}/{name}.json")
    return file.read_text(encoding="utf-8") if file.is_file() else None


def leaves(data: Any, where: str = "") -> list[Leaf]:
    """(path, value) of every number and string in nested data."""
    if isinstance(data, dict):
        return [leaf for k, v in data.items() for leaf in leaves(v, f"{where}.{k}" if where else k)]
    if isinstance(data, list):
        return [leaf for i, v in enumerate(data) for leaf in leaves(v, f"{where}[{i}]")]
    return [(where, data)]


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs, one line each; empty where everything agrees."""
    ours, theirs = dict(leaves(found)), dict(leaves(expected))
    lines = [f"{key}: missing" for key in theirs.keys() - ours.keys()]
    lines += [f"{key}: not in the reference" for key in ours.keys() - theirs.keys()]
    for key in ours.keys() & theirs.keys():
        a, b = ours[key], theirs[key]
        if isinstance(a, float) and isinstance(b, (int, float)):
            if not (math.isfinite(a) and QUADRATURE.holds(a, float(b), 1.0)):
                lines.append(f"{key}: {a!r}, reference {b!r} (tier {QUADRATURE.name})")
        elif a != b:
            lines.append(f"{key}: {a!r}, reference {b!r}")
    return sorted(lines)


def check(setting: str, name: str, data: dict[str, Any]) -> list[str]:
    """Differences to the committed reference, or the line that says it is missing; and trained
    networks whose learning error is over the `trained` tier."""
    text = reference_text(setting, name)
    if text is None:
        return [f"no reference figures/reference/{setting}/{name}.json; make it with --update"]
    numbers = json.loads(json.dumps(data))
    trained = numbers.pop("trained", {})
    return differences(numbers, json.loads(text)) + [
        f"trained.{label}: learning error {row['learning_share']:.4f} of the way, allowed "
        f"{TRAINED_SHARE:g} (tier trained)"
        for label, row in trained.items()
        if not row["learning_share"] <= TRAINED_SHARE
    ]


def check_files(folder: Path, setting: str, name: str) -> list[str]:
    """Faults of a figure's files in `folder`: missing, blank, or unlike the reference."""
    png, pdf, data = (folder / f"{name}.{ending}" for ending in ENDINGS)
    empty = [path for path in (png, pdf, data) if not path.is_file() or path.stat().st_size == 0]
    if empty:
        return [f"{path}: missing or empty" for path in empty]
    blank = [f"{png}: blank"] if is_blank(png) else []
    numbers = json.loads(data.read_text(encoding="utf-8"))
    return blank + [f"{name}: {line}" for line in check(setting, name, numbers)]


def is_blank(picture: Path) -> bool:
    """Whether a PNG shows nothing but axes and text."""
    pixels = image.imread(picture)[..., :3]
    return bool((pixels.max(-1) - pixels.min(-1) > 0.2).mean() < LEAST_COLOUR)
