"""Files of runs, whole or not there (`theory.common.files`), and what to do about damaged ones."""

from __future__ import annotations

from functools import partial

from theory.common import files
from theory.common.files import sha256, write_atomically, write_json, write_tensors

ADVICE = "delete its folder, and the run is trained again"

read_json = partial(files.read_json, advice=ADVICE)
read_tensors = partial(files.read_tensors, advice=ADVICE)

__all__ = ["read_json", "read_tensors", "sha256", "write_atomically", "write_json", "write_tensors"]
