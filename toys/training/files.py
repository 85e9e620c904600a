"""Files of runs, whole or not there (`theory.common.files`), and what to do about damaged ones.

write_state, read_state    the state of a training, with its digest and whose it is
keep, kept                 a result under a key that names all that it was made of
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from theory.common import files
from theory.common.files import write_json, write_tensors
from theory.methods.contract.states import digest_of_tensors

ADVICE = "delete its folder, and the run is trained again"

read_json = partial(files.read_json, advice=ADVICE)
read_tensors = partial(files.read_tensors, advice=ADVICE)


def write_state(
    path: Path, step: int, tensors: Mapping[str, Tensor], words: Mapping[str, str]
) -> None:
    """The state after `step` steps, in one file, with its digest."""
    words = {**words, "step": str(step)}
    write_tensors(path, tensors, {**words, "sha256": digest_of_tensors(tensors, _said(words))})


def read_state(
    path: Path, owner: Mapping[str, str], advice: str = ADVICE
) -> tuple[int, dict[str, Tensor], dict[str, str]]:
    """(steps, tensors, words) as `write_state` had them; owner: words that are to be there.

    Raises:
        ValueError: the file is missing, damaged, or of another run; gives the advice.
    """
    tensors, words = files.read_tensors(path, advice)
    try:
        if words.pop("sha256") != digest_of_tensors(tensors, _said(words)):
            raise ValueError("its digest is another")
        if {key: words[key] for key in owner} != owner:
            raise ValueError("it is of other runs")
        return int(words["step"]), tensors, words
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {advice}") from error


def _said(words: Mapping[str, str]) -> str:
    return repr(sorted(words.items()))


def keep(path: Path, key: str, result: Any) -> None:
    """Write a result, plain data, and the key of what it was made of."""
    write_json(path, {"key": key, "result": result})


def kept(path: Path, key: str) -> Any:
    """The result that is there under this key; None where there is another, none, or a damaged one:
    it is made again."""
    try:
        found = read_json(path)
        return found["result"] if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
