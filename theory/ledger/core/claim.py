"""What a row of the ledger is, and how its verdict follows from what was measured.

A `Claim` is a statement of a paper with the parts that measure it. Every part returns a `Finding`
in one of these roles:

    claim      the statement itself; if all of these hold it is `exact`, `order k` or `statistical`
    condition  the statement under an assumption that the paper leaves out: if the claim fails and
               these hold, it is `conditional`
    instead    what does hold where the claim fails; never part of the statement
    support    what the row's reading rests on: a gap that must be there, a route that must agree

Where a claim part fails and no condition is named, the verdict is `false`. A finding of any other
role that fails, or a mutant that survives, makes the row `broken`: nothing may rest on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from scipy.special import ndtri

from theory.common.checks import check_choice
from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.laws.distances import Array as Array

T = TypeVar("T")
Role = Literal["claim", "condition", "instead", "support"]
Kind = Literal["exact", "order", "statistical"]
BROKEN = "broken"
# What rows are of: the first word of a row's source, and its title.
PAPERS = {
    "liu": "DiffusionNFT as Taylor approximation (Q. Liu)",
    "zhu": "a KL-regularised view of DiffusionNFT (Y. Zhu)",
    "released": "the released DiffusionNFT code",
    "domingo": "Adjoint Matching, stochastic optimal control (C. Domingo-Enrich)",
    "nabla": "nabla-GFlowNet, gradient-informed GFlowNets on the denoising chain (anonymous)",
}


@dataclass(frozen=True)
class Finding:
    """What one part measured.

    holds: whether the measurement agrees with what the part says.
    figure: the measurement in one line, for people; numbers: the same for programs.
    worst: the worst problem, or the counterexample.
    order: the power of the small parameter, for kind "order".
    mutants: {wrong version: whether the check rejected it}.
    """

    name: str
    role: Role
    kind: Kind
    holds: bool
    figure: str
    numbers: dict[str, Any] = field(default_factory=dict)
    worst: str = ""
    order: int | None = None
    mutants: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("role", self.role, get_args(Role))
        check_choice("kind", self.kind, get_args(Kind))
        if (self.kind == "order") != (self.order is not None):
            raise ValueError(
                "order must be a whole number for kind 'order' and None for the others, got "
                f"{self.order!r} for kind {self.kind!r}"
            )


@dataclass(frozen=True)
class Profile:
    """How much is measured: problems by dimension, Monte Carlo draws, maps, worst-case search.

    problems: random settings by dimension, of every exact part.
    draws: samples of Monte Carlo parts (full-rank d = 5).
    cells: rows and columns of the maps; 0: none are made.
    starts, steps: of the search for the worst problem; 0 starts: what was recorded is tried again.
    extras: whether parts that no verdict waits for are measured too.
    """

    name: str
    problems: dict[int, int]
    draws: int
    cells: int
    starts: int = 0
    steps: int = 0
    extras: bool = True


PROFILES = {
    "fast": Profile("fast", {1: 3, 2: 1, 5: 1}, draws=50_000, cells=0, extras=False),
    "default": Profile("default", {1: 16, 2: 3, 5: 2}, draws=400_000, cells=12),
    "thorough": Profile(
        "thorough", {1: 700, 2: 200, 5: 100}, draws=2_000_000, cells=22, starts=200, steps=6
    ),
}


@dataclass(frozen=True)
class Context:
    """What a part is given: the profile, a seed of its own, the worst settings on record."""

    profile: Profile
    seed: int = 0
    recorded: Sequence[dict[str, Any]] = ()

    @property
    def is_fast(self) -> bool:
        return self.profile.name == "fast"

    def choose(self, fast: T, default: T, thorough: T | None = None) -> T:
        """What the profile's size calls for; thorough: as default, unless told."""
        larger = default if thorough is None else thorough
        return {"fast": fast, "default": default}.get(self.profile.name, larger)


Part = Callable[[Context], Finding]


@dataclass(frozen=True)
class Extra:
    """A part that the verdict does not wait for: what holds instead, support, and claims in d > 1
    where the line already decides. Profiles with `extras` False leave it out."""

    part: Part

    def __call__(self, context: Context) -> Finding:
        return self.part(context)


extra = Extra  # as a decorator


def is_extra(part: Part) -> bool:
    """Marked as extra, or an identity in the role of what holds instead or of support."""
    return isinstance(part, Extra) or getattr(part, "role", "claim") in ("instead", "support")


@dataclass(frozen=True)
class Claim:
    """A row: one statement of a paper, and how it is measured.

    recorded: the verdict that the last accepted run measured; a run that measures another fails.
    remark: what a reader should take from the row.
    region: draws where an approximation is good enough, for rows that are not exact.
    """

    id: str
    source: str
    statement: str
    assumptions: str
    first: str
    second: str
    recorded: str
    remark: str
    parts: tuple[Part, ...]
    region: Callable[[int], Any] | None = None


@dataclass(frozen=True)
class Result:
    """A measured row."""

    claim: Claim
    findings: tuple[Finding, ...]
    seconds: float
    region: Any = None

    @property
    def verdict(self) -> str:
        return verdict(self.findings)

    @property
    def agrees(self) -> bool:
        """Whether the measured verdict is the recorded one."""
        return self.verdict == self.claim.recorded


def verdict(findings: Sequence[Finding]) -> str:
    """exact, order k, statistical, conditional, false, or broken (see the module's docstring)."""
    claims = [f for f in findings if f.role == "claim"]
    others = [f for f in findings if f.role != "claim"]
    survived = any(not killed for f in findings for killed in f.mutants.values())
    if not claims or survived or not all(f.holds for f in others):
        return BROKEN
    if all(f.holds for f in claims):
        orders = [f.order for f in claims if f.kind == "order" and f.order is not None]
        if orders:
            return f"order {min(orders)}"
        return "exact" if all(f.kind == "exact" for f in claims) else "statistical"
    return "conditional" if any(f.role == "condition" for f in others) else "false"


def z_bound(count: int) -> float:
    """|z| below which `count` checks stay, but for the agreed rate."""
    return float(-ndtri(FALSE_FAILURE_RATE / (2 * count)))


def number(value: float) -> str:
    """A figure as people read it: three digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"
