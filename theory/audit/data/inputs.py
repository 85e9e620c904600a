"""What an audit is given: rewards, prompts and features of base and tuned samples, as arrays.

Rows are kept sorted by prompt, so that sums over a prompt are sums over a slice. Everything that
would make a verdict out of nothing is refused here, or left to `Doubt` where it is a matter of
how many samples there are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import compress
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
    sides = [
        Side(reward, prompt, own, seed, np.arange(len(reward)))
        for reward, prompt, own, seed in zip(rewards, prompts, features, seeds, strict=True)
    ]
    return _in_common(names, sides, common_prompts)


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
) -> list[NDArray[np.floating[Any]]]:
    _check_both("features", base, tuned)
    if base is None or tuned is None:
        return [np.empty((n, 0)) for n in sizes]
    found: list[NDArray[np.floating[Any]]] = []
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
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(
            f"base and tuned must have as many features, got {found[0].shape[1]} and "
            f"{found[1].shape[1]}"
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


def _in_common(names: tuple[str, ...], sides: Sequence[Side], allowed: bool) -> AuditData:
    """Rows sorted by prompt, those of prompts of one side only left out."""
    there = [np.bincount(side.prompt, minlength=len(names)) > 0 for side in sides]
    both = there[0] & there[1]
    alone = [list(compress(names, mine & ~both)) for mine in there]
    if not both.any():
        raise ValueError(_none_in_common(*alone))
    left_out = (*alone[0], *alone[1])
    if left_out and not allowed:
        parts = [
            f"{len(found)} only in {side} ({some(found)})"
            for side, found in zip(SIDES, alone, strict=True)
            if len(found)
        ]
        raise ValueError(
            "prompts must be the same on both sides, or common_prompts leave these out, got "
            f"{'; '.join(parts)}"
        )
    base, tuned = (side.renumbered(np.where(both, np.cumsum(both) - 1, -1)) for side in sides)
    return AuditData(tuple(compress(names, both)), base, tuned, left_out)


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
