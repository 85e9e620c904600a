"""One audit: from samples to numbers, to a verdict, or to why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.copies import Copies, distinct
from theory.audit.data.features import spread
from theory.audit.data.samples import SIDES, AuditData, Pooled, Whole
from theory.audit.estimators.compare import Wrappers, compare_wrappers
from theory.audit.estimators.conditional import (
    PERMUTATIONS,
    Conditional,
    Permuted,
    TooFewError,
    conditional_test,
    permute,
)
from theory.audit.estimators.excess import Excess, OneRowError, excess
from theory.audit.estimators.influence import (
    LEAST_EFFECTIVE,
    Influence,
    agree,
    influence,
    kl_without,
)
from theory.audit.estimators.reweighting import Reweighted, kl_at_most, kl_bound, reweighted
from theory.audit.estimators.tilt import (
    ONE_TILT,
    Interval,
    PromptTilts,
    Tilt,
    effective_tilt,
    prompt_tilts,
)
from theory.audit.estimators.validity import (
    Check,
    Place,
    Sampling,
    base_varies,
    enough,
    no_copies,
    not_shared,
    same_prompts,
    same_sampling,
    sane_features,
    stays,
)
from theory.audit.families.families import FAMILIES
from theory.audit.families.family import Fitted, some_rows
from theory.audit.fit.likelihood import NoFitError
from theory.common.checks import check_order

LEAST_ROWS = 20  # a side
MOST_COMPARED = 200_000  # rows on which wrappers are compared; the tilt is of all
SHARED_SEEDS = (
    "base and tuned share seeds: rows of one seed count as one in the tilt's interval, and stand "
    "on one side only in the conditional test"
)
ROUNDING = 64  # units of float64's: rewards that differ by less are alike


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What was found; doubts: why nothing is concluded, of the whole or (beyond) of what lies
    beyond the tilt. data: without the copies that were found. prompts: which of them the pooled
    rows have. validity: what was asked of the samples first. compared: the rows that wrappers were
    fitted to. Parts are None where they could not be had."""

    data: AuditData
    pooled: Pooled
    prompts: Whole
    copies: Copies
    validity: tuple[Check, ...] = ()
    doubts: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    exponential: Fitted | None = None
    tilt: Tilt | None = None
    influence: Influence | None = None
    tilts: PromptTilts | None = None
    wrappers: Wrappers | None = None
    kl: Interval | None = None
    kl_at_most: float | None = None
    reweighted: Reweighted | None = None
    conditional: Conditional | None = None
    excess: Excess | None = None
    notes: tuple[str, ...] = field(default=())
    compared: Pooled | None = None

    @property
    def conclusive(self) -> bool:
        """Whether all that was asked can be concluded."""
        return not self.doubts

    @property
    def tilt_holds(self) -> bool:
        """Whether the tilt's interval is a conclusion: always where all is, and where all prompts
        are said to have one tilt, however few samples there are, unless one row decides it."""
        stated = self.tilt is not None and self.tilt.scope == ONE_TILT
        by_a_row = self.influence is not None and self.influence.row.changes
        return self.conclusive or (stated and not by_a_row)

    @cached_property
    def deviation(self) -> tuple[float, str]:
        """(standard deviation of rewards within prompts, n - 1 a prompt; whose): the base's, or
        where no prompt has two base rewards, both sides'; nan where no prompt has two rewards."""
        pooled = self.pooled
        everything = np.ones(len(pooled), dtype=bool)
        for rows, whose in ((pooled.is_base, ""), (everything, " of both sides' rewards")):
            prompt = pooled.prompt[rows]
            if len(prompt) > len(np.unique(prompt)):
                return pooled.spread * float(spread(pooled.z[rows][:, None], prompt)[0]), whose
        return math.nan, ""


def audit(
    data: AuditData,
    *,
    wrappers: Sequence[str] = (),
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    second: bool = True,
    one_tilt: bool = False,
    sampling: Sampling | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """Audit samples.

    wrappers: names to fit, all unless given (exp(a r) always). permutations: of the conditional
    test. seed: of permutations, random features, resamples. second: the classifier too. one_tilt:
    all prompts are said to have the same. sampling: what is known of how both sides were sampled.
    say: told what is being done.

    Raises:
        ValueError: an unknown wrapper, permutations below 19 (the least that reach 5 %).
    """
    check_order("permutations", permutations, 19)
    names = list(dict.fromkeys(("exponential", *wrappers))) if wrappers else list(FAMILIES)
    data, copies = distinct(data)
    everything = data.pooled
    good, alike = _vary(everything)
    varies = bool(good.any())
    pooled = everything.take(good[everything.prompt]) if varies and not good.all() else everything
    few = [
        f"{side} has {len(rows)} samples"
        + (f" when {out} copies are left out" if out else "")
        + f", {LEAST_ROWS} are needed"
        for side, rows, out in zip(SIDES, (data.base, data.tuned), copies.left_out, strict=True)
        if len(rows) < LEAST_ROWS
    ]
    doubts = []
    if not varies:
        doubts.append("rewards are constant in every prompt, base and tuned together")
    elif base_is_alike(everything, alike):
        doubts.append(
            "the base's rewards are all alike in every prompt, and tuned ones are others: no tilt "
            "of such a base makes these"
        )
    checks = [
        same_prompts(data, copies),
        no_copies(data, copies),
        not_shared(data),
        same_sampling(sampling),
        base_varies(data, alike),
        sane_features(data),
    ]
    prompts = np.flatnonzero(good) if varies else np.arange(everything.count)
    found = AuditReport(data, pooled, prompts, copies, tuple(checks), (*few, *doubts))
    if doubts or (few and not one_tilt):
        return found
    say("effective tilt")
    try:
        exponential = FAMILIES["exponential"].fit(pooled)
        tilt = effective_tilt(exponential, pooled, one_tilt)
    except NoFitError:
        return replace(found, doubts=(*few, _separated(pooled)))
    weights = reweighted(exponential.fit.log_ratio, pooled)
    place = Place(data, pooled, prompts)
    influences = influence(exponential, tilt, weights.total, pooled)
    if influences.row.changes:
        few.append(_one_row(influences, tilt, weights, place))
    if weights.total < LEAST_EFFECTIVE and influences.row.effective < LEAST_EFFECTIVE:
        few.append(_too_few(weights, pooled))
    found = replace(
        found,
        exponential=exponential,
        tilt=tilt,
        reweighted=weights,
        influence=influences,
        validity=(*checks, enough(data, weights), *stays(influences, tilt, place)),
        doubts=tuple(few),
    )
    if found.doubts:
        return found
    compared = some_rows(pooled, MOST_COMPARED)
    say(f"{len(names)} wrappers")
    try:
        fits = compare_wrappers(compared, names)
    except NoFitError as error:
        return replace(found, doubts=(f"wrappers: {error}",))
    kl, notes = _kl(fits, compared, place)
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
    return replace(
        found,
        beyond=tuple(beyond),
        tilts=prompt_tilts(pooled),
        wrappers=fits,
        kl=kl,
        kl_at_most=kl_at_most(tilt, pooled) if tilt.low <= 0 <= tilt.high else None,
        conditional=conditional,
        excess=excess_,
        compared=compared,
        notes=(*notes, *_notes(data, pooled, everything, compared)),
    )


def _kl(fits: Wrappers, compared: Pooled, place: Place) -> tuple[Interval | None, list[str]]:
    """The bound of the best wrapper; or none, and why."""
    log_ratio = fits.best.fitted.fit.log_ratio
    kl = kl_bound(log_ratio, compared)
    rests = kl_without(log_ratio, compared, kl)
    if rests is None:
        few = "prompts have too few base samples for the mean of what they weigh"
        return kl, [] if kl is not None else [f"KL to the base: {few}"]
    row, without = rests
    if kl is not None and agree(kl, without):
        return kl, []
    who = place.row_of(int(compared.label[row]), float(compared.reward[row]))
    has = "none can be said" if kl is None else str(kl)
    return None, [f"KL to the base: one row decides it, {without} without {who}, {has} with"]


def _one_row(found: Influence, tilt: Interval, weights: Reweighted, place: Place) -> str:
    who, without = place.row(found.row_at), found.row
    left = "no tilt can be fitted" if without.tilt is None else f"the tilt is {without.tilt}"
    text = f"one row decides: without {who} {left}, with it {tilt}"
    if without.tilt is not None and weights.total < LEAST_EFFECTIVE <= without.effective:
        text += (
            f", and the reweighted base is worth {without.effective:.1f} samples, with it "
            f"{weights.total:.1f}"
        )
    return text + ": see whether its reward is right, or leave it out"


def _excess(data: AuditData, permuted: Permuted, seed: int, beyond: list[str]) -> Excess | None:
    try:
        return excess(data, permuted, seed)
    except (TooFewError, OneRowError) as error:
        beyond.append(f"diversity: {error}")
        return None


def _vary(pooled: Pooled) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Prompts (P,) with both sides whose rewards are not all alike, and prompts whose base rewards
    are; up to rounding."""
    low = np.minimum.reduceat(pooled.reward, pooled.starts)
    high = np.maximum.reduceat(pooled.reward, pooled.starts)
    least = ROUNDING * np.finfo(float).eps * np.maximum(np.abs(low), np.abs(high))
    base = pooled.is_base
    low_base = np.minimum.reduceat(
        np.where(base, pooled.reward, high[pooled.prompt]), pooled.starts
    )
    high_base = np.maximum.reduceat(
        np.where(base, pooled.reward, low[pooled.prompt]), pooled.starts
    )
    good = (high - low > least) & (pooled.n0 > 0) & (pooled.n1 > 0)
    return good, high_base - low_base <= least


def base_is_alike(pooled: Pooled, alike: NDArray[np.bool_]) -> bool:
    """Whether base rewards are all alike in every prompt (alike (P,)), and chance does not make
    them so: prompts have LEAST_ROWS more base rows than there are prompts."""
    return bool(alike.all()) and float((pooled.n0 - 1).sum()) >= LEAST_ROWS - 1


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
    constant = everything.count - pooled.count
    notes = (
        (
            compared is not pooled,
            f"wrappers were compared on an even choice of {len(compared)} samples",
        ),
        (data.left_out, f"{len(data.left_out)} prompts that one side alone has are left out"),
        (constant, f"{constant} prompts with constant rewards say nothing of the tilt"),
        (data.paired, SHARED_SEEDS),
    )
    return tuple(note for holds, note in notes if holds)
