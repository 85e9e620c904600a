r"""What the released code does to a law over its epochs: a forecast of the tilt.

One number carries the law: the old copy's tilt B, in units of 1/reward. Every epoch

    lam = (2/nft_beta) (1 - 1/n) kept / (2 c (S + 1e-4)),    S = S(B) of the old copy's own samples,

is the step that the student sees (theory.released.mapping; c the clip of the advantage, 5, `kept`
what it leaves of the slope), the penalty leaves omega(t) of its way
from the reference (theory.released.penalty, so that the tilt depends on time and the law gets its
average by d sin(phi)), and the old copy follows with 1 - d (theory.released.schedule):

    T(t) <- T(t) + reach (omega(t) (B(t) + lam) - T(t)),    B(t) <- d B(t) + (1 - d) T(t).

What it assumes: exact optima (or `reach` of the way), small steps (an epoch tilts by exp(lam R) to
first order: rows L8, Z5), Gaussian data where the tilt depends on time (row N3), and a normaliser
that is one number for both branches, as in high dimension. `theory.released.exact` carries the law
itself where d = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from theory.common.checks import check_dim, check_order, check_positive, is_finite_number
from theory.methods.matching.reward_mapping import CLIP, STD_FLOOR
from theory.problems.problem import Problem
from theory.recursion import Trajectory
from theory.released.exact import Epoch, carry_so_far
from theory.released.penalty import Penalty, law_weights
from theory.released.schedule import Schedule
from theory.released.sources import Array, Rewards, SampledRewards, Tilted

MOST_EXACT = 400  # epochs
EXACT_NODES = 512
AHEAD, LEAST_REACH = 1.3, 1e-3  # the law's tilt may run ahead of the forecast's
FOLDS = 8
CONSTANT = 1e-12  # std of rewards that differ by rounding, relative to their size
SCAN = 32  # tilts at which a limit is looked for
MUCH = 1e3  # times the limit at the base's spread
FAR = 1e9  # times the first step: no limit is looked for beyond


@dataclass(frozen=True)
class Settings:
    """nft_beta, kl_weight, the normaliser, the old copy's schedule; group: rows n of a prompt;
    steps: optimiser steps an epoch; reach: how far the student gets in an epoch, of 1;
    adv_clip_max: the clip c of the advantage, which is the loss's factor c/nft_beta too.

    Raises:
        ValueError: any of them out of range (the message names it).
    """

    nft_beta: float
    schedule: Schedule
    kl_weight: float = 1e-4
    normaliser: str = "x1"
    group: int = 24
    steps: int = 1
    reach: float = 1.0
    data_std: float = 1.0
    adv_clip_max: float = CLIP

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        check_positive("adv_clip_max", self.adv_clip_max)
        check_order("group", self.group, 2)
        check_order("steps", self.steps, 1)
        if not (is_finite_number(self.reach) and 0 < self.reach <= 1):
            raise ValueError(f"reach must be a number in (0, 1], got {self.reach!r}")
        self.penalty  # noqa: B018  (refuses kl_weight, normaliser and data_std)

    @property
    def penalty(self) -> Penalty:
        # Its loss has the factor 5/nft_beta: another factor is another weight.
        weight = self.kl_weight * CLIP / self.adv_clip_max if self.kl_weight else self.kl_weight
        return Penalty(self.nft_beta, weight, self.normaliser, self.data_std)

    def step(self, std: float, clip: float | None = None) -> float:
        """lam, in units of 1/reward, for a batch whose rewards have this standard deviation."""
        kept = (1 - 1 / self.group) * (1.0 if clip is None else clip)
        return kept / (self.nft_beta * self.adv_clip_max * (std + STD_FLOOR))

    def mean_limit(self) -> float:
        """int eta_0(t) d sin(phi) / (2/nft_beta): the limit of the tilt over one step of it."""
        t, weight = law_weights(self.data_std)
        return float(weight @ self.penalty.eta_0(t)) * self.nft_beta / 2


@dataclass(frozen=True)
class Row:
    """After an epoch: the tilt B, full updates so far, and the rewards under exp(B R)."""

    epoch: int
    tilt: float
    updates: float
    rewards: Tilted


@dataclass(frozen=True)
class Forecast:
    """rows: one an epoch from 0, as far as they may be used; stopped: why no further, or "".

    first_order: the tilt after all epochs if the rewards kept the base's spread; limit_at_base: its
    limit then (None: grows for ever); limit: the limit with the spread that the tilt leaves
    (None: none was found up to `searched`).
    """

    settings: Settings
    epochs: int
    rows: tuple[Row, ...]
    stopped: str
    first_order: float
    limit_at_base: float | None
    limit: float | None
    searched: float

    @property
    def last(self) -> Row:
        return self.rows[-1]

    def gain(self, row: Row) -> float:
        """(E R - E_0 R)/S_0."""
        first = self.rows[0].rewards
        return (row.rewards.mean - first.mean) / first.std


def forecast(settings: Settings, rewards: Rewards, epochs: int) -> Forecast:
    """The tilt epoch by epoch, with rewards whose spread follows.

    Raises:
        ValueError: epochs below 1, rewards that are constant, or too few to say anything.
    """
    check_order("epochs", epochs, 1)
    base = rewards.at(0.0)
    if base.within <= CONSTANT * max(abs(base.mean), base.std):
        raise ValueError(
            "rewards are constant within every prompt: must be rewards that differ (their "
            "advantages are all 0, and nothing is learned)"
        )
    if base.doubt:
        raise ValueError(f"rewards: {base.doubt}; need more samples")
    decays = settings.schedule.decays(epochs, settings.steps)
    rows, stopped = _rows(settings, rewards, decays)
    *_, straight = _tilts(settings, rows, decays, follow=False)
    limit, searched = _limit(settings, rewards, base)
    return Forecast(
        settings,
        epochs,
        tuple(rows),
        stopped,
        straight,
        settings.step(base.std, base.clip) * settings.mean_limit() if settings.kl_weight else None,
        limit,
        searched,
    )


def _rows(
    settings: Settings, rewards: Rewards, decays: Array, heed: bool = True
) -> tuple[list[Row], str]:
    """The rows from epoch 0, and why they end early; heed: end where the rewards are in doubt."""
    rows, stopped = [Row(0, 0.0, 0.0, rewards.at(0.0))], ""
    for epoch, (tilt, d) in enumerate(zip(_tilts(settings, rows, decays), decays, strict=True), 1):
        try:
            here = rewards.at(tilt)
        except ValueError as error:
            stopped = f"epoch {epoch}: the tilt {tilt:.4g} cannot be formed: {error}"
            break
        if heed and here.doubt:
            stopped = f"epoch {epoch}: {here.doubt}"
            break
        rows.append(Row(epoch, tilt, rows[-1].updates + 1 - float(d), here))
    return rows, stopped


def sampling_error(
    settings: Settings, rewards: SampledRewards, found: Forecast
) -> tuple[float, float]:
    """Standard errors (tilt, E R) of the forecast's last row, from leaving out one of FOLDS parts
    of every prompt's samples (jackknife); nan where a part's forecast does not get there."""
    decays = settings.schedule.decays(found.last.epoch, settings.steps)
    ends = []
    for part in rewards.without_parts(FOLDS):
        rows, _ = _rows(settings, part, decays, heed=False)
        if len(rows) != len(decays) + 1:
            return math.nan, math.nan
        ends.append((rows[-1].tilt, rows[-1].rewards.mean))
    gaps = np.array(ends) - np.mean(ends, axis=0)
    tilt, mean = np.sqrt((FOLDS - 1) / FOLDS * (gaps**2).sum(axis=0))
    return float(tilt), float(mean)


def _tilts(
    settings: Settings, rows: list[Row], decays: Array, follow: bool = True
) -> Iterator[float]:
    """The law's tilt after every epoch; the step from the last of `rows`, which the caller extends
    (follow False: from the first one always)."""
    t, weight = law_weights(settings.data_std)
    share = settings.penalty.share(t)
    old, student = np.zeros(len(t)), np.zeros(len(t))
    for d in decays:
        now = rows[-1 if follow else 0].rewards
        lam = settings.step(now.std, now.clip)
        student = student + settings.reach * (share * (old + lam) - student)
        old = d * old + (1 - d) * student
        yield float(weight @ old)


def _limit(settings: Settings, rewards: Rewards, base: Tilted) -> tuple[float | None, float]:
    """(the smallest fixed point of the tilt, None: none found, tilts that were looked at up to)."""
    if not settings.kl_weight:
        return None, math.inf
    scale = settings.mean_limit()
    start = settings.step(base.std, base.clip)

    def gap(tilt: float) -> float | None:
        """lam(B) scale - B; None where the rewards say nothing."""
        try:
            here = rewards.at(tilt)
        except ValueError:
            return None
        return None if here.doubt else settings.step(here.std, here.clip) * scale - tilt

    before = 0.0
    for tilt in np.geomspace(
        min(start, start * scale) / 10, min(FAR * start, MUCH * start * scale), SCAN
    ):
        value = gap(float(tilt))
        if value is None:
            return None, before
        if value <= 0:
            return float(brentq(lambda b: gap(b) or 0.0, before, float(tilt))), float(tilt)
        before = float(tilt)
    return None, before


# --- the exact recursion


@dataclass(frozen=True)
class Exact:
    """The law itself after `epoch` epochs: E R, the std of R, the slope of log(q/p) on R under q,
    the share of its variance that the slope explains, the standard deviation of the law.

    error: of the forecast's E R, in base standard deviations of the reward; stopped: why the grid
    holds no more epochs, or "".
    """

    epoch: int
    mean: float
    std: float
    tilt: float
    explained: float
    spread: float
    error: float
    stopped: str


def exact(settings: Settings, problem: Problem, found: Forecast) -> Exact:
    """The released epochs on a grid, as far as forecast and grid go; lam from the law's own std of
    R, the clip's share from the forecast.

    Raises:
        ValueError: d > 1, or a law that no grid holds for one epoch.
    """
    check_dim("problem", problem.dim)
    decays = settings.schedule.decays(found.epochs, settings.steps)

    def plan(epoch: int, mean: float, std: float) -> Epoch:
        lam = settings.step(std, found.rows[epoch - 1].rewards.clip)
        return Epoch(lam, float(decays[epoch - 1]), settings.penalty, settings.reach)

    epochs, reason = min(found.last.epoch, MOST_EXACT), ""
    while epochs >= 1:
        # Axes for fewer epochs are narrower, and their nodes closer.
        reach = AHEAD * max(found.rows[epochs].tilt, LEAST_REACH)
        try:
            run, error = carry_so_far(problem, plan, epochs, reach, grid=EXACT_NODES)
        except ValueError as too_wide:
            reason, epochs = str(too_wide), epochs // 2
            continue
        if len(run) > 1:
            return _exact_of(run, found, reason or str(error or ""))
        reason, epochs = str(error), epochs // 2
    raise ValueError(f"no epoch of the exact recursion fits a grid: {reason}")


def _exact_of(run: Trajectory, found: Forecast, stopped: str) -> Exact:
    last, epoch = run.summary()[-1], len(run) - 1
    std = math.sqrt(max(run.mean(-1, run.rewards**2) - last["reward"] ** 2, 0.0))
    error = (found.rows[epoch].rewards.mean - last["reward"]) / found.rows[0].rewards.std
    return Exact(
        epoch,
        last["reward"],
        std,
        last["tilt"],
        last["tilt_explained"],
        last["std"],
        error,
        stopped,
    )
