"""What an audit is given: rewards, prompts and features of base and tuned samples, as arrays.

Rows are kept sorted by prompt, so that sums over a prompt are sums over a slice. Everything that
would make a verdict out of nothing is refused here, or left to `Doubt` where it is a matter of
how many samples there are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.audit.data.samples import SIDES, Array, AuditData, Side, Whole

SHOWN = 3  # names in an error message


def audit_data(
    base_reward: ArrayLike,
    tuned_reward: ArrayLike,
    base_prompt: Sequence[Any] | NDArray[Any] | None = None,
    tuned_prompt: Sequence[Any] | NDArray[Any] | None = None,
    *,
    base_features: ArrayLike | None = None,
    tuned_features: ArrayLike | None = None,
    base_seed: ArrayLike | None = None,
    tuned_seed: ArrayLike | None = None,
    prompt_names: Sequence[str] | None = None,
    common_prompts: bool = False,
) -> AuditData:
    """The samples of an audit, checked.

    rewards: (n,) and (m,). prompts: a value a row, texts or numbers; none at all: one prompt.
    prompt_names: what prompts are indices into, if they are. features: (n, d) and (m, d). seeds:
    whole numbers; samples of one seed and prompt on both sides are known to be dependent.
    common_prompts: leave out prompts that one side alone has.

    Raises:
        ValueError: rewards or features that are no finite numbers; shapes that do not fit; prompts
            or features of one side only; features of different width; prompts that one side alone
            has (unless common_prompts), or none in common.
    """
    rewards = [
        _rewards(f"{side} rewards", values)
        for side, values in zip(SIDES, (base_reward, tuned_reward), strict=True)
    ]
    sizes = [len(r) for r in rewards]
    names, prompts = _prompts(base_prompt, tuned_prompt, sizes, prompt_names)
    features = _features(base_features, tuned_features, sizes)
    seeds = [
        _seeds(f"{side} seeds", values, len(r))
        for side, values, r in zip(SIDES, (base_seed, tuned_seed), rewards, strict=True)
    ]
    names, prompts, kept, left_out = _in_common(names, prompts, common_prompts)
    sides = []
    for i in range(2):
        row = np.flatnonzero(kept[i])
        order = np.argsort(prompts[i], kind="stable")
        row, prompt = row[order], prompts[i][order]
        own, seed = features[i], seeds[i]
        sides.append(
            Side(
                rewards[i][row],
                prompt,
                None if own is None else own[row],
                None if seed is None else seed[row],
                row,
            )
        )
    return AuditData(names, sides[0], sides[1], left_out)


def _rewards(name: str, values: ArrayLike) -> Array:
    found = np.asarray(values)
    if found.dtype.kind not in "fiu" or found.ndim != 1:
        raise ValueError(
            f"{name} must be real numbers of shape (n,), got {found.dtype} of shape {found.shape}"
        )
    found = found.astype(np.float64)
    _check_finite(name, found)
    return found


def _check_finite(name: str, values: NDArray[Any]) -> None:
    bad = ~(np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(1))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{name} must be finite numbers, got {int(bad.sum())} rows with others, the first is "
            f"row {row} ({np.array2string(np.atleast_1d(values[row]), threshold=4)})"
        )


def _check_both(what: str, base: Any, tuned: Any) -> None:
    if (base is None) != (tuned is None):
        lacks = SIDES[0] if base is None else SIDES[1]
        raise ValueError(f"{what} must be given for both sides or neither, {lacks} has no {what}")


def _prompts(
    base: Any, tuned: Any, sizes: Sequence[int], known: Sequence[str] | None
) -> tuple[tuple[str, ...], list[Whole]]:
    """Names, and an index a row for each side."""
    _check_both("prompts", base, tuned)
    if base is None:
        return ("",), [np.zeros(n, dtype=np.int64) for n in sizes]
    sides = [np.asarray(values) for values in (base, tuned)]
    for side, found, n in zip(SIDES, sides, sizes, strict=True):
        if found.shape != (n,):
            raise ValueError(f"{side} prompts must have shape ({n},), got {found.shape}")
    if known is not None:
        return tuple(known), [
            _indices(side, found, len(known)) for side, found in zip(SIDES, sides, strict=True)
        ]
    texts = [found.astype(str) if found.dtype.kind != "U" else found for found in sides]
    names, numbers = np.unique(np.concatenate(texts), return_inverse=True)
    numbers = numbers.astype(np.int64)
    return tuple(str(n) for n in names), [numbers[: sizes[0]], numbers[sizes[0] :]]


def _indices(side: str, values: NDArray[Any], count: int) -> Whole:
    whole = values.dtype.kind in "iu"
    if not whole or (len(values) and not 0 <= values.min() <= values.max() < count):
        raise ValueError(
            f"{side} prompts must be indices into {count} names, from 0 to {count - 1}, got "
            f"{values.dtype}" + (f" from {values.min()} to {values.max()}" if whole else "")
        )
    return values.astype(np.int64)


def _features(
    base: ArrayLike | None, tuned: ArrayLike | None, sizes: Sequence[int]
) -> list[NDArray[np.floating[Any]] | None]:
    _check_both("features", base, tuned)
    if base is None or tuned is None:
        return [None, None]
    found: list[NDArray[np.floating[Any]] | None] = []
    widths = []
    for side, values, n in zip(SIDES, (base, tuned), sizes, strict=True):
        rows = np.asarray(values)
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or len(rows) != n or not rows.shape[1]:
            raise ValueError(
                f"{side} features must be real numbers of shape ({n}, d), got {rows.dtype} of "
                f"shape {rows.shape}"
            )
        rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
        _check_finite(f"{side} features", rows)
        found.append(rows)
        widths.append(rows.shape[1])
    if widths[0] != widths[1]:
        raise ValueError(
            f"base and tuned must have as many features, got {widths[0]} and {widths[1]}"
        )
    return found


def _seeds(name: str, values: ArrayLike | None, n: int) -> Whole | None:
    if values is None:
        return None
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.shape != (n,):
        raise ValueError(
            f"{name} must be whole numbers of shape ({n},), got {found.dtype} of shape "
            f"{found.shape}"
        )
    return found.astype(np.int64)


def _in_common(
    names: tuple[str, ...], prompts: list[Whole], allowed: bool
) -> tuple[tuple[str, ...], list[Whole], list[NDArray[np.bool_]], tuple[str, ...]]:
    """Names, indices and masks of rows once prompts of one side only are left out."""
    there = [np.bincount(p, minlength=len(names)) > 0 for p in prompts]
    both = there[0] & there[1]
    alone = [np.flatnonzero(mine & ~both) for mine in there]
    left_out = tuple(names[i] for side in alone for i in side)
    if not both.any():
        raise ValueError(_none_in_common(*([names[i] for i in side] for side in alone)))
    if left_out and not allowed:
        parts = [
            f"{len(found)} only in {side} ({some([names[i] for i in found])})"
            for side, found in zip(SIDES, alone, strict=True)
            if len(found)
        ]
        raise ValueError(
            "prompts must be the same on both sides, or common_prompts leave these out, got "
            f"{'; '.join(parts)}"
        )
    new = np.cumsum(both) - 1
    kept = [both[p] for p in prompts]
    return (
        tuple(n for n, good in zip(names, both, strict=True) if good),
        [new[p[k]].astype(np.int64) for p, k in zip(prompts, kept, strict=True)],
        kept,
        left_out,
    )


def _none_in_common(base: Sequence[str], tuned: Sequence[str]) -> str:
    text = f"base and tuned must have a prompt in common, got {some(base)} and {some(tuned)}"
    known = {spelling(name) for name in base}
    alike = sum(spelling(name) in known for name in tuned)
    if alike:
        text += f" ({alike} are alike but for white space, case or Unicode form)"
    return text


def spelling(prompt: str) -> str:
    """A prompt without what its spelling adds: Unicode form, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def some(names: Sequence[str]) -> str:
    """The first names, cut where they are long."""
    shown = ", ".join(repr(n if len(n) <= 40 else n[:39] + "…") for n in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
