"""What a run is, as plain data (`TrainConfig.as_json`): its name, and where two differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from theory.common.identity import digest_of

# What the fields name, as digests of content.
IDENTITY = ("files", "model_files", "code", "plumbline")
DIGESTS = {"model_files": "the model's files have another content",
           "code": "Plumbline's code is another"}  # fmt: skip


def run_digest(content: Mapping[str, Any]) -> str:
    """What names a run of which `TrainConfig.as_json` gave this, on whatever device it trains."""
    return digest_of({k: v for k, v in content.items() if k != "device"})[:10]


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Where one run's content is not another's, in words; the device is no part of it."""
    lines = []
    for key in dict.fromkeys((*expected, *found)):
        ours, theirs = expected.get(key), found.get(key)
        if ours == theirs or key == "device":
            continue
        if key == "files" and isinstance(ours, dict) and isinstance(theirs, dict):
            lines += [f"{name} has another content" for name in dict.fromkeys((*ours, *theirs))
                      if ours.get(name) != theirs.get(name)]  # fmt: skip
        elif key in DIGESTS:
            lines.append(DIGESTS[key])
        else:
            lines.append(f"{key} = {theirs!r}, here {ours!r}")
    return lines
