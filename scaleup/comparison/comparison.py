"""A tuned model against its base, in numbers: JSON for programs, Markdown for people."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaleup.comparison.metrics import (
    CONFIDENCE,
    Estimate,
    accuracy,
    diversity,
    frechet_distance,
    mean_reward,
    reward_gain,
)
from scaleup.samples.samples import SampleSet, paired
from theory.common.files import write_atomically, write_json

# The rule-based reward whose full mark says that the prompt is met.
VERIFIER = "shapes"
FULL_MARK = 1.0


@dataclass(frozen=True)
class Row:
    """One measure: of the base, of the tuned model, and of the change; None where undefined."""

    name: str
    base: Estimate | None
    tuned: Estimate | None
    change: Estimate | None = None
    unit: str = ""

    def as_json(self) -> dict[str, Any]:
        estimates = (("base", self.base), ("tuned", self.tuned), ("change", self.change))
        numbers = {k: None if v is None else asdict(v) for k, v in estimates}
        return {"name": self.name, **numbers, "unit_of_change": self.unit}

    def words(self) -> tuple[str, str, str, str]:
        """(name, base, tuned, change) as texts."""
        base, tuned = ("" if v is None else str(v) for v in (self.base, self.tuned))
        return self.name, base, tuned, f"{self.change} {self.unit}".strip() if self.change else ""


@dataclass(frozen=True)
class Comparison:
    """Measures of n pairs of pictures over so many prompts, and what could not be measured."""

    n: int
    prompts: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "prompts": self.prompts,
            "confidence": CONFIDENCE,
            "rows": [row.as_json() for row in self.rows],
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        lines = [
            f"# Base against tuned: {self.n} pairs of the same seed, {self.prompts} prompts",
            "",
            f"In brackets: {100 * CONFIDENCE:g} % intervals.",
            "",
            "| measure | base | tuned | change |",
            "|---|---|---|---|",
            *(
                f"| {' | '.join((plain(name), *rest))} |"
                for name, *rest in map(Row.words, self.rows)
            ),
        ]
        if self.notes:
            lines += ["", *(f"- {plain(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """PATH.json and PATH.md, each atomically; path's own ending does not count.

        Raises:
            OSError: the disk is full, or the folder cannot be written; names the path.
        """
        write_json(path.with_suffix(".json"), self.as_json())
        write_atomically(path.with_suffix(".md"), self.markdown().encode("utf-8"))


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: rewards are named as users please."""
    return re.sub(r"([\\`*_{}\[\]<>|~$&#])", r"\\\1", " ".join(text.split()))


def compare(base: SampleSet, tuned: SampleSet, seed: int = 0) -> Comparison:
    """Every measure of metrics.py, over the samples that both have.

    Raises:
        ValueError: no sample index in common, seeds or prompts differ, or fewer than four pairs.
    """
    first, second = paired(base, tuned)
    if len(first) < 4:
        raise ValueError(f"pairs of samples must be at least 4, got {len(first)}")
    rows: list[Row] = []
    notes: list[str] = []
    for label in first.rewards:
        if label not in second.rewards:
            notes.append(f"reward {label!r} is recorded for {first.which} only")
            continue
        rows.append(_reward(label, first, second, seed, notes))
    if VERIFIER in first.rewards and VERIFIER in second.rewards:
        right = [accuracy(s.rewards[VERIFIER].numpy() >= FULL_MARK) for s in (first, second)]
        rows.append(Row("prompt accuracy", right[0], right[1]))
    if first.features is None or second.features is None:
        notes.append("features were not recorded: no diversity, no Frechet distance")
    else:
        rows += _features(first, second, seed, notes)
    return Comparison(len(first), len(first.prompt_index.unique()), tuple(rows), tuple(notes))


def _reward(label: str, base: SampleSet, tuned: SampleSet, seed: int, notes: list[str]) -> Row:
    a, b = base.rewards[label].numpy(), tuned.rewards[label].numpy()
    gain = None
    if np.ptp(a) > 0:
        gain = reward_gain(a, b, seed)
    else:
        notes.append(f"reward {label!r} is constant over the base: no gain in its deviations")
    return Row(f"reward {label}", mean_reward(a, seed), mean_reward(b, seed), gain, "base sd")


def _features(base: SampleSet, tuned: SampleSet, seed: int, notes: list[str]) -> list[Row]:
    assert base.features is not None
    assert tuned.features is not None
    a, b, asked = base.features.numpy(), tuned.features.numpy(), base.prompt_index.numpy()
    rows = [Row("diversity", diversity(a, seed=seed), diversity(b, seed=seed))]
    if len(np.unique(asked)) < len(asked):
        within = [diversity(values, asked, seed) for values in (a, b)]
        rows.append(Row("diversity within prompts", within[0], within[1]))
    else:
        notes.append("no prompt has two pictures: no diversity within prompts")
    distance = frechet_distance(a, b, seed)
    notes.append(
        f"Frechet distance: shown less its bias, of {len(a)} pairs and {a.shape[1]} features; 0 "
        "for an unchanged model. For scale: random halves of the base, of other seeds, lie "
        f"{distance.floor:.3g} apart"
    )
    return [*rows, Row("Frechet distance to the base", None, distance)]
