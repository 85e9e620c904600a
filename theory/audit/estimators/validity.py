"""Whether an audit may conclude: what is asked of the samples before anything is said of them.

prompts     the same on both sides?
copies      is each sample there once? (copies.py)
shared      are tuned samples the base's?
sampling    one scheduler and number of steps on both sides?
base        do the base's rewards vary within prompts?
features    do they vary, and is none decided by one row?
enough      how many base samples is the reweighted base worth?
row, prompt, percent
            does the tilt stay without the most influential row, prompt, 1 % of the rows?

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.copies import Copies
from theory.audit.data.features import deviations
from theory.audit.data.inputs import some
from theory.audit.data.samples import MOST_SHARE, SIDES, AuditData, Pooled, Side, Whole
from theory.audit.estimators.influence import LEAST_EFFECTIVE, Influence, Without
from theory.audit.estimators.reweighting import Reweighted
from theory.audit.estimators.tilt import Interval

MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd
# Values of each setting on (base, tuned) side.
Sampling = Mapping[str, tuple[Sequence[str], Sequence[str]]]


@dataclass(frozen=True)
class Check:
    """A question that is asked of the samples, and the answer in words. ok: whether it is what an
    audit wants; None: not known, or not asked. numbers: the answer's own, as plain data."""

    name: str
    question: str
    answer: str
    ok: bool | None
    numbers: Mapping[str, Any] = field(default_factory=dict)


# --- prompts, copies, settings


def same_prompts(data: AuditData, copies: Copies) -> Check:
    """Whether both sides have the same prompts, and each in one spelling."""
    parts, out = [f"{len(data.prompts)} on both sides"], data.left_out
    if out:
        parts.append(f"{len(out)} that one side alone has are left out ({some(out)})")
    if copies.spelt:
        parts.append(
            f"{len(copies.spelt)} in several spellings, which count as several prompts "
            f"({some(copies.spelt[0])})"
        )
    return Check(
        "prompts",
        "Are the prompts the same?",
        ("no: " if out or copies.spelt else "yes: ") + "; ".join(parts),
        not (out or copies.spelt),
        {"prompts": len(data.prompts), "left_out": len(out), "spelt": len(copies.spelt)},
    )


def no_copies(data: AuditData, copies: Copies) -> Check:
    """Whether each sample was there once."""
    parts = []
    numbers: dict[str, int] = {}
    for i, (name, side) in enumerate(zip(SIDES, (data.base, data.tuned), strict=True)):
        out = numbers[f"{name}_copies"] = copies.left_out[i]
        numbers[f"{name}_ties"] = copies.ties[i]
        if out:
            parts.append(f"{out} of {len(side) + out} {name} rows are ({_how(copies, i)})")
    ties = [f"{n} {name} rows" for n, name in zip(copies.ties, SIDES, strict=True) if n]
    answer = f"yes: {', '.join(parts)}; each sample counts once" if parts else "none"
    if copies.merged:
        answer += f"; one prompt in several spellings counts as one ({some(copies.merged[0])})"
    if ties:
        answer += f"; {' and '.join(ties)} have the values of another, as chance may have it"
    return Check("copies", "Are rows copies of others?", answer, not parts, numbers)


def _how(copies: Copies, side: int) -> str:
    ways = ((copies.by_seed, "same prompt and seed"), (copies.by_value, "same values"))
    return " and ".join(f"{found[side]} of the {words}" for found, words in ways if found[side])


def not_shared(data: AuditData) -> Check:
    """Whether tuned samples are the base's: the same prompt, reward and features, to the bit."""
    base, tuned = (_keys(side) for side in (data.base, data.tuned))
    known, sorted_keys = np.sort(base), np.sort(tuned)
    shared, whole = int(_known(sorted_keys, known).sum()), len(tuned)
    if shared and data.dim:
        rows = np.flatnonzero(_known(tuned, known))
        own = {row.tobytes() for row in data.base.features[_known(base, sorted_keys)]}
        sorted_keys = np.sort(tuned[[i for i in rows if data.tuned.features[i].tobytes() in own]])
        shared = len(sorted_keys)
    # Few values that many rows have are no sign.
    levels = int((np.diff(sorted_keys) != 0).sum()) + 1 if shared else 0
    ok = shared < whole or levels < whole / 2
    return Check(
        "shared",
        "Are the tuned samples others than the base's?",
        f"{'yes' if ok else 'no'}: {shared} of {whole} have the values of a base sample",
        ok,
        {"shared": shared},
    )


def _keys(side: Side) -> NDArray[np.uint64]:
    """(n,) prompt and reward of each row as one number; others are another's by a chance of 2^-64
    a pair."""
    bits = (side.reward + 0.0).view(np.uint64)
    return np.asarray((bits ^ (side.prompt.astype(np.uint64) * MIXER)) * MIXER)


def _known(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys are among the known, which are sorted."""
    return np.asarray(known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys)


def same_sampling(sampling: Sampling | None) -> Check:
    """Whether both sides were sampled alike, as far as that is recorded."""
    question = "Were both sides sampled with one scheduler and number of steps?"
    if not sampling:
        return Check("sampling", question, "not known: nothing recorded says so", None)
    parts, alike = [], True
    for name, (base, tuned) in sampling.items():
        same = set(base) == set(tuned) and len(set(base)) == 1
        alike &= same
        parts.append(
            f"{name} {base[0]}" if same else f"{name} {some(base)} in base, {some(tuned)} in tuned"
        )
    numbers = {name: [list(side) for side in sides] for name, sides in sampling.items()}
    return Check(
        "sampling", question, ("yes: " if alike else "no: ") + "; ".join(parts), alike, numbers
    )


# --- rewards and features


def base_varies(data: AuditData, alike: NDArray[np.bool_]) -> Check:
    """Whether the base's rewards vary: no tilt makes others of rewards that are all alike.

    alike (P,): prompts in which several base rewards are.
    """
    several = np.bincount(data.base.prompt, minlength=len(data.prompts)) > 1
    count, of = int((alike & several).sum()), int(several.sum())
    if not of:
        answer = "not known: no prompt has two base samples"
    elif count == of:
        answer = f"no: they are all alike in each of {of} prompts"
    else:
        answer = f"yes, in {of - count} of {of} prompts with several base samples"
    return Check(
        "base",
        "Do the base's rewards vary within prompts?",
        answer,
        None if not of else count < of,
        {"alike": count, "prompts": of},
    )


def sane_features(data: AuditData) -> Check:
    """Whether features vary within prompts, and none is decided by one row."""
    question = "Are the features sane?"
    if not data.dim:
        return Check("features", question, "none were given", None)
    found = deviations(data)
    constant, (side, row, feature, share) = int(np.isinf(found.unit).sum()), found.largest
    answer = (
        f"{data.dim}, of which {constant} do not vary; the row that most decides one makes "
        f"{100 * share:.2g} % of its variance ({SIDES[side]} row {row + 1}, feature {feature + 1})"
    )
    ok = constant < data.dim and share <= MOST_SHARE
    return Check(
        "features",
        question,
        ("yes: " if ok else "no: ") + answer,
        ok,
        {
            "features": data.dim,
            "constant": constant,
            "largest_share": share,
            "side": SIDES[side],
            "row": row,
            "feature": feature,
        },
    )


def enough(data: AuditData, weights: Reweighted) -> Check:
    """How many samples there are, and what the reweighted base is worth."""
    ok = weights.total >= LEAST_EFFECTIVE
    return Check(
        "enough",
        "Are there enough samples?",
        f"{'yes' if ok else 'no'}: reweighted to the {len(data.tuned)} tuned samples, "
        f"{len(data.base)} base samples are worth {weights.total:.1f}, {LEAST_EFFECTIVE:g} are "
        "needed",
        ok,
        {"base": len(data.base), "tuned": len(data.tuned), "effective": weights.total},
    )


# --- influence


def stays(found: Influence, tilt: Interval, place: Place) -> list[Check]:
    """Whether the tilt's conclusion stays without the most influential row, prompt, 1 % of rows."""
    named: list[tuple[str, str, Without | None, str]] = [
        ("row", "row", found.row, place.row(found.row_at)),
        ("prompt", "prompt", found.prompt, place.prompt(found.prompt_at)),
        ("percent", "1 % of the rows", found.percent, f"{found.percent_of} rows"),
    ]
    none = {"prompt": "not asked: there is one prompt", "percent": "not asked: too few rows"}
    checks = []
    for name, words, without, who in named:
        question = f"Does the tilt stay without the most influential {words}?"
        if without is None:
            checks.append(Check(name, question, none[name], None))
            continue
        numbers: dict[str, Any] = {"without": who, "changes": without.changes}
        if without.tilt is None:
            answer = f"no: without {who} none can be fitted"
        else:
            answer = (
                f"{'no' if without.changes else 'yes'}: {without.tilt} without {who}, {tilt} with"
            )
            numbers |= {
                "tilt": without.tilt.value,
                "low": without.tilt.low,
                "high": without.tilt.high,
                "effective": without.effective,
            }
        checks.append(Check(name, question, answer, not without.changes, numbers))
    return checks


@dataclass(frozen=True, eq=False)
class Place:
    """Where pooled rows stand in what was given. kept (P,): the prompts of the pooled rows."""

    data: AuditData
    pooled: Pooled
    kept: Whole

    def row(self, index: int) -> str:
        """A pooled row in words."""
        prompt = int(self.kept[self.pooled.prompt[index]])
        return self.row_of(int(self.pooled.label[index]), float(self.pooled.reward[index]), prompt)

    def row_of(self, label: int, reward: float, prompt: int | None = None) -> str:
        """The first row of a side with this reward, counted from one."""
        side = (self.data.base, self.data.tuned)[label]
        same = side.reward == reward
        if prompt is not None:
            same &= side.prompt == prompt
        first = int(np.flatnonzero(same)[np.argmin(side.row[same])])
        name = self.data.prompts[int(side.prompt[first])]
        of = f", prompt {some([name])}" if len(self.data.prompts) > 1 else ""
        return f"{SIDES[label]} row {int(side.row[first]) + 1} (reward {reward:.4g}{of})"

    def prompt(self, index: int | None) -> str:
        """A pooled prompt by name."""
        return "" if index is None else some([self.data.prompts[int(self.kept[index])]])
