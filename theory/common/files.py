"""Files that are there whole or not at all: JSON, and tensors as safetensors; never pickle."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    from torch import Tensor


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a draft beside the file, then put it in place; a crash leaves the old file.

    Raises:
        OSError: the disk is full, or the folder cannot be written; names the path.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):  # the folder may be none
            draft.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write {path}: {os.strerror(error.errno or 0)}; what was there "
            "before is untouched"
        ) from error  # fmt: skip


def check_folder(name: str, folder: Path) -> None:
    """Whether files can be written there, known before the work is done; leaves nothing behind.

    Raises:
        ValueError: `folder` is a file or below one, or cannot be made or written; names `name`.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        taken = folder.exists() and not folder.is_dir()
        reason = "a file" if taken else os.strerror(error.errno or 0)
        raise ValueError(
            f"{name} must be a folder that can be written, new or not, got {str(folder)!r} "
            f"({reason})"
        ) from error
    finally:
        for part in made:
            with suppress(OSError):
                part.rmdir()


@contextmanager
def locked(folder: Path, what: str, name: str = ".lock") -> Iterator[None]:
    """Hold a folder, which is made; the lock goes with the process.

    what: the holder does here, for who comes second.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another process {what}: wait for it, or choose another --out"
            ) from error
        file.write(str(os.getpid()))
        yield


def read_toml(path: Path) -> dict[str, Any]:
    """A table; UTF-8, with a byte order mark or without.

    Raises:
        ValueError: no TOML, or no UTF-8.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} must be TOML, got {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be TOML, which is UTF-8, got {error}") from error


def write_json(path: Path, data: Any) -> None:
    """Plain data, indented."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_json(path: Path, advice: str = "") -> Any:
    """Plain data.

    Raises:
        ValueError: the file is missing or no JSON; names it, and gives the advice.
    """
    return _readable(path, lambda data: json.loads(data.decode("utf-8-sig")), advice)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Named tensors as safetensors, with text metadata; the same content gives the same bytes."""
    from safetensors.torch import save

    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(path, _with_metadata(save(flat), dict(metadata or {})))


def _with_metadata(data: bytes, metadata: dict[str, str]) -> bytes:
    """safetensors with metadata by rising key: the library writes them in an order that changes
    from process to process."""
    if not metadata:
        return data
    size = int.from_bytes(data[:8], "little")
    words = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    header = json.dumps(words, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def read_tensors(path: Path, advice: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata).

    Raises:
        ValueError: the file is missing or damaged; names it, and gives the advice.
    """
    from safetensors.torch import load

    return _readable(path, lambda data: (load(data), _metadata(data)), advice)


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size]).get("__metadata__", {}))


def _readable(path: Path, parse: Callable[[bytes], Any], advice: str) -> Any:
    after = f"; {advice}" if advice else ""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing{after}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}){after}") from error


def sha256(path: Path) -> str:
    """The file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
