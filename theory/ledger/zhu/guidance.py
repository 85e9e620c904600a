"""zhu, Z10: references sampled with guidance, and what an anchor pulls towards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from theory import (
    FlowLaw,
    GaussianSum,
    GridLaw,
    GuidedField,
    MixtureField,
    Problem,
    TwoKL,
    bump_reward,
    carry,
)
from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.core import (
    ATOL,
    LINE,
    RTOL,
    Array,
    Context,
    Finding,
    Region,
    Tally,
    column,
    extra,
    number,
    total_variation,
)
from theory.ledger.oracle import flow
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.zhu.laws import SPOTS
from theory.ledger.zhu.planes.guided import WEIGHT, Z10_PLANES


@dataclass(frozen=True)
class Classes:
    """p(x|c) and p(x) on the line: the class is two of three Gaussians of the whole."""

    weights: tuple[float, ...] = (0.35, 0.25, 0.4)
    means: tuple[float, ...] = (-0.6, 1.3, 2.6)
    stds: tuple[float, ...] = (0.7, 0.5, 0.9)
    members: tuple[int, ...] = (0, 1)

    def law(self, conditional: bool) -> GaussianSum:
        """p(x|c), or p(x)."""
        chosen = self.members if conditional else tuple(range(len(self.weights)))
        w = np.array([self.weights[i] for i in chosen])
        return GaussianSum.mixture(
            (w / w.sum()).tolist(),
            [[self.means[i]] for i in chosen],
            stds=[self.stds[i] for i in chosen],
        )

    def field(self, weight: float) -> GuidedField:
        """The guided velocity."""
        return GuidedField(MixtureField(self.law(True)), MixtureField(self.law(False)), weight)

    def plain(self, conditional: bool) -> PlaneNumbers:
        law = self.law(conditional)
        return PlaneNumbers(
            law.log_abs.exp().numpy(),
            law.mean.numpy(),
            law.cov.numpy(),
            "linear",
            {"vector": np.array([1.0]), "constant": np.array(0.0)},
            1.0,
            np.eye(1),
        )


# Tails: p(x) must not be lighter than p(x|c), or the product has no normaliser.
MIXED = Classes()
ALIKE = Classes((0.6, 0.4), (-0.5, -0.5), (0.8, 0.8), (0,))


def product_density(classes: Classes, weight: float, axis: Array = LINE) -> Array:
    """p(x|c)^(1+w) p(x)^-w, normalised on the grid."""
    points = column(axis)
    log_c = classes.law(True).log_density(points).numpy()
    values = np.exp((1 + weight) * log_c - weight * classes.law(False).log_density(points).numpy())
    return np.asarray(values / np.trapezoid(values, axis))


def guided_densities(classes: Classes, weights: Sequence[float], axis: Array = LINE) -> Array:
    """The densities of what the guided fields sample, (m, n): one ODE for all weights."""
    count = len(weights)
    one, whole = (MixtureField(classes.law(c).expanded((count,))) for c in (True, False))
    field = GuidedField(one, whole, torch.tensor(weights, dtype=torch.float64))
    points = column(axis).expand(count, len(axis), 1)
    return FlowLaw(field, rtol=1e-9, atol=1e-11).log_density(points).exp().numpy()


CENTRE, WIDTH = 2.0, 0.8  # of the reward's bump
REFERENCES = {"plain": 0.0, "guided": WEIGHT}
NODES = 400  # the guided limits are narrower than the default grid resolves
STARTS = np.linspace(-8.0, 8.0, 321)  # coarser ones cost the tight tier
WAVES = np.array([0.5, 1.0, 2.0, 4.0])


def guided_lines(classes: Classes, weight: float) -> flow.Field:
    """The guided velocity by sums over a grid."""
    one, other = (flow.LineField(classes.plain(c)) for c in (True, False))

    def guided(x: Array, t: float) -> Array:
        a = one(x, t)
        return a + weight * (a - other(x, t)) if weight else a

    return guided


def _moments(y: Array, weights: Array) -> Array:
    """E of cos(k y) and sin(k y) for the waves k, of y, and of r under weights at y, (10,)."""
    phases = WAVES[:, None] * y
    rows = np.concatenate([np.cos(phases), np.sin(phases), y[None], _bump(y)[None]])
    return np.asarray(rows @ weights / weights.sum())


def _bump(y: Array) -> Array:
    return np.exp(-0.5 * ((y - CENTRE) / WIDTH) ** 2)


def carried_limit(eta_0: float, eta_1: float, weight: float) -> GridLaw:
    """Where the anchored recursion ends that starts from p(x|c) and is pulled to its guided law:
    carried out until what is left of the start is 1e-12."""
    problem = Problem("class", MIXED.law(True), bump_reward(1.0, [CENTRE], width=WIDTH))
    rule = TwoKL(eta_0, eta_1, MIXED.field(weight) if weight else None)
    epochs = math.ceil(math.log(1e-12) / math.log(rule.rate))
    return carry(problem, rule, epochs, grid=NODES).laws[-1]


def anchored_limits(context: Context) -> Finding:
    """The recursion carried out with both references, against p_ref exp(eta_0 r)/Z: expectations
    under the law on the grid, and over X_0 pushed through sums over a grid, weighed by r."""
    eta_1 = 1.0
    pushed = {
        name: flow.push(guided_lines(MIXED, weight), STARTS) for name, weight in REFERENCES.items()
    }
    normal = np.exp(-0.5 * STARTS**2)
    wrong = ("the other reference's limit", "one epoch's tilt", "eta_0 + eta_1 for eta_0")
    tally, rows, apart = Tally(QUADRATURE_TIGHT, *wrong), {}, {}
    for eta_0 in context.choose((4.0,), (0.5, 4.0)):
        limits = {n: carried_limit(eta_0, eta_1, w) for n, w in REFERENCES.items()}
        for name, law in limits.items():
            y = law.axes[0]
            ours = _moments(y, law.density)
            here = pushed[name]
            other = pushed["plain" if name == "guided" else "guided"]
            tally.compare(ours, _moments(here, normal * np.exp(eta_0 * _bump(here))), 1.0, name)
            lam = eta_0 * eta_1 / (eta_0 + eta_1)
            others = (
                _moments(other, normal * np.exp(eta_0 * _bump(other))),
                _moments(here, normal * np.exp(lam * _bump(here))),
                _moments(here, normal * np.exp((eta_0 + eta_1) * _bump(here))),
            )
            for label, values in zip(wrong, others, strict=True):
                tally.compare(ours, values, 1.0, wrong=label)
            std = math.sqrt(float(law.density @ (y - ours[-2]) ** 2 / law.density.sum()))
            rows[f"{name}, eta_0 = {eta_0:g}"] = {"reward": float(ours[-1]), "std": std}
        apart[f"{eta_0:g}"] = _distance(*limits.values())
    text = "; ".join(f"{k}: reward {v['reward']:.3f}, std {v['std']:.3f}" for k, v in rows.items())
    return Finding(
        name="limit of the anchored recursion = p_ref exp(eta_0 r)/Z, both references",
        role="claim",
        kind="exact",
        holds=tally.error <= QUADRATURE_TIGHT.rtol
        and min(apart.values()) > 100 * QUADRATURE_TIGHT.rtol,
        figure=(f"expectations within {tally}, d = 1; the two limits lie TV ")
        + ", ".join(f"{number(v)} (eta_0 = {k})" for k, v in apart.items())
        + f" apart; {text}",
        numbers={"error": tally.error, "tv_between_limits": apart, "limits": rows},
        mutants=tally.mutants,
    )


def _distance(one: GridLaw, two: GridLaw) -> float:
    """TV of two laws on grids of their own."""
    p, q = (np.interp(LINE, law.axes[0], law.density, 0.0, 0.0) for law in (one, two))
    return total_variation(p, q)


@extra
def guided_law_formula(context: Context) -> Finding:
    """The guided sampler's law: the product times what the path integral takes away."""
    one, other = (flow.LineField(MIXED.plain(c)) for c in (True, False))

    def rate(x: Array, t: float) -> Array:
        """eta |grad h|^2 = (v_c - v_u)^2 / eta."""
        return (one(x, t) - other(x, t)) ** 2 * t / max(1 - t, 1e-300)

    x0, energy = flow.path_integral(guided_lines(MIXED, WEIGHT), SPOTS, rate)
    ours_law = FlowLaw(MIXED.field(WEIGHT))
    ours = ours_law.log_density(column(SPOTS)).numpy()
    cdf = ours_law.cdf(column(SPOTS)).numpy()
    theirs_cdf = torch.special.ndtr(torch.as_tensor(x0)).numpy()
    c, u = (MIXED.plain(k).log_density(SPOTS[:, None]) for k in (True, False))
    stated = (1 + WEIGHT) * c - WEIGHT * u - WEIGHT * (1 + WEIGHT) * energy
    error = max(QUADRATURE.error(ours, stated, 1.0), QUADRATURE.error(cdf, theirs_cdf, 1.0))
    wrong = QUADRATURE.error(ours, (1 + WEIGHT) * c - WEIGHT * u - WEIGHT * energy, 1.0)
    return Finding(
        name="guided law = p(x|c)^(1+w) p(x)^-w exp(-w (1+w) int eta |grad h|² dt)",
        role="instead",
        kind="exact",
        holds=error <= QUADRATURE.rtol,
        figure=f"error {number(error)} (quadrature {QUADRATURE.rtol:g}), d = 1",
        numbers={"error": error},
        mutants={"w for w (1 + w)": wrong > QUADRATURE.rtol},
    )


@extra
def guided_law_is_no_product(context: Context) -> Finding:
    """TV of the guided law to the product; zero for Gaussians of one covariance."""
    weights = context.choose((4.0,), (0.5, 1.5, 4.0))
    tv = {
        f"{w:g}": total_variation(density, product_density(MIXED, w))
        for w, density in zip(weights, guided_densities(MIXED, weights), strict=True)
    }
    one = MixtureField(Classes((0.6, 0.4), (-0.5, 0.7), (0.8, 0.8), (0,)).law(True))
    other = MixtureField(GaussianSum.mixture([1.0], [[0.7]], stds=[0.8]))
    law = FlowLaw(GuidedField(one, other, 1.5)).log_density(column(SPOTS)).exp().numpy()
    stated = GaussianSum.mixture([1.0], [[-0.5 - 1.5 * 1.2]], stds=[0.8]).density(column(SPOTS))
    alike = QUADRATURE.error(law, stated.numpy(), 1.0)
    return Finding(
        name="the guided law against p(x|c)^(1+w) p(x)^-w",
        role="support",
        kind="exact",
        holds=min(tv.values()) > 100 * QUADRATURE.rtol and alike <= QUADRATURE.rtol,
        figure="TV "
        + ", ".join(f"{number(v)} (w = {k})" for k, v in tv.items())
        + f", d = 1; Gaussians of one covariance: within {number(alike)}",
        numbers={"tv": tv, "one_covariance": alike},
        worst=f"w = 4: TV {number(tv['4'])}",
    )


Z10_PARTS = (anchored_limits, guided_law_formula, guided_law_is_no_product, *Z10_PLANES)


def guidance_region(cells: int) -> Region:
    """TV of the guided law to the product over w and the distance of the other class."""
    weights, gaps = np.linspace(0.1, 4.0, cells), np.linspace(0.2, 3.0, cells)
    pairs = [(w, g) for w in weights for g in gaps]
    axis = np.linspace(-9.0, 9.0, 361)
    count = len(pairs)
    one = GaussianSum.mixture(
        torch.ones(count, 1, dtype=torch.float64),
        torch.zeros(count, 1, 1, dtype=torch.float64),
        stds=torch.full((count, 1), 0.7, dtype=torch.float64),
    )
    whole = GaussianSum.mixture(
        torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(count, 2),
        torch.tensor([[[0.0], [g]] for _, g in pairs], dtype=torch.float64),
        stds=torch.full((count, 2), 0.7, dtype=torch.float64),
    )
    w = torch.tensor([w for w, _ in pairs], dtype=torch.float64)
    points = column(axis).expand(count, len(axis), 1)
    field = GuidedField(MixtureField(one), MixtureField(whole), w)
    p = FlowLaw(field, rtol=RTOL, atol=ATOL, method="dopri5").log_density(points).exp().numpy()
    log_q = (1 + w[:, None]) * one.log_density(points) - w[:, None] * whole.log_density(points)
    q = log_q.exp().numpy()
    q = q / np.trapezoid(q, axis, axis=1)[:, None]
    return Region(
        "guided law against p(x|c)^(1+w) p(x)^-w",
        "guidance weight w",
        weights,
        "distance of the other class / 0.7",
        gaps / 0.7,
        (0.5 * np.trapezoid(np.abs(p - q), axis, axis=1)).reshape(cells, cells),
        "TV",
    )
