"""A reward whose every answer is checked: number, dtype, finiteness, bounds, gradient."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scaleup.rewards.contract.images import check_images
from scaleup.rewards.contract.reward import Reward
from theory.common.user_code import named

# Values are float64; a float32 model inside a reward may overshoot its bound by rounding.
BOUND_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Checked(Reward):
    """inner, with every answer held to the contract.

    Raises, on a call:
        ValueError: names the reward, the first value at fault with its index and prompt, and what
            is allowed: n finite float64 values (n,) within the reward's bounds, with a gradient
            where the reward is said to have one and the pictures ask for it.
    """

    inner: Reward

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def label(self) -> str:
        return self.inner.label

    @property
    def summary(self) -> str:
        return self.inner.summary

    @property
    def bounds(self) -> tuple[float, float]:
        return self.inner.bounds

    @property
    def differentiable(self) -> bool:
        return self.inner.differentiable

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        with _named(self.label):
            values = self.inner(images, prompts)
        self._check(self.label, self.bounds, values, images, prompts)
        return values

    def parts(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        check_images(images, prompts)
        with _named(self.label):
            found = self.inner.parts(images, prompts)
        for label, values in found.items():
            bounds = self.bounds if label == self.label else None
            self._check(label, bounds, values, images, prompts)
        return found

    def _check(
        self,
        label: str,
        bounds: tuple[float, float] | None,
        values: object,
        images: Tensor,
        prompts: Sequence[str],
    ) -> None:
        who, n = f"reward {label!r}", len(images)
        if not isinstance(values, Tensor):
            raise ValueError(
                f"{who} must return a torch.Tensor of shape ({n},), got a {type(values).__name__}"
            )
        if values.shape != (n,):
            raise ValueError(
                f"{who} must return one value a picture, ({n},), got shape {tuple(values.shape)}"
            )
        if values.dtype != torch.float64:
            raise ValueError(
                f"{who} must return torch.float64 (compute in it, or convert with "
                f".to(torch.float64)), got {values.dtype}"
            )
        _refuse(who, values, ~torch.isfinite(values), "finite numbers", prompts)
        if bounds is not None:
            low, high = bounds
            room = BOUND_TOLERANCE * max(1.0, *(abs(b) for b in bounds if abs(b) < float("inf")), 0)
            outside = (values < low - room) | (values > high + room)
            _refuse(who, values, outside, f"values in its bounds [{low:g}, {high:g}]", prompts)
        asked = self.differentiable and images.requires_grad and torch.is_grad_enabled()
        if asked and label == self.label and not values.requires_grad:
            raise ValueError(
                f"{who} says that it is differentiable, and must return values that depend on the "
                "pictures, or say differentiable = False; got values without a gradient (detached?)"
            )


@contextmanager
def _named(label: str) -> Iterator[None]:
    """What a reward's own code raises, with the reward's name and the place; memory passes, and so
    do checks of ours."""
    who, allowed = f"reward {label!r}", "one float64 value a picture"
    try:
        with named(who, allowed):
            yield
    except (ValueError, MemoryError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of a library, in a reward of ours
        if "memory" in str(error).lower():
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"{who} must return {allowed}, and raised {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})"
        ) from error


def _refuse(who: str, values: Tensor, wrong: Tensor, allowed: str, prompts: Sequence[str]) -> None:
    places = wrong.nonzero()[:, 0].tolist()
    if places:
        first = places[0]
        more = f" (and at {len(places) - 1} more)" if len(places) > 1 else ""
        raise ValueError(
            f"{who} must return {allowed}, got {float(values[first]):g} for picture {first}, "
            f"prompt {prompts[first]!r}{more}"
        )
