"""An exact part of a row: two routes to one quantity, over many settings, and the wrong versions.

The first route is theory's closed form, the second a function of `theory.ledger.oracle` that shares
no code with it. Both map a setting to numbers; the error is relative to the larger of the second's
size and `size(setting)` (1, a standard deviation, unless told). Wrong versions of the first route
(mutants) must be rejected by the same comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np

from theory.common.tolerances import QUADRATURE_TIGHT, Tier
from theory.ledger.core.claim import Array, Context, Finding, Role, number, z_bound
from theory.ledger.oracle import QuadratureError
from theory.ledger.settings.domain import Domain, S
from theory.ledger.settings.problems import Setting, full_rank_setting

Route = Callable[[S], Array]
# (setting, draws, generator) -> (value, standard error)
SampledRoute = Callable[[Setting, int, np.random.Generator], tuple[Array, Array]]
MOST_LOST = 0.2  # share of settings on which the second route may give up
FULL_RANK = 5


def row(values: Any) -> Array:
    """The values at the one point of a setting."""
    return np.asarray(values)[0]


def unit(setting: Any) -> float:
    """Positions and velocities are compared in units of a standard deviation."""
    return 1.0


@dataclass(frozen=True)
class Comparison:
    """One setting's error, and that of every wrong version; nan where the second route gave up."""

    error: float
    mutants: dict[str, float]


@dataclass(frozen=True)
class Identity(Generic[S]):
    """first = second to `tier` on every setting of the domain.

    sampled: the second route by Monte Carlo in d = 5 with full-rank covariances.
    share: of the profile's number of settings that are tried (slow second routes).
    """

    name: str
    domain: Domain[S]
    first: Route[S]
    second: Route[S]
    mutants: Mapping[str, Route[S]]
    size: Callable[[S], float] = unit
    role: Role = "claim"
    tier: Tier = QUADRATURE_TIGHT
    sampled: SampledRoute | None = None
    full_rank_kinds: tuple[str, ...] = ("linear", "quadratic", "bumps")
    dims: tuple[int, ...] = (1, 2, 5)
    share: float = 1.0
    notes: dict[str, Any] = field(default_factory=dict)

    def __call__(self, context: Context) -> Finding:
        settings = [
            self.domain.draw(d, context.seed + i)
            for d, count in context.profile.problems.items()
            if d in self.dims
            for i in range(round(self.share * count) or (d == min(self.dims)))
        ]
        settings += [self.domain.unpack(r) for r in context.recorded]
        compared = [self.compare(s) for s in settings]
        errors = np.array([c.error for c in compared])
        lost = int(np.isnan(errors).sum())
        killed = {
            name: any(c.mutants[name] > self.tier.rtol for c in compared if c.mutants)
            for name in self.mutants
        }
        worst = int(np.nanargmax(errors)) if lost < len(errors) else 0
        largest = float(errors[worst])
        holds = largest <= self.tier.rtol and lost <= MOST_LOST * len(errors)
        dims = sorted({s.dim for s in settings})
        figure = (
            f"error {number(largest)} ({self.tier.name} {self.tier.rtol:g}) over {len(settings)} "
            f"settings, d = {', '.join(map(str, dims))}"
        )
        numbers: dict[str, Any] = {
            "error": largest,
            "tier": self.tier.name,
            "bound": self.tier.rtol,
            "settings": len(settings),
            "dims": dims,
            "gave_up": lost,
            **self.notes,
        }
        if lost:
            figure += f", quadrature gave up on {lost}"
        if self.sampled is not None:
            z, bound, rejected = self._full_rank(context)
            # Draws see large mistakes only: some wrong version must be among them.
            holds = holds and z <= bound and any(rejected.values())
            figure += f"; full-rank d = {FULL_RANK} by Monte Carlo: |z| {z:.2f} of {bound:.2f}"
            numbers |= {"z": z, "z_bound": bound, "rejected_by_draws": rejected}
        return Finding(
            name=self.name,
            role=self.role,
            kind="exact",
            holds=holds,
            figure=figure,
            numbers=numbers,
            worst=settings[worst].describe(),
            mutants=killed,
        )

    def compare(self, setting: S, with_mutants: bool = True) -> Comparison:
        """Both routes at one setting, and the wrong versions."""
        try:
            theirs = np.atleast_1d(self.second(setting))
        except QuadratureError:
            return Comparison(math.nan, {})
        if not np.isfinite(theirs).all():
            raise ValueError(f"{self.name}: the second route gives {theirs} at {setting.pack()}")
        size = max(self.size(setting), float(np.abs(theirs).max()))
        error = self.tier.error(np.atleast_1d(self.first(setting)), theirs, size)
        return Comparison(
            math.inf if math.isnan(error) else error,  # nan is for a second route that gave up
            {
                name: self.tier.error(np.atleast_1d(wrong(setting)), theirs, size)
                for name, wrong in self.mutants.items()
                if with_mutants
            },
        )

    def _full_rank(self, context: Context) -> tuple[float, float, dict[str, bool]]:
        """(largest |z|, its bound, mutants rejected) over one setting of every kind of reward."""
        assert self.sampled is not None
        kinds = self.full_rank_kinds
        rng = np.random.default_rng([context.seed, 11])
        z, most = 0.0, dict.fromkeys(self.mutants, 0.0)
        for i in range(len(kinds)):
            setting: Any = full_rank_setting(FULL_RANK, i, kinds)
            value, error = self.sampled(setting, context.profile.draws, rng)
            gap = float(np.max(np.abs(self.first(setting) - value) / error))
            z = math.inf if math.isnan(gap) else max(z, gap)
            for name, wrong in self.mutants.items():
                gap = float(np.max(np.abs(wrong(setting) - value) / error))
                most[name] = max(most[name], gap)
        bound = z_bound(len(kinds) * FULL_RANK)
        return z, bound, {name: gap > bound for name, gap in most.items()}
