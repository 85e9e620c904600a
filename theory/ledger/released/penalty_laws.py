"""released, N3: laws under the penalty by two routes, and rewards divided by their own spread."""

from __future__ import annotations

import numpy as np

from theory.common.tolerances import QUADRATURE
from theory.ledger.core import Context, Finding, extra, number
from theory.ledger.liu.laws import last_laws_apart, plain_numbers
from theory.ledger.oracle.released import training as oracle
from theory.methods.matching.reward_mapping import SPREAD, STD_FLOOR
from theory.problems.problem import load_problem
from theory.released.exact import Epoch, carry_epochs
from theory.released.penalty import Penalty, law_tilt, law_weights


def recipe_gap(epochs: int, weight: float, wrong: float | None = None) -> float:
    """Largest difference of densities over the peak: mapped rewards, penalty and averages carried
    on a grid by `theory.released.exact` (with the penalty `wrong`, if given) and by the oracle."""
    problem, beta, decays = load_problem("note_1d"), 0.5, (0.0, 0.3, 0.5)[:epochs]
    penalty = Penalty(beta, weight if wrong is None else wrong)

    def plan(epoch: int, mean: float, std: float) -> Epoch:
        return Epoch(2 / beta / (SPREAD * (std + STD_FLOOR)), decays[epoch - 1], penalty)

    run = carry_epochs(problem, plan, epochs, 1.0 * epochs)
    rule = oracle.Epochs(beta, weight, mapped=True)
    theirs = oracle.released_laws(plain_numbers(problem), [rule] * epochs, decays)[-1]
    return last_laws_apart(run, theirs)


@extra
def recipe_by_two_routes(context: Context) -> Finding:
    """Epochs of the whole course, as the old copy's own field carries them."""
    error, wrong = recipe_gap(2, 0.3), recipe_gap(2, 0.3, 0.6)
    return Finding(
        name="laws of two epochs with mapping, penalty and averages by two routes",
        role="support",
        kind="exact",
        holds=error <= QUADRATURE.rtol,
        figure=f"densities within {number(error)} of the peak",
        numbers={"error": error},
        mutants={"twice the kl_weight": wrong > QUADRATURE.rtol},
    )


def bowl_limit(penalty: Penalty, dim: int) -> float:
    """Limit of the tilt by B R, R = -|x|^2/2 under N(0, I): std(R) = sqrt(d/2)/(1 + B), so that
    B = g (1 + B), g = G/sqrt(d/2) with G the mean limit per std; infinite for g >= 1."""
    g = law_tilt(penalty.limit_per_std) / np.sqrt(dim / 2)
    return float(g / (1 - g)) if g < 1 else np.inf


def bowl_iterated(penalty: Penalty, dim: int, epochs: int) -> float:
    """The recursion itself, with E[R^j] of the tilted Gaussian by Gauss-Legendre in the radius."""
    t, weight = law_weights()
    share, tilts = penalty.share(t), np.zeros(len(t))
    x, w = np.polynomial.legendre.leggauss(300)
    for _ in range(epochs):
        precision = 1 + float(weight @ tilts)
        radius = (4 + np.sqrt(dim)) / np.sqrt(precision) * (1 + x)
        p = w * radius ** (dim - 1) * np.exp(-0.5 * precision * radius**2)
        r, p = -0.5 * radius**2, p / p.sum()
        std = float(np.sqrt(p @ (r - p @ r) ** 2))
        tilts = share * (tilts + penalty.eta_1 / (SPREAD * std))
    return float(weight @ tilts)


@extra
def runs_away(context: Context) -> Finding:
    """Mapped rewards over an isolated maximum: whether the penalty ends the growth at all."""
    dim, unit = 3, law_tilt(Penalty(1.0, 1.0).limit_per_std)
    edge = unit / np.sqrt(dim / 2)
    strong, weak = Penalty(0.1, edge / 0.6), Penalty(0.1, edge / 1.5)
    limit = bowl_limit(strong, dim)
    error = abs(bowl_iterated(strong, dim, 400) / limit - 1)
    grown = bowl_iterated(weak, dim, 400)
    blind = abs(edge / strong.kl_weight / limit - 1)
    directions = 2 * (unit / 1e-4) ** 2
    return Finding(
        name=(
            "R divided by its own std, a maximum in d' directions: a limit only for large kl_weight"
        ),
        role="instead",
        kind="exact",
        holds=bool(
            error <= QUADRATURE.rtol and np.isinf(bowl_limit(weak, dim)) and grown > 100 * limit
        ),
        figure=f"finite for kl_weight > {number(unit)} sqrt(2/d') (data std 1): the recursion ends "
        f"{number(error)} from g/(1 - g) in d' = 3; kl_weight = 1e-4 ends it for d' > "
        f"{number(directions)}",
        numbers={"error": error, "edge": float(unit), "directions": directions, "grown": grown},
        mutants={"the spread stays": bool(blind > QUADRATURE.rtol)},
    )
