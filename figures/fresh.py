"""Whether a figure's files are there and made from what it would be made from now.

The stamp covers the source of theory, figures and the drawing of toys, the packages' versions, the
setting and the trained runs that are shown: where it is the same, so would the files be.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import figures
import theory
import toys
from toys.files import sha256, write_json

ENDINGS = ("png", "pdf", "json")
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "seaborn", "torchdiffeq")


@cache
def _sources() -> str:
    text = "".join(f"{name}={metadata.version(name)};" for name in PACKAGES)
    text += platform.python_version()
    for package in (theory, figures):
        folder = Path(package.__path__[0])
        for file in sorted((*folder.rglob("*.py"), *folder.rglob("*.toml"))):
            text += file.read_text(encoding="utf-8")
    text += (Path(toys.__path__[0]) / "draw.py").read_text(encoding="utf-8")
    return text


def stamp(*parts: str) -> str:
    """The digest of sources, versions and parts."""
    return hashlib.sha256("\0".join((_sources(), *parts)).encode("utf-8")).hexdigest()


def _file(folder: Path, name: str) -> Path:
    return folder / f".{name}.stamp"


def _contents(folder: Path, name: str) -> dict[str, str]:
    files = [folder / f"{name}.{ending}" for ending in ENDINGS]
    return {file.name: sha256(file) for file in files}


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
