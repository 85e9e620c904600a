"""Problem = base mixture + path + reward + the scale at which it is studied; problems as data.

Named problems live in `problems/*.toml`; your own is a file of the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path as FilePath
from typing import Any, get_args

import torch

from theory.common.checks import (
    check_choice,
    check_instance,
    check_positive,
    check_share,
    nearest,
    unknown,
)
from theory.fields.cumulants import ConditionalReward, cumulant_field
from theory.fields.guidance import GuidedField
from theory.fields.mixture import DisplacedField, ExactField, MixtureField, tilted_field
from theory.fields.paths import PATHS, RECTIFIED_FLOW, Path
from theory.laws.gaussians import GaussianSum
from theory.tilts.bump_rewards import bumps_reward
from theory.tilts.conditional import moments_of
from theory.tilts.moments import MomentSource
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import Reward, check_reward
from theory.tilts.tilt import QUADRATURE_TOLERANCE, Route, Tilt, quadrature_moments, tilt
from theory.tilts.wrappers import Power, Scale, Wrapper


@dataclass(frozen=True, eq=False)
class Guidance:
    """Classifier-free guidance of the base p(x|c): the unconditional law p(x), and the weight w of
    (1 + w) v(x | c) - w v(x)."""

    unconditional: GaussianSum
    weight: float

    def __post_init__(self) -> None:
        check_instance("unconditional", self.unconditional, GaussianSum)
        check_positive("weight", self.weight)


@dataclass(frozen=True, eq=False)
class Problem:
    """A task whose base law is a Gaussian sum, so that exact answers exist.

    scale: the inverse temperature at which the problem is studied (NFT at nft_beta has 2/nft_beta).
    route: "closed", or "quadrature" for rewards without closed forms (d <= 2),
    refused where more nodes would change an answer by over quadrature_tolerance.
    guidance: where the base is a conditional law that can be sampled with guidance.
    first_time: where chains begin, at noise of the path's own size there: exact at 0 alone.
    """

    name: str
    base: GaussianSum
    reward: Reward
    scale: float = 1.0
    path: Path = RECTIFIED_FLOW
    description: str = ""
    route: Route = "closed"
    quadrature_tolerance: float = QUADRATURE_TOLERANCE
    guidance: Guidance | None = None
    first_time: float = 0.0

    def __post_init__(self) -> None:
        check_share("first_time", self.first_time)
        check_instance("path", self.path, Path)
        check_instance("base", self.base, GaussianSum)
        check_reward(self.reward, self.base)
        check_positive("scale", self.scale)
        check_choice("route", self.route, get_args(Route))
        if self.guidance is not None and self.guidance.unconditional.dim != self.base.dim:
            raise ValueError(
                f"guidance must have an unconditional law in the base's d = {self.base.dim}, got d "
                f"= {self.guidance.unconditional.dim}"
            )

    @property
    def dim(self) -> int:
        return self.base.dim

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Problem:
        """The same problem in another dtype or on another device."""
        guidance = self.guidance
        if guidance is not None:
            guidance = replace(guidance, unconditional=guidance.unconditional.to(dtype, device))
        base, reward = self.base.to(dtype, device), self.reward.to(dtype, device)
        return replace(self, base=base, reward=reward, guidance=guidance)

    @cached_property
    def moments(self) -> MomentSource:
        """E[r^j | x] and E[X_1 r^j | x], by the problem's route."""
        if self.route == "quadrature":
            return quadrature_moments(self.base, self.reward, self.quadrature_tolerance)
        return moments_of(self.base, self.reward)

    # --- laws

    def tilt(self, wrapper: Wrapper) -> Tilt:
        """base Phi(r) / Z."""
        return tilt(self.base, self.reward, wrapper, self.route, self.quadrature_tolerance)

    # --- fields

    @cached_property
    def base_field(self) -> MixtureField:
        """v0, the RF velocity of the base."""
        return MixtureField(self.base, self.path)

    @cached_property
    def guided_field(self) -> GuidedField:
        """(1 + w) v(x | c) - w v(x), the base sampled with guidance.

        Raises:
            ValueError: the problem has no guidance.
        """
        if self.guidance is None:
            raise ValueError(
                f"problem {self.name!r} has no guidance: must be one with a [guidance] table "
                "(weight, and the mixture of the unconditional law)"
            )
        other = MixtureField(self.guidance.unconditional, self.path)
        return GuidedField(self.base_field, other, self.guidance.weight)

    @cached_property
    def conditional_reward(self) -> ConditionalReward:
        """m_t, its gradient, Cov(X_1 - X_0, r | X_t) and the mixed cumulants."""
        return ConditionalReward(self.base_field, self.moments)

    def tilted_field(self, wrapper: Wrapper) -> ExactField:
        """The velocity of base Phi(r) / Z."""
        return tilted_field(self.tilt(wrapper), self.path)

    def reward_weighted_field(self) -> ExactField:
        """vhat, the velocity of base r / Z (liu, after (1)); needs r >= 0."""
        return self.tilted_field(Power(1))

    def cumulant_field(self, scale: Scale, order: int) -> DisplacedField:
        """v0 + a k_1 + ... + a^order/order! k_order at a = scale."""
        return cumulant_field(self.base_field, self.moments, scale, order)

    def nft_field(self, nft_beta: float) -> DisplacedField:
        """NFT's optimum v* = v0 + (2/nft_beta) Cov(X_1 - X_0, r | X_t) (liu, Theorem 1.1)."""
        check_positive("nft_beta", nft_beta)
        return self.cumulant_field(2.0 / nft_beta, 1)

    def nft_perturbation(self, sign: int) -> DisplacedField:
        """v*+ (sign = 1) and v*- (sign = -1): v0 +- 2 Cov(X_1 - X_0, r | X_t), at any nft_beta."""
        if sign not in (1, -1):
            raise ValueError(f"sign must be 1 (v*+) or -1 (v*-), got {sign!r}")
        return self.cumulant_field(2.0 * sign, 1)


# --- problems as data


def problem_names() -> list[str]:
    """The named problems."""
    files = resources.files("theory").joinpath("problems").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_problem(name: str | FilePath) -> Problem:
    """A named problem, or one from a file whose name ends in .toml.

    Raises:
        TypeError: neither a name nor a path.
        ValueError: unknown name, or a malformed file (the message names it and the key at fault).
        FileNotFoundError: no such file.
    """
    if not isinstance(name, (str, FilePath)):
        raise TypeError(f"problem must be a name or a path that ends in .toml, got {name!r}")
    name = str(name)
    if name.endswith(".toml"):
        file = FilePath(name)
        if not file.is_file():
            raise FileNotFoundError(f"problem = {name!r}: no such file")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} must be TOML in UTF-8, got {error}") from error
    elif name in problem_names():
        text = resources.files("theory").joinpath(f"problems/{name}.toml").read_text("utf-8")
    else:
        raise unknown("problem", name, problem_names(), "a path that ends in .toml")
    return parse_problem(text, name)


def parse_problem(text: str, origin: str) -> Problem:
    """A problem from TOML text; `origin` names it in errors."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{origin}: not valid TOML: {error}") from error
    try:
        _check_keys(
            table,
            "the file",
            {"base", "reward"},
            {"name", "description", "scale", "path", "guidance", "first_time"},
        )
        base, reward = table["base"], table["reward"]
        for key, part in (("base", base), ("reward", reward)):
            if not isinstance(part, Mapping):
                raise ValueError(f"{key} must be a table [{key}], got {part!r}")
        name, scale = table.get("name", FilePath(origin).stem), table.get("scale", 1.0)
        _check_name(name)
        check_positive("scale", scale)
        path = table.get("path", "rectified_flow")
        check_choice("path", path, PATHS)
        return Problem(
            name=name,
            base=_parse_base(base),
            reward=_parse_reward(reward),
            scale=float(scale),
            path=PATHS[path](),
            description=str(table.get("description", "")),
            guidance=_parse_guidance(table.get("guidance")),
            first_time=table.get("first_time", 0.0),
        )
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def _check_name(name: object) -> None:
    """Pictures are files of that name."""
    good = isinstance(name, str) and name and name.isprintable()
    if not good or "/" in str(name) or "\\" in str(name):
        raise ValueError(f"name must be printable text without / and \\, got {name!r}")


def _parse_base(table: Mapping[str, Any]) -> GaussianSum:
    _check_keys(table, "[base]", {"weights", "means"}, {"stds", "covs"})
    return GaussianSum.mixture(
        table["weights"], table["means"], covs=table.get("covs"), stds=table.get("stds")
    )


def _parse_guidance(table: Any) -> Guidance | None:
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise ValueError(f"guidance must be a table [guidance], got {table!r}")
    _check_keys(table, "[guidance]", {"weight", "weights", "means"}, {"stds", "covs"})
    law = _parse_base({key: value for key, value in table.items() if key != "weight"})
    return Guidance(law, table["weight"])


def _parse_reward(table: Mapping[str, Any]) -> Reward:
    kind = table.get("kind")
    check_choice("reward.kind", kind, ("linear", "quadratic", "bumps"))
    if kind == "linear":
        _check_keys(table, "[reward]", {"kind", "vector"}, {"constant"})
        return linear_reward(table["vector"], table.get("constant", 0.0))
    if kind == "quadratic":
        _check_keys(table, "[reward]", {"kind", "matrix", "vector"}, {"constant"})
        return quadratic_reward(table["matrix"], table["vector"], table.get("constant", 0.0))
    _check_keys(table, "[reward]", {"kind", "heights", "centres"}, {"widths", "precisions"})
    return bumps_reward(
        table["heights"],
        table["centres"],
        widths=table.get("widths"),
        precisions=table.get("precisions"),
    )


def _check_keys(table: Mapping[str, Any], where: str, needed: set[str], more: set[str]) -> None:
    missing, other = sorted(needed - table.keys()), sorted(table.keys() - needed - more)
    if missing or other:
        found = f"missing {missing}" if missing else f"unknown {other}"
        raise ValueError(
            f"keys of {where} must be {sorted(needed)} (needed) and {sorted(more)}, got {found}"
            + "".join(nearest(key, needed | more) for key in other)
        )
