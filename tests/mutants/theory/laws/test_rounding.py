"""Terms of the bounds on rounding that are dropped or halved, each seen on a hard problem.

What bounds must reach is the error itself, to first order: |derivative| times what rounding does to
an input, summed over the inputs, by automatic differentiation of the closed forms in d = 1. A
displacement's parts are taken by the better of its two ways, component by component, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.mutants.harness import mutant_module, overriding
from theory.common.tolerances import QUADRATURE
from theory.laws import rounding
from theory.laws.components import UNIT
from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior
from theory.laws.rounding import Rounding

# (weight, mean, std) of two components, x, alpha, sigma, and what is read out: p m - q s.
Problem = tuple[list[list[float]], float, float, float, float, float]


@cache
def problems() -> list[Problem]:
    """Points, means, widths and times far apart, a few where every term is the largest."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: float, high: float) -> float:
        return 10 ** (low + (high - low) * float(torch.rand((), generator=generator)))

    found: list[Problem] = []
    for _ in range(200):
        weight, alpha, sigma = draw(-3, -0.1), draw(-2, 0), draw(-3, 0)
        first = [weight, draw(-2, 2), draw(-4, 1)]
        second = [1 - weight, first[1] + draw(-3, 1), draw(-4, 1)]
        width = (alpha**2 * first[2] ** 2 + sigma**2) ** 0.5
        x = alpha * first[1] + width * draw(-2, 1.5)
        p, q = (draw(-2, 1), 0.0) if draw(0, 1) > 5 else (0.0, draw(-2, 1))
        found.append(([first, second], x, alpha, sigma, p, q))
    return found


@cache
def _posterior(number: int) -> Posterior:
    components, x, alpha, sigma, _, _ = problems()[number]
    weights, means, stds = zip(*components, strict=True)
    law = GaussianSum.mixture(list(weights), [[m] for m in means], stds=list(stds))
    return law.noised(torch.tensor([[x]], dtype=torch.float64), alpha, sigma)


def posterior(problem: Problem) -> Posterior:
    return _posterior(problems().index(problem))


def errors(values: Callable[..., Tensor], problem: Problem) -> Tensor:
    """Of `values` (k,), from components' z, l, V and a quotient, to first order: (k, K)."""
    components, x, alpha, _, _, _ = problem
    _, means, stds = (torch.tensor(c, dtype=torch.float64) for c in zip(*components, strict=True))
    inputs = (x - alpha * means, stds**2, torch.zeros_like(means), torch.zeros_like(means))
    sizes = (
        UNIT * (abs(x) + alpha * means.abs()),
        UNIT * stds**2,
        torch.full_like(means, UNIT),
        torch.full_like(means, UNIT),
    )
    slopes = torch.autograd.functional.jacobian(values, inputs)
    return sum(s.abs() * size for s, size in zip(slopes, sizes, strict=True))


class ClosedForms:
    """The posterior's numbers at one point as functions of z, l, and relative changes of V and of
    l / V."""

    def __init__(self, problem: Problem) -> None:
        components, _, self.alpha, self.sigma, self.p, self.q = problem
        weights, means, _ = zip(*components, strict=True)
        self.log_weights = torch.tensor(weights, dtype=torch.float64).log()
        self.means = torch.tensor(means, dtype=torch.float64)

    def variance(self, l: Tensor, e: Tensor) -> Tensor:  # noqa: E741
        return (self.alpha**2 * l + self.sigma**2) * (1 + e)

    def log_parts(self, z: Tensor, l: Tensor, e: Tensor, g: Tensor) -> Tensor:  # noqa: E741
        V = self.variance(l, e)
        return self.log_weights - 0.5 * V.log() - 0.5 * z**2 / V

    def weights(self, *inputs: Tensor) -> Tensor:
        return self.log_parts(*inputs).softmax(0)

    def slope(self, p: float, q: float, l: Tensor, e: Tensor) -> Tensor:  # noqa: E741
        return (p * self.alpha * l + q) / self.variance(l, e)

    def parts(self, p: float, q: float, z: Tensor, l: Tensor, e: Tensor) -> Tensor:  # noqa: E741
        return p * self.means + self.slope(p, q, l, e) * z

    def combination(self, z: Tensor, l: Tensor, e: Tensor, g: Tensor) -> Tensor:  # noqa: E741
        parts = self.parts(self.p, self.q, z, l, e)
        return (self.weights(z, l, e, g) * parts).sum()[None]

    def divergence(self, z: Tensor, l: Tensor, e: Tensor, g: Tensor) -> Tensor:  # noqa: E741
        w = self.weights(z, l, e, g)
        parts, scores = (self.parts(*r, z, l, e) for r in ((self.p, self.q), (0.0, 1.0)))
        inside = w * self.slope(self.p, self.q, l, e)
        between = w * (parts - (w * parts).sum()) * (scores - (w * scores).sum())
        return (inside - between).sum()[None]

    def displaced(self, p: float, q: float, weights: Tensor) -> Callable[..., Tensor]:
        """Components' parts less their average, the weights being known."""

        def values(z: Tensor, l: Tensor, e: Tensor, g: Tensor) -> Tensor:  # noqa: E741
            parts = self.parts(p, q, z, l, e)
            return parts - (weights * parts).sum()

        return values

    def average(self, parts: Tensor) -> Callable[..., Tensor]:
        """The parts being known."""
        return lambda *inputs: (self.weights(*inputs) * parts).sum()[None]

    def precision_gain(self, z: Tensor, l: Tensor, e: Tensor, g: Tensor) -> Tensor:  # noqa: E741
        return l / self.variance(l, e) * (1 + g)


@cache
def least() -> list[dict[str, Tensor]]:
    """What each bound must reach, of every problem."""
    found = []
    for problem in problems():
        forms = ClosedForms(problem)
        names = ("log_parts", "weights", "combination", "divergence", "precision_gain")
        row = {name: errors(getattr(forms, name), problem).sum(-1) for name in names}
        post = posterior(problem)
        w, known = post.weights.flatten(), post.component_displacements.flatten()
        is_late = forms.alpha >= forms.sigma
        way = (0.0, -1 / forms.alpha) if is_late else (1 / forms.sigma**2, 0.0)
        own = errors(forms.displaced(*way, w), problem).sum(-1)
        row["displacements"] = own + errors(forms.average(known), problem).sum(-1)
        found.append(row)
    return found


def bounds(kind: type[Rounding], problem: Problem) -> dict[str, Tensor]:
    *_, p, q = problem
    bound = kind(posterior(problem))
    readout = [torch.tensor(v, dtype=torch.float64) for v in (p, q)]
    found = {name: getattr(bound, name) for name in ("log_parts", "weights", "displacements")}
    found |= {name: getattr(bound, name)(*readout) for name in ("combination", "divergence")}
    found["precision_gain"] = bound.precision_gain
    return {name: value.flatten() for name, value in found.items()}


# Of weights that are 0 or 1 in float64.
LEAST = 1e-25


def too_small(kind: type[Rounding]) -> Iterator[str]:
    """Bounds that an error exceeds."""
    for problem, row in zip(problems(), least(), strict=True):
        for name, bound in bounds(kind, problem).items():
            if bool((bound < row[name] * (1 - QUADRATURE.rtol) - LEAST).any()):
                yield name


def test_bounds_hold_and_are_near():
    assert list(too_small(Rounding)) == []
    ratios = [
        float((bound / row[name]).max())
        for problem, row in zip(problems(), least(), strict=True)
        for name, bound in bounds(Rounding, problem).items()
        if name in ("log_parts", "weights")
    ]
    assert sorted(ratios)[len(ratios) // 2] < 2


def part(name: str, of: Callable[..., object]) -> type[Rounding]:
    return overriding(Rounding, **{name: of})


def term(old: str) -> Callable[[float], type[Rounding]]:
    """A term of a sum, times a share."""
    return lambda share: mutant_module(rounding.__name__, (old, f"{share} * {old}")).Rounding


def values(name: str) -> Callable[[float], type[Rounding]]:
    """A property or a method's value, times a share."""
    return lambda share: part(name, lambda whole, self, *given: share * whole(*given))


def steepness(share: float) -> type[Rounding]:
    def _slope(whole, self, *given):
        slope, steep = whole(*given)
        return slope, share * steep

    return part("_slope", _slope)


def of_sums(share: float) -> type[Rounding]:
    """The rounding of V itself."""
    return part("relative", lambda whole, self: whole() - (1 - share) * UNIT)


TERMS: dict[str, Callable[[float], type[Rounding]]] = {
    "offsets": values("offset"),
    "variances": values("own"),
    "relative": values("relative"),
    "V itself": of_sums,
    "log-densities": values("log_parts"),
    "weights": values("weights"),
    "steepness": steepness,
    "inside": values("inside"),
    "apart": values("_apart"),
    "displacements": values("displacements"),
    "precision gain": values("precision_gain"),
    "offset in a log-density": term("z.abs() / V * self.offset"),
    "V in a log-density": term("0.5 * (z**2 / V + 1) * self.relative"),
    "a weight's own": term("(1 - w).clamp_min(0) * error"),
    "the other weights": term("(w * error).sum(-2, keepdim=True)"),
    "V in a slope": term("slope.abs() * self.relative"),
    "l in a slope": term("abs(pull) * self.own"),
    "offset inside": term("slope.abs() * self.offset"),
    "slope inside": term("steep * self.post.eigen_offsets.abs()"),
    "weights of a combination": term("(self.weights * self._apart(p, q).norm(dim=-2)).sum(-2)"),
    "parts of a combination": term("(self.post.weights.abs() * self.inside(p, q)).sum(-2)"),
    "slopes of a divergence": term("slope.abs().sum(-2)"),
    "covariance of a divergence": term("apart * spread"),
    "steepness of a divergence": term("steep.sum(-2)"),
    "parts of a divergence": term("self.inside(p, q) * spread"),
    "scores of a divergence": term("apart * self.inside(0.0, 1.0)"),
    "a displacement's own": term("own + between.sum(-2, keepdim=True)"),
    "weights of a displacement": term("self.weights * post.component_displacements.norm(dim=-2)"),
    "the other displacements": term("w * own"),
    "rounding of a gain": term("2 * STEPS * UNIT * gain"),
    "l in a gain": term("noise * self.own / V**2"),
}


def test_mixed_ways_are_seen():
    """Each component's displacement by the way that it is known better by: the parts that cancel
    between components are another's there."""

    def better(whole, self):
        ways = ((1 / self.post.sigma**2, 0.0), (0.0, 1 / self.post.alpha))
        own = torch.fmin(*(self.inside(*way) for way in ways))
        w, apart = self.post.weights.abs(), self.post.component_displacements.norm(dim=-2)
        return own + (self.weights * apart + w * own).sum(-2, keepdim=True)

    assert "displacements" in too_small(part("displacements", better))


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", TERMS)
def test_a_lesser_term_is_seen(name, share):
    assert next(too_small(TERMS[name](share)), None)
