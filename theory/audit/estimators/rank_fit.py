r"""Goodness of fit of wrappers of ranks, where F_g itself is estimated.

F_g comes from the base's own rows: its error is shared by all rows of a prompt and does not fall
behind as samples grow, so neither the chi^2 of curve.py nor the likeliest parameter is right as it
stands. But ranks do not know the rewards' law: the statistic's law depends on the parameter and on
the numbers of rows alone. So it is drawn: base ranks uniform, tuned ones from the fitted law, and
fitted anew each time (a parametric bootstrap, Efron 1979), on at most MOST rows, which leaves the
limit law as it is. The parameter is less the bias that the draws show.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from theory.audit.data.samples import Pooled
from theory.audit.estimators.curve import Goodness, goodness, rank_basis
from theory.audit.families.family import Fitted
from theory.audit.families.ranks import LEAST_FOR_RANKS, Ranked
from theory.audit.fit.likelihood import NoFitError

DRAWS = 99
MOST = 3000  # rows


def rank_goodness(family: Ranked, fitted: Fitted, pooled: Pooled) -> tuple[Goodness, Fitted]:
    """(the smooth test within prompts, its p-value by draws; the fit with its parameter's bias
    taken off)."""
    found = goodness(fitted.fit, pooled, rank_basis(pooled))
    design, rng = _design(pooled), np.random.default_rng(0)
    statistics, values = [], []
    (name,) = fitted.parameters
    for _ in range(DRAWS):
        u = rng.random(len(design))
        tuned = design.label == 1
        u[tuned] = family.inverse(u[tuned], fitted.parameters)
        drawn = Pooled.sorted(u, design.label, design.prompt)
        try:
            again = family.fit(drawn)
        except NoFitError:
            continue
        statistics.append(goodness(again.fit, drawn, rank_basis(drawn)).statistic)
        values.append(again.parameters[name])
    if not values:
        raise NoFitError("draws of the fitted law have no fit")
    p_value = (1 + sum(s >= found.statistic for s in statistics)) / (1 + len(statistics))
    # The bias goes as one over the rows; the design may have fewer.
    bias = (np.mean(values) - fitted.parameters[name]) * len(design) / len(pooled)
    parameters = {name: fitted.parameters[name] - float(bias)}
    mended = replace(fitted, parameters=parameters, label=family.label(parameters))
    return replace(found, p_value=float(p_value)), mended


def _design(pooled: Pooled) -> Pooled:
    """Prompts with their numbers of rows, about MOST rows in all, base and tuned as they are to
    each other."""
    step = max(1, int(np.ceil(len(pooled) / MOST)))
    kept = np.unique(np.linspace(0, pooled.count - 1, max(1, pooled.count // step)).astype(int))
    sizes: list[tuple[int, int]] = []
    for g in kept:
        n0, n1 = int(pooled.n0[g]), int(pooled.n1[g])
        share = min(1.0, max(MOST / len(kept) / (n0 + n1), LEAST_FOR_RANKS / n0))
        sizes.append((max(round(n0 * share), LEAST_FOR_RANKS), max(round(n1 * share), 2)))
    label = np.concatenate([np.repeat([0.0, 1.0], pair) for pair in sizes])
    prompt = np.repeat(np.arange(len(sizes)), [sum(pair) for pair in sizes])
    return Pooled.sorted(np.zeros(len(label)), label, prompt)
