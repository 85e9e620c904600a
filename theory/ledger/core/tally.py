"""Errors at many places against one tolerance, and whether it rejects the wrong versions there."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import ArrayLike

from theory.common.tolerances import Tier
from theory.ledger.core.claim import Finding, Role, number


class Tally:
    """What an exact part measured so far.

    errors: {place: error}; mutants: {wrong version: whether it was rejected at some place}.
    """

    def __init__(self, tier: Tier, *mutants: str) -> None:
        self.tier, self.mutants = tier, dict.fromkeys(mutants, False)
        self.errors: dict[str, float] = {}

    def add(self, error: float, place: str = "", wrong: str = "") -> None:
        """Of the right version at a place, or of a wrong one."""
        if wrong:
            self.mutants[wrong] |= bool(error > self.tier.rtol)
        else:
            known = self.errors.get(place, 0.0)
            self.errors[place] = math.inf if math.isnan(error) else max(float(error), known)

    def compare(
        self, ours: ArrayLike, theirs: ArrayLike, size: float, place: str = "", wrong: str = ""
    ) -> None:
        """The error of two values by the tier, relative to `size`; else as `add`."""
        self.add(self.tier.error(ours, theirs, size), place, wrong)

    @property
    def worst(self) -> str:
        """The place of the largest error."""
        return max(reversed(self.errors), key=self.errors.__getitem__)

    @property
    def error(self) -> float:
        """The largest one."""
        return self.errors[self.worst]

    def __str__(self) -> str:
        return f"{number(self.error)} ({self.tier.name} {self.tier.rtol:g})"

    def finding(
        self, name: str, role: Role, figure: str, numbers: dict[str, Any] | None = None
    ) -> Finding:
        """Holds where every error is within the tolerance; numbers: the largest, unless told."""
        return Finding(
            name=name,
            role=role,
            kind="exact",
            holds=self.error <= self.tier.rtol,
            figure=figure,
            numbers={"error": self.error} if numbers is None else numbers,
            worst=self.worst,
            mutants=self.mutants,
        )
