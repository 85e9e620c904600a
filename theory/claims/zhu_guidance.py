"""zhu, Z10: references sampled with guidance, and what an anchor pulls towards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from theory.claims.ledger import Context, Finding, extra, number
from theory.claims.region import Region
from theory.claims.zhu_laws import LINE, SPOTS, column, total_variation
from theory.fields import MixtureField
from theory.gaussians import GaussianSum
from theory.guidance import GuidedField
from theory.oracle import flow
from theory.oracle.integrate import Array
from theory.oracle.plane import PlaneNumbers
from theory.recursion import TwoKL
from theory.tolerances import QUADRATURE
from theory.transport import FlowLaw


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
            (w / w.sum()).tolist(), [[self.means[i]] for i in chosen],
            stds=[self.stds[i] for i in chosen],
        )  # fmt: skip

    def field(self, weight: float) -> GuidedField:
        """The guided velocity."""
        return GuidedField(MixtureField(self.law(True)), MixtureField(self.law(False)), weight)

    def plain(self, conditional: bool) -> PlaneNumbers:
        law = self.law(conditional)
        return PlaneNumbers(
            law.log_abs.exp().numpy(), law.mean.numpy(), law.cov.numpy(), "linear",
            {"vector": np.array([1.0]), "constant": np.array(0.0)}, 1.0, np.eye(1),
        )  # fmt: skip


# Tails: p(x) must not be lighter than p(x|c), or the product has no normaliser.
MIXED = Classes()
ALIKE = Classes((0.6, 0.4), (-0.5, -0.5), (0.8, 0.8), (0,))


def product_density(classes: Classes, weight: float, axis: Array = LINE) -> Array:
    """p(x|c)^(1+w) p(x)^-w, normalised on the grid."""
    points = column(axis)
    log_c = classes.law(True).log_density(points).numpy()
    log_u = classes.law(False).log_density(points).numpy()
    values = np.exp((1 + weight) * log_c - weight * log_u)
    return np.asarray(values / np.trapezoid(values, axis))


def guided_density(classes: Classes, weight: float, axis: Array = LINE) -> Array:
    """The density of what the guided field samples."""
    law = FlowLaw(classes.field(weight), rtol=1e-9, atol=1e-11)
    return law.log_density(column(axis)).exp().numpy()


REWARD_Z10 = ((1.0,), (2.0,), (0.8,))


def _iterate(log_reference: Array, reward: Array, rule: TwoKL) -> Array:
    """The anchored recursion on a grid, epoch after epoch, until it stands."""
    log_p = log_reference
    for _ in range(math.ceil(-40 / math.log(rule.rate))):
        log_p = rule.rate * log_p + (1 - rule.rate) * log_reference + rule.lam * reward
        log_p = log_p - math.log(float(np.trapezoid(np.exp(log_p), LINE)))
    return np.exp(log_p)


def anchored_limits(context: Context) -> Finding:
    """The anchored recursion carried out with both references, against p_ref exp(eta_0 r)/Z."""
    weight, eta_1 = 1.5, 1.0
    reward = np.exp(-0.5 * ((LINE - 2.0) / 0.8) ** 2)
    laws = {"plain": guided_density(MIXED, 0.0), "guided": guided_density(MIXED, weight)}
    worst, rows, limits = 0.0, {}, {}
    killed = False
    for eta_0 in (0.5, 4.0):
        for name, density in laws.items():
            end = _iterate(np.log(np.maximum(density, 1e-300)), reward, TwoKL(eta_0, eta_1))
            stated = density * np.exp(eta_0 * reward)
            stated = stated / np.trapezoid(stated, LINE)
            worst = max(worst, float(np.abs(end - stated).max()))
            other = laws["plain"] * np.exp(eta_0 * reward)
            other = other / np.trapezoid(other, LINE)
            if name == "guided":
                killed = killed or float(np.abs(end - other).max()) > QUADRATURE.rtol
            limits[name, eta_0] = end
            mean = float(np.trapezoid(end * LINE, LINE))
            rows[f"{name}, eta_0 = {eta_0:g}"] = {
                "reward": float(np.trapezoid(end * reward, LINE)),
                "std": math.sqrt(float(np.trapezoid(end * (LINE - mean) ** 2, LINE))),
            }
    apart = {f"{e:g}": total_variation(limits["plain", e], limits["guided", e]) for e in (0.5, 4.0)}
    text = "; ".join(f"{k}: reward {v['reward']:.3f}, std {v['std']:.3f}" for k, v in rows.items())
    return Finding(
        "limit of the anchored recursion = p_ref exp(eta_0 r)/Z, both references", "claim", "exact",
        worst <= QUADRATURE.rtol and min(apart.values()) > 100 * QUADRATURE.rtol,
        f"density within {number(worst)}; the two limits lie TV "
        + ", ".join(f"{number(v)} (eta_0 = {k})" for k, v in apart.items())
        + f" apart; {text}",
        {"error": worst, "tv_between_limits": apart, "limits": rows},
        mutants={"the plain reference's limit": killed},
    )  # fmt: skip


@extra
def guided_law_formula(context: Context) -> Finding:
    """The guided sampler's law: the product times what the path integral takes away."""
    weight = 1.5
    one, other = (flow.LineField(MIXED.plain(c)) for c in (True, False))

    def guided(x: Array, t: float) -> Array:
        a, b = one(x, t), other(x, t)
        return a + weight * (a - b)

    def rate(x: Array, t: float) -> Array:
        """eta |grad h|^2 = (v_c - v_u)^2 / eta."""
        return (one(x, t) - other(x, t)) ** 2 * t / max(1 - t, 1e-300)

    x0, energy = flow.path_integral(guided, SPOTS, rate)
    ours_law = FlowLaw(MIXED.field(weight))
    ours = ours_law.log_density(column(SPOTS)).numpy()
    cdf = ours_law.cdf(column(SPOTS)).numpy()
    theirs_cdf = torch.special.ndtr(torch.as_tensor(x0)).numpy()
    c, u = (MIXED.plain(k).log_density(SPOTS[:, None]) for k in (True, False))
    stated = (1 + weight) * c - weight * u - weight * (1 + weight) * energy
    error = max(QUADRATURE.error(ours, stated, 1.0), QUADRATURE.error(cdf, theirs_cdf, 1.0))
    wrong = QUADRATURE.error(ours, (1 + weight) * c - weight * u - weight * energy, 1.0)
    return Finding(
        "guided law = p(x|c)^(1+w) p(x)^-w exp(-w (1+w) int eta |grad h|² dt)", "instead", "exact",
        error <= QUADRATURE.rtol, f"error {number(error)} (quadrature {QUADRATURE.rtol:g})",
        {"error": error}, mutants={"w for w (1 + w)": wrong > QUADRATURE.rtol},
    )  # fmt: skip


@extra
def guided_law_is_no_product(context: Context) -> Finding:
    """TV of the guided law to the product; zero for Gaussians of one covariance."""
    tv = {
        f"{w:g}": total_variation(guided_density(MIXED, w), product_density(MIXED, w))
        for w in ((4.0,) if context.profile.name == "fast" else (0.5, 1.5, 4.0))
    }
    shifted = Classes((0.6, 0.4), (-0.5, 0.7), (0.8, 0.8), (0,))
    one = MixtureField(shifted.law(True))
    other = MixtureField(GaussianSum.mixture([1.0], [[0.7]], stds=[0.8]))
    law = FlowLaw(GuidedField(one, other, 1.5)).log_density(column(SPOTS)).exp().numpy()
    stated = GaussianSum.mixture([1.0], [[-0.5 - 1.5 * 1.2]], stds=[0.8]).density(column(SPOTS))
    alike = QUADRATURE.error(law, stated.numpy(), 1.0)
    return Finding(
        "the guided law against p(x|c)^(1+w) p(x)^-w", "support", "exact",
        min(tv.values()) > 100 * QUADRATURE.rtol and alike <= QUADRATURE.rtol,
        "TV " + ", ".join(f"{number(v)} (w = {k})" for k, v in tv.items())
        + f"; Gaussians of one covariance: within {number(alike)}",
        {"tv": tv, "one_covariance": alike}, f"w = 4: TV {number(tv['4'])}",
    )  # fmt: skip


Z10_PARTS = (anchored_limits, guided_law_formula, guided_law_is_no_product)


def guidance_region(cells: int) -> Region:
    """TV of the guided law to the product over w and the distance of the other class."""
    weights, gaps = np.linspace(0.1, 4.0, cells), np.linspace(0.2, 3.0, cells)
    pairs = [(w, g) for w in weights for g in gaps]
    axis = np.linspace(-9.0, 9.0, 361)
    count = len(pairs)
    c_mean = torch.zeros(count, 1, 1, dtype=torch.float64)
    one = GaussianSum.mixture(
        torch.ones(count, 1, dtype=torch.float64), c_mean,
        stds=torch.full((count, 1), 0.7, dtype=torch.float64),
    )  # fmt: skip
    both = torch.tensor([[[0.0], [g]] for _, g in pairs], dtype=torch.float64)
    whole = GaussianSum.mixture(
        torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(count, 2), both,
        stds=torch.full((count, 2), 0.7, dtype=torch.float64),
    )  # fmt: skip
    w = torch.tensor([w for w, _ in pairs], dtype=torch.float64)
    points = column(axis).expand(count, len(axis), 1)
    field = GuidedField(MixtureField(one), MixtureField(whole), w)
    p = FlowLaw(field, rtol=1e-7, atol=1e-9, method="dopri5").log_density(points).exp().numpy()
    log_q = (1 + w[:, None]) * one.log_density(points) - w[:, None] * whole.log_density(points)
    q = log_q.exp().numpy()
    q = q / np.trapezoid(q, axis, axis=1)[:, None]
    errors = 0.5 * np.trapezoid(np.abs(p - q), axis, axis=1)
    return Region(
        "guided law against p(x|c)^(1+w) p(x)^-w", "guidance weight w", weights,
        "distance of the other class / 0.7", gaps / 0.7, errors.reshape(cells, cells), "TV",
    )  # fmt: skip
