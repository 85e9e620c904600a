"""Diffusion schedules g(t) of the generative SDE, and what they do at the singular ends of time.

    dX = (v + g^2/2 s) dt + g dB

has the path's marginals at every g (s the score of X_t's law). The memoryless schedule
g^2 = 2 eta is infinite where alpha = 0 (t = 0 of the rectified flow). Nothing hidden is added
there; a caller names one of these choices:

    offset      g^2(t) = 2 eta((t + h)/(1 + 2h)), finite at both ends: 2 (1 - t + h)/(t + h) on the
                rectified flow. Marginals are kept exactly; of X_0 a share of order h^multiple is
                remembered.
    start       integrate from t = start > 0. `theory.samplers.sde.sde_law` takes the law there to
                be N(0, sigma_0^2 I): what that gets wrong is forgotten like start^(1 + multiple).
                `theory.control` takes the path's own law there, which is exact.
    ancestral   no schedule at all: the kernels of `theory.samplers.chain.Chain`, exact conditional
                laws of the path, finite at both ends and memoryless.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.common.checks import check_nonnegative, check_positive, check_share, is_finite_number
from theory.fields.paths import Path

START = 1e-4  # of the memoryless schedule, where a start is wanted


@dataclass(frozen=True)
class Diffusion:
    """g(t): a constant, a multiple of the memoryless schedule g^2 = 2 eta, or any function.

    start: where integration begins. 0 for constants; for eta-schedules without an offset, which
    are infinite at t = 0, a positive time. offset: h above; 0 for none. function: g^2 from (path,
    t), with its name for tables.
    """

    constant: float | None = None
    memoryless: float | None = None
    start: float = 0.0
    offset: float = 0.0
    function: Callable[[Path, Tensor], Tensor] | None = None
    name: str = ""

    @classmethod
    def of_constant(cls, g: float) -> Diffusion:
        """g(t) = g."""
        check_positive("g", g)
        return cls(constant=g)

    @classmethod
    def of_memoryless(cls, multiple: float = 1.0, start: float = START) -> Diffusion:
        """g^2 = multiple * 2 eta from t = start on; 1 is the memoryless schedule."""
        check_positive("multiple", multiple)
        check_positive("start", start)
        return cls(memoryless=multiple, start=start)

    @classmethod
    def of_offset(cls, offset: float, multiple: float = 1.0) -> Diffusion:
        """g^2 = multiple * 2 eta((t + offset)/(1 + 2 offset)), finite on all of [0, 1]."""
        check_positive("offset", offset)
        check_positive("multiple", multiple)
        return cls(memoryless=multiple, offset=offset)

    @classmethod
    def parse(cls, text: str, *, start: float = 0.0, name: str = "schedule") -> Diffusion:
        """A number g, 'memoryless' (from `start` on) or 'offset:h', as commands take them.

        Raises:
            ValueError: anything else; the message calls it `name`.
        """
        if text == "memoryless":
            return cls(memoryless=1.0, start=start)
        kind, _, rest = text.rpartition(":")
        try:
            number = float(rest)
        except ValueError:
            number = math.nan
        if kind not in ("", "offset") or not (is_finite_number(number) and number > 0):
            raise ValueError(
                f"{name} must be a number g > 0, 'memoryless' or 'offset:h', h > 0, got {text!r}"
            )
        return cls.of_offset(number) if kind else cls.of_constant(number)

    @classmethod
    def of_function(
        cls, name: str, squared: Callable[[Path, Tensor], Tensor], start: float = 0.0
    ) -> Diffusion:
        """g^2 = squared(path, t), finite and >= 0 from t = start on."""
        return cls(function=squared, name=name, start=start)

    def __post_init__(self) -> None:
        if [self.constant, self.memoryless, self.function].count(None) != 2:
            raise ValueError(
                "exactly one of constant, memoryless and function must be given "
                "(Diffusion.of_constant, of_memoryless, of_offset, of_function), got constant = "
                f"{self.constant!r}, memoryless = {self.memoryless!r} and function = "
                f"{self.function!r}"
            )
        for name in ("constant", "memoryless"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_nonnegative("offset", self.offset)
        if self.offset and self.memoryless is None:
            raise ValueError(
                f"offset must be 0 but for eta-schedules, got {self.offset!r} of {self.label!r}"
            )
        check_share("start", self.start)

    def squared(self, path: Path, t: Tensor) -> Tensor:
        """g(t)^2.

        Raises:
            ValueError: it is not finite at some t.
        """
        if self.constant is not None:
            return torch.full_like(t, self.constant**2)
        if self.function is not None:
            value = self.function(path, t)
        else:
            assert self.memoryless is not None
            value = 2 * self.memoryless * path.eta((t + self.offset) / (1 + 2 * self.offset))
        finite = torch.isfinite(value) & (value >= 0)
        if not bool(finite.all()):
            raise ValueError(
                f"schedule {self.label!r} must have a finite g² >= 0, got "
                f"{float(value[~finite].flatten()[0]):g} at t = "
                f"{float(t[~finite].flatten()[0]):g}: need times where it is (for g² = 2 eta those "
                "with alpha > 0), an offset (Diffusion.of_offset), or the ancestral kernels (a "
                "Chain without a schedule)"
            )
        return value

    def gain_ratio(self, path: Path, t: Tensor) -> Tensor:
        """gain/g^2, gain = alpha eta: finite at t = 1, where both vanish for eta-schedules."""
        if self.memoryless is not None and not self.offset:
            return path.alpha(t) / (2 * self.memoryless)
        return path.gain(t) / self.squared(path, t)

    @property
    def label(self) -> str:
        if self.constant is not None:
            return f"g = {self.constant:g}"
        if self.function is not None:
            return self.name
        name = "memoryless" if self.memoryless == 1 else f"g² = {self.memoryless:g}·2η"
        return f"{name}, offset {self.offset:g}" if self.offset else name
