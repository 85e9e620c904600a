"""zhu, Z10 in d = 2 and 5: what a guided sampler's law is, at points and by draws.

The bases of three named problems are p(x), their first two Gaussians the class. The second routes
are those of `planes`: sums over a grid in the plane, and in full rank paths of theory's field.
"""

from __future__ import annotations

import numpy as np
import torch

from theory import FlowLaw, GaussianSum, GuidedField, MixtureField, load_problem
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import DRAW_ATOL, DRAW_RTOL, Array, Context, Estimate, Finding, Tally, extra
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle import flow
from theory.ledger.zhu.planes.planes import (
    FULL_RANK,
    POINTS,
    SHARE,
    Plane,
    along_paths,
    plain_field,
)

GUIDED = ("linear_2d", "plane_5d", "full_5d")  # three Gaussians each
CLASS = 2
WEIGHT = 1.5


def guided_field(name: str) -> GuidedField:
    """The problem's base sampled with guidance towards its first two Gaussians."""
    whole = load_problem(name).base
    one = GaussianSum(
        whole.log_abs[:CLASS], whole.sign[:CLASS], whole.mean[:CLASS], whole.cov[:CLASS]
    )
    return GuidedField(MixtureField(one.normalised()), MixtureField(whole), WEIGHT)


@extra
def guided_formula_at_points(context: Context) -> Finding:
    """The guided sampler's law: the product times what the path integral takes away."""
    w = WEIGHT
    factors = {"": w * (1 + w), "w for w (1 + w)": w, "w² for w (1 + w)": w**2, "the product": 0.0}
    tally = Tally(QUADRATURE, *list(factors)[1:])
    for name in GUIDED:
        theirs = guided_field(name)
        points = theirs.conditional.law.sample(POINTS, torch.Generator().manual_seed(3))
        ours = FlowLaw(theirs).log_density(points).numpy()
        terms = _guided_full_rank if name == FULL_RANK else _guided_in_plane
        product, energy = terms(name, theirs, points)
        for label, factor in factors.items():
            tally.compare(ours, product - factor * energy, 1.0, name, label)
    return tally.finding(
        "guided law = p(x|c)^(1+w) p(x)^-w exp(-w (1+w) int eta |grad h|² dt), d = 2 and 5",
        "instead",
        f"error {tally} at {POINTS} points of "
        + ", ".join(tally.errors)
        + " (the last along theory's field)",
        {"errors": tally.errors},
    )


def _guided_in_plane(name: str, theirs: GuidedField, points: torch.Tensor) -> tuple[Array, Array]:
    """(log of the product, int eta |grad h|^2 dt) by sums over a grid in the plane."""
    plane = Plane.of(load_problem(name))
    laws = (plane.first(CLASS).numbers, plane.numbers)
    one, whole = (flow.PlaneField(law) for law in laws)
    at, rest = plane.split(points.numpy())
    log_one, log_whole = (law.log_density(at) + rest for law in laws)
    return log_one + WEIGHT * (log_one - log_whole), _guided_energy(one, whole, at)


def _guided_full_rank(name: str, theirs: GuidedField, points: torch.Tensor) -> tuple[Array, Array]:
    """The same along paths of theory's fields; densities by hand."""
    whole = Plane(plain_numbers(load_problem(name)))
    x = points.numpy()
    log_one, log_whole = (law.numbers.log_density(x) for law in (whole.first(CLASS), whole))
    one, other = plain_field(theirs.conditional), plain_field(theirs.unconditional)
    return log_one + WEIGHT * (log_one - log_whole), _guided_energy(one, other, x)


def _guided_energy(one: flow.Field, whole: flow.Field, x: Array) -> Array:
    def motion(y: Array, t: float) -> tuple[Array, Array]:
        velocity = one(y, t)
        gap = velocity - whole(y, t)  # eta grad h
        return velocity + WEIGHT * gap, flow.over_eta(gap, t)

    return along_paths(motion, x)


@extra
def guided_law_is_no_product(context: Context) -> Finding:
    """TV of the guided law q to the product u p(x|c) / Z, u = (p(x|c) / p(x))^w: the mean over
    draws of p(x|c) of what u / Z has more than q / p(x|c). u is bounded, Z its mean."""
    n = context.profile.draws // SHARE
    tv: dict[str, Estimate] = {}
    for name in GUIDED:
        field = guided_field(name)
        one, whole = field.conditional.law, field.unconditional.law
        x = one.sample(n, torch.Generator().manual_seed(5))
        log_one = one.log_density(x)
        u = (WEIGHT * (log_one - whole.log_density(x))).exp().numpy()
        law = FlowLaw(field, rtol=DRAW_RTOL, atol=DRAW_ATOL, method="dopri5")
        share = (law.log_density(x) - log_one).exp().numpy()
        z = u.mean()
        more = np.maximum(u / z - share, 0.0)
        slope = -(u / z**2 * (more > 0)).mean()  # what Z's own noise does
        tv[name] = Estimate.of(more + slope * (u - z))
    least = min(tv, key=lambda k: tv[k].value - tv[k].half)
    return Finding(
        name="the guided law against p(x|c)^(1+w) p(x)^-w, d = 2 and 5",
        role="support",
        kind="statistical",
        holds=tv[least].value > 2 * tv[least].half,
        figure="TV "
        + ", ".join(f"{e} ({k})" for k, e in tv.items())
        + f" at w = {WEIGHT:g}, by {n} draws, intervals of 99 %",
        numbers={"tv": {k: [e.value, e.half] for k, e in tv.items()}, "draws": n},
    )


Z10_PLANES = (guided_formula_at_points, guided_law_is_no_product)
