"""Random problems for the checks: valid by construction, asymmetric, with known difficulty.

d = 1 to 5, K = 1 to 8, condition numbers up to 1e4, standard deviation of r from 0.05 to 3.
Weights are softmaxes, covariances rotations of a given spectrum, rewards rescaled to their spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from theory.ledger.oracle.conditional import Instant
from theory.ledger.settings.plane import Array, PlaneProblem

KINDS = ("linear", "quadratic", "bumps")
MAX_CONDITION = 1e4
SPREADS = (0.05, 3.0)
# scale * spread stays below this, so that tilts move mass but do not leave the base behind.
MAX_TILT = 1.5
# scale * heights of bumps: the series of exp has a few dozen terms.
MAX_EXPONENT = 6.0


@dataclass(frozen=True)
class Shape:
    """What kind of problem to draw."""

    dim: int
    components: int
    condition: float
    kind: str
    spread: float
    bumps: int = 1


def most_components(dim: int, condition: float) -> int:
    """How many components quadrature can follow: in the plane, thin ridges that cross are slow."""
    if dim == 1 or condition <= 10:
        return 8
    return 4 if condition <= 100 else 2


def random_case(shape: Shape, seed: int) -> PlaneProblem:
    """A problem of that shape, a function of the seed alone."""
    rng = np.random.default_rng(seed)
    e = min(shape.dim, 2)
    weights = softmax(rng.normal(size=shape.components))
    means = rng.normal(size=(shape.components, e)) * 1.5
    covs = np.stack([_covariance(rng, e, shape.condition) for _ in range(shape.components)])
    frame = np.linalg.qr(rng.normal(size=(shape.dim, shape.dim)))[0]
    draft = PlaneProblem(
        weights,
        means,
        covs,
        shape.kind,
        _reward(rng, shape, e, means, (weights, covs)),
        1.0,
        frame,
        rest_std=float(np.exp(rng.uniform(math.log(0.3), math.log(1.5)))),
        condition=shape.condition,
    )
    return _rescaled(draft, shape.spread, rng)


def random_point(
    case: PlaneProblem, at: Instant, rng: np.random.Generator, tail: float = 1.0
) -> Array:
    """A draw of X_t (d,), data and noise stretched by `tail`."""
    k, e = rng.choice(len(case.weights), p=case.weights), case.plane_dim
    plane = case.means[k] + tail * np.linalg.cholesky(case.covs[k]) @ rng.normal(size=e)
    data = case.frame @ np.concatenate([plane, case.rest_std * rng.normal(size=case.dim - e)])
    return np.asarray(at.alpha * data + at.sigma * tail * rng.normal(size=case.dim))


def _covariance(rng: np.random.Generator, e: int, condition: float) -> Array:
    """Spectrum from s^2/condition to s^2 at a random rotation; d = 1: anywhere between."""
    top = rng.uniform(0.4, 1.2) ** 2
    low = top / condition
    if e == 1:
        return np.array([[math.exp(rng.uniform(math.log(low), math.log(top)))]])
    axes = np.linalg.qr(rng.normal(size=(e, e)))[0]
    return np.asarray(axes * np.array([top, low])) @ axes.T


def _reward(
    rng: np.random.Generator, shape: Shape, e: int, means: Array, mixture: tuple[Array, Array]
) -> dict[str, Array]:
    if shape.kind == "linear":
        return {"vector": rng.normal(size=e), "constant": np.asarray(rng.normal())}
    if shape.kind == "quadratic":
        matrix = rng.normal(size=(e, e))
        return {
            "matrix": 0.5 * (matrix + matrix.T),
            "vector": rng.normal(size=e),
            "constant": np.asarray(rng.normal()),
        }
    # Sized by the mixture: a bump that is flat over all the mass has cumulants far below its
    # height, and closed forms lose (height / spread)^n of float64's digits there.
    weights, covs = mixture
    centre = weights @ means
    second = covs + np.einsum("ki,kj->kij", means - centre, means - centre)
    size = math.sqrt(float(np.trace(np.einsum("k,kij->ij", weights, second))) / e)
    near = means[rng.integers(len(means), size=shape.bumps)]
    widths = size * np.exp(rng.uniform(math.log(0.5), math.log(1.3), size=(shape.bumps, e)))
    axes = np.stack([np.linalg.qr(rng.normal(size=(e, e)))[0] for _ in range(shape.bumps)])
    return {
        "heights": rng.uniform(0.4, 1.0, size=shape.bumps),
        "centres": near + 0.7 * size * rng.normal(size=(shape.bumps, e)),
        "precisions": (axes * widths[:, None, :] ** -2) @ np.swapaxes(axes, 1, 2),
    }


def _rescaled(draft: PlaneProblem, spread: float, rng: np.random.Generator) -> PlaneProblem:
    """r times a factor that gives it the spread (by 20,000 draws), and a scale to match."""
    which = rng.choice(len(draft.weights), size=20_000, p=draft.weights)
    factors = np.linalg.cholesky(draft.covs)
    noise = rng.normal(size=(len(which), draft.plane_dim))
    y = draft.means[which] + np.einsum("nij,nj->ni", factors[which], noise)
    factor = spread / float(draft.reward(y).std())
    scaled = ("heights",) if draft.kind == "bumps" else ("matrix", "vector", "constant")
    parameters = {k: v * factor if k in scaled else v for k, v in draft.parameters.items()}
    scale = rng.uniform(0.3, 1.0) * MAX_TILT / spread
    if draft.kind == "bumps":
        scale = min(scale, MAX_EXPONENT / float(np.abs(parameters["heights"]).sum()))
    if draft.kind == "quadratic":
        top = max(float(np.linalg.eigvalsh(parameters["matrix"]).max()), 0.0)
        # Half of what the tightest Gaussian tail allows; order-2 cumulants see twice the scale.
        scale = min(scale, 0.5 / max(top * float(np.linalg.eigvalsh(draft.covs).max()), 1e-12))
    return replace(draft, parameters=parameters, scale=float(scale))
