"""Whether a figure's files are there and made from what it would be made from now.

The stamp covers the figure's module and what it imports, the problems, the packages' versions, the
setting and the trained runs that are shown: where it is the same, so would the files be.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

from theory.common.files import sha256, write_json
from theory.common.identity import ROOT, content_digest, digest_of, plumbline_code

ENDINGS = ("png", "pdf", "json")
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "seaborn", "torchdiffeq")


def stamp(name: str, *parts: str) -> str:
    """The digest of what draws the figure, versions and parts."""
    return digest_of(
        [
            plumbline_code(f"figures.note.{name}"), content_digest(ROOT / "theory" / "problems"),
            {package: metadata.version(package) for package in PACKAGES},
            platform.python_version(), *parts,
        ]
    )  # fmt: skip


def _file(folder: Path, name: str) -> Path:
    return folder / f".{name}.stamp"


def _contents(folder: Path, name: str) -> dict[str, str]:
    return {f"{name}.{ending}": sha256(folder / f"{name}.{ending}") for ending in ENDINGS}


def write_stamp(folder: Path, name: str, made_from: str) -> None:
    """Note what the files in the folder were made from, and what they are."""
    write_json(_file(folder, name), {"from": made_from, **_contents(folder, name)})


def up_to_date(folder: Path, name: str, made_from: str) -> bool:
    """Whether the files are untouched and were made from the same."""
    try:
        found = json.loads(_file(folder, name).read_text(encoding="utf-8"))
        return bool(found == {"from": made_from, **_contents(folder, name)})
    except (OSError, ValueError):
        return False
