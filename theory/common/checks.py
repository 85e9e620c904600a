"""Checks at the public boundary: each error names the argument, its value and what is allowed.

Checks of tensors import torch when they are called: commands check their options without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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
        allowed = ", ".join(map(repr, options))
        raise ValueError(f"{name} = {value!r}: allowed are {allowed}{nearest(value, options)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """What to say behind a message about an unknown name: the known ones that it may stand for."""
    near = get_close_matches(str(name), list(known), n=2)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_instance(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} = {value!r}: allowed is a {kind.__name__}")


def check_text(name: str, value: str) -> None:
    """Text that UTF-8 can hold: JSON may give half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} = {value!r}: sign {error.start + 1} is half of a surrogate pair: allowed is "
            "text that UTF-8 can hold"
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
        raise ValueError(f"{name} = {value!r}: allowed are finite numbers > 0")


def check_nonnegative(name: str, value: float) -> None:
    if not (is_finite_number(value) and value >= 0):
        raise ValueError(f"{name} = {value!r}: allowed are finite numbers >= 0")


def check_finite(name: str, value: float) -> None:
    if not is_finite_number(value):
        raise ValueError(f"{name} = {value!r}: allowed are finite numbers")


def check_scale(name: str, value: float | Tensor) -> None:
    """A finite number, or a tensor of them."""
    import torch

    if not isinstance(value, torch.Tensor):
        check_finite(name, value)
    elif not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} = {value.tolist()}: allowed are finite numbers")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_order(name: str, value: int, least: int, most: int | None = None) -> None:
    """A whole number from least to most (None: no upper end)."""
    if not _is_whole(value) or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} = {value!r}: allowed are whole numbers {allowed}")


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


def check_dtype(name: str, value: object, dtype: torch.dtype | None, owner: str) -> None:
    """value is a tensor of the owner's dtype (None: of any)."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}: allowed is a torch.Tensor")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(
            f"{name} has dtype {value.dtype}, {owner} has {dtype}: allowed is one dtype for both "
            "(convert one with .to(dtype))"
        )


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two tensors of one shape and one dtype."""
    check_dtype(other_name, other, None, "")
    check_dtype(name, value, other.dtype, other_name)
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, {other_name} has {tuple(other.shape)}: "
            "allowed is one shape for both"
        )


def check_time(t: Tensor | float, x: Tensor) -> Tensor:
    """t as a tensor of x's dtype and device, 0-dimensional or of x's shape less its last axis."""
    import torch

    # Straight to x's dtype: by way of torch's default, 0.99 would become a float32.
    try:
        time = t if isinstance(t, torch.Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"t = {t!r}: allowed are numbers in [0, 1]") from error
    if time.dtype != x.dtype:
        raise TypeError(f"t has dtype {time.dtype}, x has {x.dtype}: allowed is one dtype for both")
    if time.ndim and not broadcasts_to(time.shape, x.shape[:-1]):
        raise ValueError(
            f"t has shape {tuple(time.shape)}: allowed are a scalar or x's shape less its last "
            f"axis, {tuple(x.shape[:-1])}"
        )
    if time.device.type != "meta" and not bool(((time >= 0) & (time <= 1)).all()):
        low, high = time.min().item(), time.max().item()
        raise ValueError(f"t lies in [{low:g}, {high:g}]: allowed is [0, 1]")
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
        raise ValueError(f"x has shape {tuple(x.shape)}: allowed is (..., n, {dim})")
    check_dtype("x", x, dtype, owner)
    if batch:
        check_batch(x, 2, batch, owner)


def check_batch(x: Tensor, inner: int, batch: Sequence[int], owner: str) -> None:
    """x's axes, less its `inner` last, broadcast with the owner's batch."""
    pairs = zip(reversed(x.shape[:-inner]), reversed(batch), strict=False)
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        last = ", ".join(["n", *map(str, x.shape[x.ndim - inner + 1 :])])
        raise ValueError(
            f"x has shape {tuple(x.shape)}: allowed are ({last}) and "
            f"({', '.join(map(str, batch))}, {last}), {owner} being a batch of {tuple(batch)}"
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
        raise ValueError(f"{name} = {value!r}: allowed are numbers of shape {shape}") from error
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    if tensor.ndim < ndim:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: allowed is {shape}")
    if not tensor.numel():
        raise ValueError(
            f"{name} = {tensor.tolist()} has shape {tuple(tensor.shape)}: allowed is {shape} "
            "without empty axes"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} = {tensor.tolist()}: allowed are finite numbers")
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
            f"{name} = {value.tolist()}: allowed are numbers > 0, from {low:.1e} to {high:.1e} "
            f"(their squares must lie in {value.dtype})"
        )


def check_weights(weights: Tensor) -> None:
    if bool((weights < 0).any()):
        raise ValueError(f"weights = {weights.tolist()}: allowed are numbers >= 0")
    total, allowed = weights.sum(-1), tolerance(WEIGHT_SUM_TOLERANCE, weights.dtype)
    if bool(((total - 1).abs() > allowed).any()):
        raise ValueError(
            f"weights = {weights.tolist()} sum to {total.tolist()}: allowed is a sum of 1 "
            f"(to {allowed:g})"
        )


def check_symmetric(name: str, matrix: Tensor) -> None:
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: allowed are square matrices")
    size = matrix.abs().amax(dim=(-1, -2), keepdim=True)
    allowed = tolerance(SYMMETRY_TOLERANCE, matrix.dtype) * size
    if bool(((matrix - matrix.mT).abs() > allowed).any()):
        raise ValueError(f"{name} = {matrix.tolist()}: allowed are symmetric matrices")


def check_positive_definite(name: str, matrix: Tensor) -> None:
    import torch

    check_symmetric(name, matrix)
    least = torch.linalg.eigvalsh(matrix)[..., 0]
    if bool((least <= 0).any()):
        raise ValueError(
            f"{name} has smallest eigenvalue {least.min().item():g}: allowed are symmetric "
            "positive definite matrices"
        )
