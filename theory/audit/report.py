"""One audit: from samples to numbers, to a verdict, or to why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from theory.audit.compare import Wrappers, compare_wrappers
from theory.audit.conditional import (
    PERMUTATIONS,
    Conditional,
    Permuted,
    TooFewError,
    conditional_test,
    permute,
)
from theory.audit.excess import Excess, excess
from theory.audit.families import FAMILIES, Fitted, some_rows
from theory.audit.likelihood import NoFitError
from theory.audit.reweighting import Reweighted, kl_bound, reweighted
from theory.audit.samples import AuditData, Pooled
from theory.audit.tilt import Interval, PromptTilts, effective_tilt, prompt_tilts
from theory.checks import check_order

LEAST_ROWS = 20  # a side
LEAST_EFFECTIVE = 30.0  # samples of the reweighted base: below, KL and diversity are off (validate)
MOST_COMPARED = 200_000  # rows on which wrappers are compared; the tilt is of all


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What was found; doubts: why nothing is concluded, of the whole or (beyond) of what lies
    beyond the tilt. compared: the rows that wrappers were fitted to. Parts are None where they
    could not be had."""

    data: AuditData
    pooled: Pooled
    doubts: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    exponential: Fitted | None = None
    tilt: Interval | None = None
    tilts: PromptTilts | None = None
    wrappers: Wrappers | None = None
    kl: Interval | None = None
    reweighted: Reweighted | None = None
    conditional: Conditional | None = None
    excess: Excess | None = None
    notes: tuple[str, ...] = field(default=())
    compared: Pooled | None = None

    @property
    def conclusive(self) -> bool:
        """Whether anything is concluded."""
        return not self.doubts


def audit(
    data: AuditData,
    *,
    wrappers: Sequence[str] = (),
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    second: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """Audit samples.

    wrappers: names to fit, all unless given (exp(a r) always). permutations: of the conditional
    test. seed: of permutations, random features, resamples. second: the classifier too. say: told
    what is being done.

    Raises:
        ValueError: an unknown wrapper, permutations below 19 (the least that reach 5 %).
    """
    check_order("permutations", permutations, 19)
    names = list(dict.fromkeys(("exponential", *wrappers))) if wrappers else list(FAMILIES)
    everything = data.pooled
    doubts = [
        f"{side} has {len(rows)} samples, {LEAST_ROWS} are needed"
        for side, rows in (("base", data.base), ("tuned", data.tuned))
        if len(rows) < LEAST_ROWS
    ]
    pooled = _that_vary(everything)
    if pooled is None:
        doubts.append("rewards are constant in every prompt, base and tuned together")
    if doubts or pooled is None:
        return AuditReport(data, everything, tuple(doubts))
    say("effective tilt")
    try:
        exponential = FAMILIES["exponential"].fit(pooled)
        tilt = effective_tilt(exponential, pooled)
    except NoFitError:
        return AuditReport(data, everything, (_separated(pooled),))
    weights = reweighted(exponential.fit.log_ratio, pooled)
    if weights.total < LEAST_EFFECTIVE:
        return AuditReport(
            data, pooled, (_too_few(weights, pooled),), exponential=exponential, tilt=tilt,
            reweighted=weights,
        )  # fmt: skip
    compared = some_rows(pooled, MOST_COMPARED)
    say(f"{len(names)} wrappers")
    try:
        found = compare_wrappers(compared, names)
    except NoFitError as error:
        return AuditReport(
            data, pooled, (f"wrappers: {error}",), exponential=exponential, tilt=tilt,
            reweighted=weights,
        )  # fmt: skip
    conditional, beyond, excess_ = None, [], None
    if not data.dim:
        beyond.append("no features were given")
    else:
        say(f"conditional test, {permutations} permutations")
        try:
            permuted = permute(data, seed, permutations)
            conditional = conditional_test(data, permuted, seed, second)
            excess_ = _excess(data, permuted, seed, beyond)
        except TooFewError as error:
            beyond.append(str(error))
    return AuditReport(
        data, pooled, (), tuple(beyond), exponential, tilt, prompt_tilts(pooled), found,
        kl_bound(found.best.fitted.fit.log_ratio, compared), weights, conditional, excess_,
        _notes(data, pooled, everything, compared), compared,
    )  # fmt: skip


def _excess(data: AuditData, permuted: Permuted, seed: int, beyond: list[str]) -> Excess | None:
    try:
        return excess(data, permuted, seed)
    except TooFewError as error:
        beyond.append(f"diversity: {error}")
        return None


def _that_vary(pooled: Pooled) -> Pooled | None:
    """Prompts with both sides whose rewards are not all alike; None where there are none."""
    low = np.minimum.reduceat(pooled.reward, pooled.starts)
    high = np.maximum.reduceat(pooled.reward, pooled.starts)
    good = (high > low) & (pooled.n0 > 0) & (pooled.n1 > 0)
    if not good.any():
        return None
    return pooled if bool(good.all()) else pooled.take(good[pooled.prompt])


def _separated(pooled: Pooled) -> str:
    base, tuned = pooled.reward[pooled.is_base], pooled.reward[~pooled.is_base]
    way = "above" if tuned.mean() > base.mean() else "below"
    return (
        f"base and tuned rewards are separated in every prompt, the tuned ones {way}: no finite "
        "tilt is the most likely; draw more base samples, or audit an earlier checkpoint"
    )


def _too_few(weights: Reweighted, pooled: Pooled) -> str:
    base = int(pooled.n0.sum())
    needed = int(np.ceil(base * LEAST_EFFECTIVE / weights.total / 100) * 100)
    return (
        f"the base reweighted to the tuned rewards is worth {weights.total:.1f} of its {base} "
        f"samples, {LEAST_EFFECTIVE:g} are needed: draw about {needed} base samples"
    )


def _notes(
    data: AuditData, pooled: Pooled, everything: Pooled, compared: Pooled
) -> tuple[str, ...]:
    notes = []
    if compared is not pooled:
        notes.append(f"wrappers were compared on an even choice of {len(compared)} samples")
    if data.left_out:
        notes.append(f"{len(data.left_out)} prompts that one side alone has are left out")
    constant = everything.count - pooled.count
    if constant:
        notes.append(f"{constant} prompts with constant rewards say nothing of the tilt")
    if data.paired:
        notes.append(
            "base and tuned share seeds: rows of one seed count as one in the tilt's interval, and "
            "stand on one side only in the conditional test"
        )
    return tuple(notes)
