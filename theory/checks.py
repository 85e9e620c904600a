"""Checks at the public boundary: each error names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

WEIGHT_SUM_TOLERANCE = 1e-9
SYMMETRY_TOLERANCE = 1e-10


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    options = list(allowed)
    if value not in options:
        raise ValueError(f"{name} = {value!r}: allowed are {', '.join(map(repr, options))}")


def check_positive(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} = {value!r}: allowed are finite numbers > 0")


def check_finite(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"{name} = {value!r}: allowed are finite numbers")


def check_order(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} = {value!r}: allowed are whole numbers from {least} to {most}")


def check_time(t: Tensor | float, x: Tensor) -> Tensor:
    """t as a tensor of x's dtype and device, 0-dimensional or of x's shape less its last axis."""
    # Straight to x's dtype: by way of torch's default, 0.99 would become a float32.
    time = t if isinstance(t, Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)
    if time.dtype != x.dtype:
        raise TypeError(f"t has dtype {time.dtype}, x has {x.dtype}: allowed is one dtype for both")
    if time.ndim and torch.broadcast_shapes(time.shape, x.shape[:-1]) != x.shape[:-1]:
        raise ValueError(
            f"t has shape {tuple(time.shape)}: allowed are a scalar or x's shape less its last "
            f"axis, {tuple(x.shape[:-1])}"
        )
    if time.device.type != "meta" and not bool(((time >= 0) & (time <= 1)).all()):
        low, high = time.min().item(), time.max().item()
        raise ValueError(f"t lies in [{low:g}, {high:g}]: allowed is [0, 1]")
    return time


def check_points(x: Tensor, dim: int, dtype: torch.dtype) -> None:
    """x holds points (..., n, dim) in the dtype of the law that is evaluated there."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}: allowed is a torch.Tensor")
    if x.ndim < 2 or x.shape[-1] != dim:
        raise ValueError(f"x has shape {tuple(x.shape)}: allowed is (..., n, {dim})")
    if x.dtype != dtype:
        raise TypeError(
            f"x has dtype {x.dtype}, the law has {dtype}: allowed is one dtype for both "
            "(convert the law with .to(dtype))"
        )


def as_parameter(name: str, value: Any, ndim: int, shape: str) -> Tensor:
    """A float tensor of at least ndim axes (lists become float64) with finite entries."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} = {value!r}: allowed are numbers of shape {shape}") from error
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    if tensor.ndim < ndim:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: allowed is {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} = {tensor.tolist()}: allowed are finite numbers")
    return tensor


def check_weights(weights: Tensor) -> None:
    if bool((weights < 0).any()):
        raise ValueError(f"weights = {weights.tolist()}: allowed are numbers >= 0")
    total = weights.sum(-1)
    if bool(((total - 1).abs() > WEIGHT_SUM_TOLERANCE).any()):
        raise ValueError(
            f"weights = {weights.tolist()} sum to {total.tolist()}: allowed is a sum of 1 "
            f"(to {WEIGHT_SUM_TOLERANCE:g})"
        )


def check_symmetric(name: str, matrix: Tensor) -> None:
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: allowed are square matrices")
    size = matrix.abs().amax(dim=(-1, -2), keepdim=True)
    if bool(((matrix - matrix.mT).abs() > SYMMETRY_TOLERANCE * size).any()):
        raise ValueError(f"{name} = {matrix.tolist()}: allowed are symmetric matrices")


def check_positive_definite(name: str, matrix: Tensor) -> None:
    check_symmetric(name, matrix)
    least = torch.linalg.eigvalsh(matrix)[..., 0]
    if bool((least <= 0).any()):
        raise ValueError(
            f"{name} has smallest eigenvalue {least.min().item():g}: allowed are symmetric "
            "positive definite matrices"
        )
