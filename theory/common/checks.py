"""Checks at the public boundary: each error names the argument, what it must be, and its value.

Checks of tensors import torch when they are called: commands check their options without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    Shaped = Tensor | np.ndarray[Any, Any]

WEIGHT_SUM_TOLERANCE = 1e-9
SYMMETRY_TOLERANCE = 1e-10


def tolerance(constant: float, dtype: torch.dtype) -> float:
    """The constant, or 8 units of rounding where the dtype cannot hold it."""
    import torch

    return max(constant, 8 * torch.finfo(dtype).eps)


# --- options


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    options = list(allowed)
    if value not in options:
        raise unknown(name, value, options)


def unknown(name: str, value: object, known: Iterable[str], *more: str) -> ValueError:
    """What to raise for a value that is not known; more: what else it may be."""
    names = list(known)
    *most, last = [*names, *more]
    listed = f"{', '.join(most)} or {last}" if most else last
    one_of = "one of " if len(most) > 1 else ""
    return ValueError(f"{name} must be {one_of}{listed}, got {value!r}{nearest(value, names)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """What to say behind a message about an unknown name: the known ones that it may stand for."""
    near = get_close_matches(str(name), list(known), n=2)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def check_instance(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        names = [kind.__name__ for kind in kinds]
        allowed = " or ".join(f"an {n}" if n[0] in "AEIOU" else f"a {n}" for n in names)
        raise TypeError(f"{name} must be {allowed}, got {value!r}")


def check_text(name: str, value: str) -> None:
    """Text that UTF-8 can hold: JSON may give half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be text that UTF-8 can hold, got {value!r}, whose sign {error.start + 1} "
            "is half of a surrogate pair"
        ) from error


def is_finite_number(value: object) -> bool:
    """Whether value is a real number (no bool) that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float's range
        return False


def check_positive(name: str, value: float) -> None:
    if not (is_finite_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def check_nonnegative(name: str, value: float) -> None:
    if not (is_finite_number(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def check_share(name: str, value: float) -> None:
    """A number from 0 to below 1."""
    if not (is_finite_number(value) and 0 <= value < 1):
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")


def check_finite(name: str, value: float) -> None:
    if not is_finite_number(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_scale(name: str, value: float | Tensor) -> None:
    """A finite number, or a tensor of them."""
    import torch

    if not isinstance(value, torch.Tensor):
        check_finite(name, value)
    elif not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must hold finite numbers, got {value.tolist()}")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_order(name: str, value: int, least: int, most: int | None = None) -> None:
    """A whole number from least to most (None: no upper end)."""
    if not _is_whole(value) or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {allowed}, got {value!r}")


def check_count(name: str, value: int, least: int, most: int) -> None:
    """A whole number from least to what a machine can do; too few is refused as `check_order`
    does without an upper end."""
    check_order(name, value, least)
    check_order(name, value, least, most)


# --- points and times: called hundreds of times a solve, so Python comparisons only


def broadcasts_to(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a tensor of `shape` expands to `target`."""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(have in (1, want) for have, want in pairs)


def check_dim(name: str, dim: int, most: int = 1) -> None:
    """What is known on the line, or (most = 2) in the plane too."""
    if not 1 <= dim <= most:
        raise ValueError(f"{name} must be in d = {'1' if most == 1 else '1 or 2'}, got d = {dim}")


def check_shape(name: str, value: Shaped, *shapes: Sequence[int]) -> None:
    """A tensor or an array of one of these shapes."""
    if tuple(value.shape) not in map(tuple, shapes):
        listed = " or ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"{name} must have shape {listed}, got {tuple(value.shape)}")


def check_dtype(name: str, value: object, dtype: torch.dtype | None, owner: str) -> None:
    """value is a tensor of the owner's dtype (None: of any)."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got a {type(value).__name__}")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(
            f"{name} must have the dtype of {owner}, {dtype}, got {value.dtype} (convert one with "
            ".to(dtype))"
        )


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two tensors of one shape and one dtype."""
    check_dtype(other_name, other, None, "")
    check_dtype(name, value, other.dtype, other_name)
    check_shape(name, value, other.shape)


def check_time(t: Tensor | float, x: Tensor) -> Tensor:
    """t as a tensor of x's dtype and device, 0-dimensional or of x's shape less its last axis."""
    import torch

    # Straight to x's dtype: by way of torch's default, 0.99 would become a float32.
    try:
        time = t if isinstance(t, torch.Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"t must be a number in [0, 1], got {t!r}") from error
    if time.dtype != x.dtype:
        raise TypeError(f"t must have the dtype of x, {x.dtype}, got {time.dtype}")
    if time.ndim and not broadcasts_to(time.shape, x.shape[:-1]):
        raise ValueError(
            f"t must be a scalar or have x's shape less its last axis, {tuple(x.shape[:-1])}, got "
            f"shape {tuple(time.shape)}"
        )
    if time.device.type != "meta" and not bool(((time >= 0) & (time <= 1)).all()):
        low, high = time.min().item(), time.max().item()
        raise ValueError(f"t must lie in [0, 1], got values in [{low:g}, {high:g}]")
    return time


def check_points(
    x: Tensor,
    dim: int,
    dtype: torch.dtype | None,
    batch: Sequence[int] = (),
    owner: str = "the law",
) -> None:
    """x holds points (..., n, dim) in the dtype, and for the batch, of what is evaluated there."""
    import torch

    if isinstance(x, torch.Tensor) and (x.ndim < 2 or x.shape[-1] != dim):
        raise ValueError(f"x must have shape (..., n, {dim}), got {tuple(x.shape)}")
    check_dtype("x", x, dtype, owner)
    if batch:
        check_batch(x, 2, batch, owner)


def check_batch(x: Tensor, inner: int, batch: Sequence[int], owner: str) -> None:
    """x's axes, less its `inner` last, broadcast with the owner's batch."""
    pairs = zip(reversed(x.shape[:-inner]), reversed(batch), strict=False)
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        last = ", ".join(["n", *map(str, x.shape[x.ndim - inner + 1 :])])
        raise ValueError(
            f"x must have shape ({last}) or ({', '.join(map(str, batch))}, {last}), {owner} being "
            f"a batch of {tuple(batch)}, got {tuple(x.shape)}"
        )


# --- parameters


def as_parameter(name: str, value: Any, ndim: int, shape: str) -> Tensor:
    """A float tensor of at least ndim axes (lists become float64), not empty, all finite."""
    import torch

    try:
        if _holds_bool_or_complex(value):
            raise TypeError("booleans and complex numbers are no real numbers")
        given = isinstance(value, torch.Tensor)
        tensor = value if given else torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} must be numbers of shape {shape}, got {value!r}") from error
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    if tensor.ndim < ndim:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if not tensor.numel():
        raise ValueError(
            f"{name} must have shape {shape} without empty axes, got {tuple(tensor.shape)}, "
            f"{tensor.tolist()}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must hold finite numbers, got {tensor.tolist()}")
    return tensor


def _holds_bool_or_complex(value: Any) -> bool:
    """Whether a bool or a complex number hides in a tensor, an array or nested lists."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_bool_or_complex, value))
    kind = str(getattr(value, "dtype", type(value).__name__))
    return "bool" in kind or "complex" in kind


def check_squares(name: str, value: Tensor) -> None:
    """Deviations or widths > 0 whose squares, and their inverses, the dtype can hold."""
    import torch

    info = torch.finfo(value.dtype)
    low, high = math.sqrt(2 * info.tiny), math.sqrt(0.5 / info.tiny)
    if not bool(((value >= low) & (value <= high)).all()):
        raise ValueError(
            f"{name} must hold numbers > 0, from {low:.1e} to {high:.1e} (so that {value.dtype} "
            f"can hold their squares), got {value.tolist()}"
        )


def check_weights(weights: Tensor) -> None:
    if bool((weights < 0).any()):
        raise ValueError(f"weights must be numbers >= 0, got {weights.tolist()}")
    total, allowed = weights.sum(-1), tolerance(WEIGHT_SUM_TOLERANCE, weights.dtype)
    if bool(((total - 1).abs() > allowed).any()):
        raise ValueError(
            f"weights must have a sum of 1 (to {allowed:g}), got {weights.tolist()}, whose sum is "
            f"{total.tolist()}"
        )


def check_symmetric(name: str, matrix: Tensor) -> None:
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} must hold square matrices, got shape {tuple(matrix.shape)}")
    size = matrix.abs().amax(dim=(-1, -2), keepdim=True)
    allowed = tolerance(SYMMETRY_TOLERANCE, matrix.dtype) * size
    if bool(((matrix - matrix.mT).abs() > allowed).any()):
        raise ValueError(f"{name} must hold symmetric matrices, got {matrix.tolist()}")


def check_positive_definite(name: str, matrix: Tensor) -> None:
    import torch

    check_symmetric(name, matrix)
    least = torch.linalg.eigvalsh(matrix)[..., 0]
    if bool((least <= 0).any()):
        raise ValueError(
            f"{name} must hold symmetric positive definite matrices, got smallest eigenvalue "
            f"{least.min().item():g}"
        )
