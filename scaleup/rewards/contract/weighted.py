"""A weighted sum of rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor

from scaleup.rewards.contract.reward import Reward
from theory.common.checks import check_finite


@dataclass(frozen=True)
class Weighted(Reward):
    """sum_i weights[i] terms[i](images, prompts); bounds by interval arithmetic; differentiable
    where every term is.

    Raises:
        ValueError: not one weight a term, no term, the same term twice, a weight that is zero or
            not finite.
    """

    terms: tuple[Reward, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.terms or len(self.terms) != len(self.weights):
            raise ValueError(
                "weights must be one a term, of at least one term, got "
                f"{len(self.weights)} for {len(self.terms)}"
            )
        for term, weight in zip(self.terms, self.weights, strict=True):
            check_finite(f"weight of reward {term.label!r}", weight)
            if weight == 0:
                raise ValueError(
                    f"weight of reward {term.label!r} must be a number other than 0, got 0 (leave "
                    "the term out)"
                )
        label, most = Counter(term.label for term in self.terms).most_common(1)[0]
        if most > 1:
            raise ValueError(f"reward {label!r} must be given once, got it twice: add weights")

    @property
    def name(self) -> str:
        pairs = zip(self.weights, self.terms, strict=True)
        return "+".join(f"{weight!r}*{term.label}" for weight, term in pairs)

    @property
    def label(self) -> str:
        return self.name

    @property
    def summary(self) -> str:
        return "; ".join(term.summary for term in self.terms)

    @property
    def bounds(self) -> tuple[float, float]:
        ends = [
            sorted((weight * term.bounds[0], weight * term.bounds[1]))
            for weight, term in zip(self.weights, self.terms, strict=True)
        ]
        return sum(low for low, _ in ends), sum(high for _, high in ends)

    @property
    def differentiable(self) -> bool:
        return all(term.differentiable for term in self.terms)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._sum([term(images, prompts) for term in self.terms])

    def parts(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        values = {term.label: term(images, prompts) for term in self.terms}
        return {self.label: self._sum(list(values.values())), **values}

    def _sum(self, values: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.weights, values, strict=True)
        return reduce(Tensor.add, (weight * value for weight, value in pairs))
