"""What the intervals of the tilt and of KL cover, whatever the spread of rows over prompts.

Rewards N(mu_g, 1), tuned by exp(a_g r): N(mu_g + a_g, 1), a_g ~ N(a, s^2). Rows a prompt and side:

    equal      20
    one large  nine tenths of all rows in one prompt, 3 in each of the others
    power      in proportion to 1/k, 20 on average
    few        one or two
    unequal    20 of the base, 3 or 40 tuned
    alone      100, in one prompt

Each interval is held to its own estimand: for prompts like these the tilt at which the expected
scores of such prompts add up to zero (by simulation where tilts differ; it is a but for what
nonlinearity makes of it); for these prompts the same of the tilts that were drawn, by quadrature;
for one tilt a.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from theory.audit.data.samples import Array, Pooled, Whole
from theory.audit.estimators.influence import LEAST_EFFECTIVE
from theory.audit.estimators.reweighting import kl_at_most, kl_bound, reweighted
from theory.audit.estimators.tilt import CONFIDENCE, ONE_TILT, PROMPTS_LIKE, effective_tilt
from theory.audit.families.families import FAMILIES
from theory.audit.families.family import Fitted
from theory.audit.fit.likelihood import NoFitError, state
from theory.audit.report import LEAST_ROWS

SPREADS = ("equal", "one large", "power", "few", "unequal")
EXPONENTIAL = FAMILIES["exponential"]
ESTIMAND_SEED = 10**9
SIMULATED = 2_000_000  # rows, for an estimand
NODES = 60  # of Gauss and Hermite


@dataclass(frozen=True)
class Cell:
    """A spread of rows over prompts, and the law N(tilt, differ^2) of the prompts' tilts."""

    spread: str
    prompts: int
    tilt: float
    differ: float = 0.0

    def __str__(self) -> str:
        words = f"{self.spread}, {self.prompts} prompts, a = {self.tilt:g}"
        return words + (f" ± {self.differ:g}" if self.differ else "")

    @property
    def sizes(self) -> tuple[Whole, Whole]:
        """Base and tuned rows of each prompt."""
        count = np.arange(self.prompts)
        if self.spread == "one large":
            rows = np.where(count == 0, 27 * (self.prompts - 1), 3)
            return rows, rows
        if self.spread == "power":
            share = 1 / (1 + count) / (1 / (1 + count)).sum()
            rows = np.maximum(np.round(20 * self.prompts * share), 1).astype(np.int64)
            return rows, rows
        if self.spread == "few":
            return 1 + count % 2, 1 + count // 2 % 2
        rows = np.full(self.prompts, 100 if self.spread == "alone" else 20)
        return rows, np.where(count % 2 == 0, 3, 40) if self.spread == "unequal" else rows

    @property
    def ordinary(self) -> bool:
        """Whether no prompt holds over half of the rows, effective prompts number 10 or more, and
        the rows of a side are as many as the audit asks for."""
        rows = self.sizes[0] + self.sizes[1]
        effective = rows.sum() ** 2 / (rows**2).sum()
        enough = min(side.sum() for side in self.sizes) >= LEAST_EFFECTIVE
        return bool(rows.max() <= rows.sum() / 2 and effective >= 10 and enough)

    def draw(self, seed: int, *, mirrored: bool = False) -> tuple[Pooled, Array]:
        """(both sides' rewards, the prompts' tilts); mirrored: with these about their mean."""
        rng = np.random.default_rng((seed, self.prompts))
        n0, n1 = self.sizes
        apart = self.differ * rng.normal(size=self.prompts)
        tilts = self.tilt + (-apart if mirrored else apart)
        prompt = np.repeat(np.arange(self.prompts), n0 + n1)
        label = np.concatenate([np.repeat([0.0, 1.0], pair) for pair in zip(n0, n1, strict=True)])
        reward = rng.normal(size=self.prompts)[prompt] + rng.normal(size=len(label))
        return Pooled.sorted(reward + label * tilts[prompt], label, prompt), tilts


@cache
def mean_tilt(cell: Cell) -> float:
    """The estimand for prompts like these."""
    if cell.differ == 0 or cell.tilt == 0:  # 0 by the symmetry r -> -r
        return cell.tilt
    times = max(SIMULATED // int(sum(map(np.sum, cell.sizes))) // 2, 1)
    if cell.spread not in ("power", "one large"):  # more prompts are more of the same
        cell, times = replace(cell, prompts=cell.prompts * times), 1
    # Every draw with its mirror image: few large prompts' own tilts would decide it.
    drawn = [
        cell.draw(ESTIMAND_SEED + i, mirrored=mirrored)[0]
        for i in range(times)
        for mirrored in (False, True)
    ]

    def total(a: float) -> float:
        return sum(_score(a, pooled) for pooled in drawn)

    return float(brentq(total, cell.tilt - cell.differ, cell.tilt + cell.differ, xtol=1e-4))


def _score(a: float, pooled: Pooled) -> float:
    column = pooled.z[:, None]
    theta = np.array([a * pooled.spread])
    _, gradient = state(lambda t: (t[0] * pooled.z, column), theta, pooled, None)
    return float(gradient[0]) * pooled.spread


def own_mean(cell: Cell, tilts: Array) -> float:
    """The estimand for these prompts, of their own tilts (P,): rows beyond counting, by quadrature.

    With q = sigma(a r + alpha) the chance that a row is tuned, alpha such that n0 E_0 q + n1 E_1 q
    = n1, a prompt's expected score is n1 E_1[r] - n0 E_0[r q] - n1 E_1[r q].
    """
    if cell.prompts == 1 or cell.differ == 0:
        return float(tilts[0])
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    n0, n1 = (rows[:, None].astype(float) for rows in cell.sizes)
    sides = ((n0, nodes[None]), (n1, nodes + tilts[:, None]))

    def total(a: float) -> float:
        low, high = np.full_like(n0, -60.0), np.full_like(n0, 60.0)
        for _ in range(60):
            alpha = (low + high) / 2
            many = sum(n * (expit(a * r + alpha) @ weights)[:, None] for n, r in sides) > n1
            low, high = np.where(many, low, alpha), np.where(many, alpha, high)
        tuned = sum(n[:, 0] * ((r * expit(a * r + alpha)) @ weights) for n, r in sides)
        return float((n1[:, 0] * tilts - tuned).sum())

    return float(brentq(total, tilts.min(), tilts.max(), xtol=1e-4))


def count(cell: Cell, first: int, repetitions: int) -> Counter[str]:
    """What happened in data sets first, first + 1, ...: `drawn`; `concludes`, `holds` of the
    interval that the audit gives; `like` those for prompts like these; `one`, `one holds` of one
    tilt, stated; `kl`, `kl holds`, `small`, `small holds` of KL's interval and one-sided bound;
    `width`, `efficient` (both times 1e6): of intervals for prompts like these, and of the best that
    knows all variances."""
    found: Counter[str] = Counter()
    for seed in range(first, first + repetitions):
        found["drawn"] += 1
        pooled, tilts = cell.draw(seed)
        try:
            fitted = EXPONENTIAL.fit(pooled)
        except NoFitError:
            continue
        if cell.differ == 0:
            one = effective_tilt(fitted, pooled, one_tilt=True)
            assert one.scope == ONE_TILT
            found["one"] += 1
            found["one holds"] += one.low <= cell.tilt <= one.high
        effective = reweighted(fitted.fit.log_ratio, pooled).total
        # As the audit has it (report.py).
        if min(pooled.n0.sum(), pooled.n1.sum()) >= LEAST_ROWS and effective >= LEAST_EFFECTIVE:
            _judge(cell, fitted, pooled, tilts, found)
    return found


def _judge(cell: Cell, fitted: Fitted, pooled: Pooled, tilts: Array, found: Counter[str]) -> None:
    interval = effective_tilt(fitted, pooled)
    like = interval.scope == PROMPTS_LIKE
    true = mean_tilt(cell) if like else own_mean(cell, tilts)
    found["concludes"] += 1
    found["like"] += like
    found["holds"] += interval.low <= true <= interval.high
    information = pooled.sums(fitted.fit.weight * fitted.fit.slope[:, 0] ** 2) * pooled.spread**2
    variance = float((information + cell.differ**2 * information**2).sum())
    error = math.sqrt(variance) / float(information.sum())
    found["width"] += round(1e6 * (interval.high - interval.low))
    found["efficient"] += round(1e6 * 2 * float(norm.ppf(0.5 + CONFIDENCE / 2)) * error)
    # KL through f = a r: a E[a_g] - a^2/2, a the estimand, the mean over tuned samples.
    bound = kl_bound(fitted.fit.log_ratio, pooled)
    mean = cell.tilt if like else float(np.average(tilts, weights=cell.sizes[1]))
    kl = true * mean - true**2 / 2
    if bound is not None and interval.low * interval.high > 0:
        found["kl"] += 1
        found["kl holds"] += bound.low <= kl <= bound.high
    most = kl_at_most(interval, pooled)
    if most is not None and interval.low * interval.high <= 0:
        found["small"] += 1
        found["small holds"] += kl <= most
