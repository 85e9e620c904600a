"""Fields by name, and the targets that their laws are measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from theory.common.checks import check_choice
from theory.fields.mixture import ExactField
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential, Power, TruncatedExponential, Wrapper

SMALLER_SCALE = "a smaller scale or wider components"


@dataclass(frozen=True)
class FieldChoice:
    """A field by name, with the scale of the targets it is compared with.

    gentler: what to choose where its law is too thin to be measured.
    """

    label: str
    field: ExactField
    scale: float
    gentler: str = "wider components"


FIELDS = ("base", "tilt", "reward_weighted", "nft", "nft_plus", "nft_minus", "cumulant")


def choose_field(
    problem: Problem,
    name: str,
    *,
    nft_beta: float | None = None,
    scale: float | None = None,
    order: int = 2,
    wrapper: Wrapper | None = None,
) -> FieldChoice:
    """The field called `name` (one of FIELDS); `scale` is the problem's where it is None.

    Raises:
        ValueError: unknown name, or options out of range.
    """
    check_choice("field", name, FIELDS)
    if scale is not None and name.startswith("nft"):
        raise ValueError(f"scale must be left out for field {name!r} (use nft_beta), got {scale!r}")
    if nft_beta is not None and name != "nft":
        raise ValueError(f"nft_beta must be left out for field {name!r}, got {nft_beta!r}")
    beta = 1.0 if nft_beta is None else nft_beta
    a = problem.scale if scale is None else scale
    makers: dict[str, Callable[[], FieldChoice]] = {
        "base": lambda: FieldChoice("base", problem.base_field, a),
        "tilt": lambda: _tilt_choice(problem, wrapper or Exponential(a), a),
        "reward_weighted": lambda: FieldChoice(
            "reward-weighted", problem.reward_weighted_field(), a
        ),
        "nft": lambda: FieldChoice(
            f"NFT v*, nft_beta = {beta:g}",
            problem.nft_field(beta),
            2 / beta,
            "a larger nft_beta or wider components",
        ),
        "nft_plus": lambda: FieldChoice("NFT v*+", problem.nft_perturbation(1), 2.0),
        "nft_minus": lambda: FieldChoice("NFT v*-", problem.nft_perturbation(-1), -2.0),
        "cumulant": lambda: FieldChoice(
            f"cumulant field of order {order}, scale = {a:g}",
            problem.cumulant_field(a, order),
            a,
            SMALLER_SCALE,
        ),
    }
    return makers[name]()


def _tilt_choice(problem: Problem, wrapper: Wrapper, scale: float) -> FieldChoice:
    return FieldChoice(
        f"tilt by {wrapper.label}", problem.tilted_field(wrapper), scale, SMALLER_SCALE
    )


def candidate_wrappers(scale: float) -> list[Wrapper]:
    """exp(a r), its Taylor polynomials of order 1 to 3, and r itself."""
    return [Exponential(scale), *(TruncatedExponential(scale, n) for n in (1, 2, 3)), Power(1)]


def candidates(problem: Problem, scale: float) -> tuple[dict[str, Tilt], dict[str, str]]:
    """Targets that are densities, and why the others are not."""
    found, refused = {}, {}
    for wrapper in candidate_wrappers(scale):
        try:
            found[wrapper.label] = problem.tilt(wrapper)
        except ValueError as error:
            refused[wrapper.label] = str(error)
    return found, refused
