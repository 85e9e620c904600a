"""The run folder's samples of the base and the tuned model, as they are produced.

    samples/base/prompts.json               the prompts, by prompt index
    samples/base/rank-00000/manifest.json   world, rewards, shards with their digests
    samples/base/rank-00000/000001.safetensors
    samples/tuned/...                       the same; bank, audit_base, audit_tuned too

Every process writes its own folder: what is added at once is a shard, written first, then the
manifest that lists it, each atomically. So a crash leaves the samples that were listed, and an
unlisted shard that the next writer removes. A sample that is added again replaces the one before; a
shard all of whose samples are replaced is dropped. A sample is known by its index, global: no two
processes share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleup.samples.samples import SampleSet
from theory.common.checks import check_choice, check_order
from theory.common.files import read_json, read_tensors, sha256, write_json, write_tensors

WHICH = ("bank", "base", "tuned", "audit_base", "audit_tuned")
FORMAT = 1
REWARD = "reward/"
# (shape of a sample, None where it is free; dtypes) of a field; rewards and whole numbers: below.
FORMS = {
    "images": ((3, None, None), (torch.uint8,)),
    "x1": ((None,), (torch.float16, torch.bfloat16, torch.float32)),
    "features": ((None,), (torch.float32,)),
}
ADVICE = "delete the folder that holds it, and the samples are drawn again"


class SampleWriter:
    """Writes one process's samples of one model; close it (or use `with`) when all are added.

    folder: the run's. which: "base" or "tuned". prompts: of the whole run. made_by: what tells the
    model apart (its weights' digest, the step): samples that are there of another one are removed,
    so that a run that is trained further does not mix two models.

    Raises:
        ValueError: an argument out of range; the folder holds samples of other prompts or of
            another number of processes.
        OSError: the disk is full, or the folder cannot be written; names the path.
    """

    def __init__(
        self,
        folder: Path,
        which: str,
        prompts: Sequence[str],
        rank: int = 0,
        world: int = 1,
        made_by: str = "",
    ) -> None:
        check_choice("which", which, WHICH)
        check_order("world", world, 1)
        check_order("rank", rank, 0, world - 1)
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be at least one text, in a sequence, got {prompts!r}")
        self.which, self.prompts = which, tuple(prompts)
        self.folder = folder / "samples" / which / f"rank-{rank:05d}"
        self._manifest = self._open(rank, world, made_by)
        # Drafts, and shards that a crash left unlisted.
        names = {entry["file"] for entry in self._manifest["shards"]}
        for path in [*self.folder.glob("*.safetensors"), *self.folder.glob(".*.part")]:
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _open(self, rank: int, world: int, made_by: str) -> dict[str, Any]:
        listed, own = self.folder.parent / "prompts.json", {"prompts": list(self.prompts)}
        if not listed.exists():
            # Every process writes the same bytes, so it does not matter who is last.
            write_json(listed, own)
        elif read_json(listed, ADVICE) != own:
            raise ValueError(
                f"{listed} must hold the same {len(self.prompts)} prompts, and holds others: take "
                "another run folder"
            )
        path = self.folder / "manifest.json"
        if path.exists():
            found = _manifest(path)
            if found["world"] != world:
                raise ValueError(
                    f"{path}: world must be {found['world']}, the number of processes that wrote "
                    f"it, got {world}"
                )
            if found["made_by"] == made_by:
                return found
        fresh = {
            "format": FORMAT,
            "rank": rank,
            "world": world,
            "made_by": made_by,
            "closed": False,
            "shards": [],
        }
        # Before another model's shards go: a crash between leaves unlisted ones only.
        write_json(path, fresh)
        return fresh

    @property
    def written(self) -> Tensor:
        """Indices of the samples on disk, (n,) int64, rising: what a resumed run need not draw."""
        found = {i for entry in self._manifest["shards"] for i in entry["index"]}
        return torch.tensor(sorted(found), dtype=torch.int64)

    def add(
        self,
        index: Tensor,
        seed: Tensor,
        prompt_index: Tensor,
        rewards: Mapping[str, Tensor],
        images: Tensor | None = None,
        x1: Tensor | None = None,
        features: Tensor | None = None,
    ) -> None:
        """Write n samples as one shard; fields as in SampleSet, on any device.

        Raises:
            ValueError: wrong shape, dtype or range; an index twice; other fields than before.
            OSError: the disk is full; nothing half-written, and they may be added again.
        """
        rows = {"index": index, "seed": seed, "prompt_index": prompt_index}
        rows |= {REWARD + label: values for label, values in rewards.items()}
        extra = {"images": images, "x1": x1, "features": features}
        rows |= {name: values for name, values in extra.items() if values is not None}
        # Copies: safetensors refuses fields that share their memory.
        rows = {name: values.detach().to("cpu", copy=True) for name, values in rows.items()}
        self._check(rows)
        added = rows["index"].tolist()
        if not added:
            return
        shards = self._manifest["shards"]
        number = 1 + max((int(entry["file"][:6]) for entry in shards), default=0)
        path = self.folder / f"{number:06d}.safetensors"
        write_tensors(path, rows, {"format": str(FORMAT), "which": self.which})
        replaced = [entry for entry in shards if set(entry["index"]) <= set(added)]
        kept = [entry for entry in shards if entry not in replaced]
        new = {"file": path.name, "sha256": sha256(path), "index": added}
        self._write_manifest(shards=[*kept, new], closed=False)
        for entry in replaced:
            (self.folder / entry["file"]).unlink(missing_ok=True)

    def _check(self, rows: dict[str, Tensor]) -> None:
        n = len(rows["index"])
        for name, values in rows.items():
            number = torch.float64 if name.startswith(REWARD) else torch.int64
            shape, dtypes = FORMS.get(name, ((), (number,)))
            sizes = list(zip(values.shape, (n, *shape), strict=False))
            if len(sizes) <= len(shape) or any(want not in (have, None) for have, want in sizes):
                wanted = ", ".join("*" if size is None else str(size) for size in (n, *shape))
                raise ValueError(f"{name} must have shape ({wanted}), got {tuple(values.shape)}")
            if values.dtype not in dtypes:
                kinds = " or ".join(map(str, dtypes))
                raise ValueError(f"{name} must be {kinds}, got {values.dtype}")
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise ValueError(f"{name} must be finite, got values that are not")
        known, asked = len(self.prompts), rows["prompt_index"]
        if n and not bool(((asked >= 0) & (asked < known)).all()):
            raise ValueError(f"prompt_index must be from 0 to {known - 1}, got {asked.tolist()}")
        if len(set(rows["index"].tolist())) != n:
            raise ValueError(f"index must be every index once, got {rows['index'].tolist()}")
        form = {k: [list(v.shape[1:]), str(v.dtype)] for k, v in rows.items()}
        if self._manifest.setdefault("form", form) != form:
            raise ValueError(
                "samples must have one form (fields, shapes, dtypes), that of those before, "
                f"{self._manifest['form']}, got {form}"
            )

    def close(self) -> None:
        """Say in the manifest that this process is done.

        Raises:
            OSError: the disk is full.
        """
        self._write_manifest(closed=True)

    def _write_manifest(self, **changes: Any) -> None:
        manifest = self._manifest | changes
        write_json(self.folder / "manifest.json", manifest)
        self._manifest = manifest

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # After an error the part is not complete: a resumed run adds the rest.
        if kind is None:
            self.close()


# --- reading


def read_samples(folder: Path, which: str, *, pictures: bool = True) -> SampleSet:
    """All processes' samples of one model, by rising index.

    folder: the run's. pictures: whether images and x_1 are read too.

    Raises:
        ValueError: which is unknown; no samples there; a process's folder, a manifest or a shard
            is missing or damaged (named); two processes wrote the same index; not all processes
            are done.
    """
    check_choice("which", which, WHICH)
    place = folder / "samples" / which
    if not (place / "prompts.json").is_file():
        raise ValueError(
            f"{place} must be of a run's folder, and holds no samples (no prompts.json)"
        )
    prompts = tuple(read_json(place / "prompts.json", ADVICE)["prompts"])
    manifests = _manifests(place)
    if unfinished := [manifest["rank"] for manifest in manifests if not manifest["closed"]]:
        raise ValueError(
            f"{place}: processes {unfinished} have not written all of their samples: resume the run"
        )
    parts: list[dict[str, Tensor]] = []
    owner: dict[int, str] = {}
    for manifest in manifests:
        name = f"rank-{manifest['rank']:05d}"
        shards = [_read_shard(place / name, entry, pictures) for entry in manifest["shards"]]
        if not shards:
            continue
        parts.append(_last_of_each(_joined(shards)))
        for index in parts[-1]["index"].tolist():
            if owner.setdefault(index, name) != name:
                raise ValueError(
                    f"{place}: sample {index} must be there once, got it in {owner[index]} and "
                    f"in {name}"
                )
    if not parts:
        raise ValueError(f"{place}: holds no samples yet")
    if any(set(part) != set(parts[0]) for part in parts):
        raise ValueError(f"{place}: processes must record the same fields, and did not")
    rows = _joined(parts)
    order = rows["index"].argsort()
    rows = {name: values[order] for name, values in rows.items()}
    rewards = {k.removeprefix(REWARD): v for k, v in rows.items() if k.startswith(REWARD)}
    return SampleSet(
        which,
        prompts,
        rows["index"],
        rows["seed"],
        rows["prompt_index"],
        rewards,
        rows.get("images"),
        rows.get("x1"),
        rows.get("features"),
        manifests[0]["made_by"],
    )


def _read_shard(folder: Path, entry: Mapping[str, Any], pictures: bool) -> dict[str, Tensor]:
    path = folder / entry["file"]
    if path.is_file() and sha256(path) != entry["sha256"]:
        raise ValueError(f"{path}: damaged (its digest is not the manifest's); {ADVICE}")
    rows, _ = read_tensors(path, ADVICE)
    return {k: v for k, v in rows.items() if pictures or k not in ("images", "x1")}


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _last_of_each(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows without those whose index comes again later: the later one counts."""
    last = {index: row for row, index in enumerate(rows["index"].tolist())}
    keep = torch.tensor(sorted(last.values()), dtype=torch.int64)
    return {name: values[keep] for name, values in rows.items()}


def made_by(folder: Path, which: str) -> str | None:
    """What drew the samples of one model that are there; None where there are none."""
    place = folder / "samples" / which
    return _manifests(place)[0]["made_by"] if any(place.glob("rank-*/manifest.json")) else None


def _manifest(path: Path) -> dict[str, Any]:
    found = read_json(path, ADVICE)
    known = {"format", "rank", "world", "made_by", "closed", "shards"}
    if not isinstance(found, dict) or known - set(found) or found["format"] != FORMAT:
        raise ValueError(f"{path}: no manifest of format {FORMAT}; {ADVICE}")
    return found


def _manifests(place: Path) -> list[dict[str, Any]]:
    """One a process, by rank; every process's must be there, and say the same world."""
    found = [_manifest(folder / "manifest.json") for folder in sorted(place.glob("rank-*"))]
    worlds = {(manifest["world"], manifest["made_by"]) for manifest in found}
    if len(worlds) != 1:
        raise ValueError(f"{place}: manifests must say one (world, made_by), got {sorted(worlds)}")
    ((world, _),) = worlds
    if missing := sorted(set(range(world)) - {manifest["rank"] for manifest in found}):
        raise ValueError(
            f"{place / f'rank-{missing[0]:05d}'}: missing; {world} processes wrote these samples"
        )
    return found
