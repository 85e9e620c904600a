"""What a field samples, measured against every candidate target: the table of `theory law`.

Each distance carries a floor: what the same pipeline measures between the base's exact field and
the base itself (zero in truth, but for the start law of VP and VE paths), or the change on a grid
of half the resolution, or the mass that the grid does not see, whichever is largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from theory.checks import check_choice
from theory.divergences import Array, Distance, GridLaw, grid_distances, sample_distances
from theory.fields import ExactField
from theory.fokker_planck import sde_law
from theory.gaussians import GaussianSum
from theory.problem import Problem
from theory.schedules import Diffusion
from theory.tilt import Tilt
from theory.transport import FlowLaw
from theory.wrappers import Exponential, Power, TruncatedExponential, Wrapper

LINE_POINTS = 501
PUSHED_POINTS = 201
SDE_POINTS = 1201
SPACING = np.linspace(-6, 6, 17)  # standard deviations at which components are looked at
PLANE_POINTS = 141
TAIL_STDS = 8.5
MOST_LOST_MASS = 1e-2


@dataclass(frozen=True)
class FieldChoice:
    """A field by name, with the scale of the targets it is compared with."""

    label: str
    field: ExactField
    scale: float


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
        raise ValueError(f"scale = {scale!r}: allowed is none for field {name!r} (use nft_beta)")
    if nft_beta is not None and name != "nft":
        raise ValueError(f"nft_beta = {nft_beta!r}: allowed is none for field {name!r}")
    beta = 1.0 if nft_beta is None else nft_beta
    a = problem.scale if scale is None else scale
    makers: dict[str, Callable[[], FieldChoice]] = {
        "base": lambda: FieldChoice("base", problem.base_field, a),
        "tilt": lambda: _tilt_choice(problem, wrapper or Exponential(a), a),
        "reward_weighted": lambda: FieldChoice(
            "reward-weighted", problem.reward_weighted_field(), a
        ),
        "nft": lambda: FieldChoice(
            f"NFT v*, nft_beta = {beta:g}", problem.nft_field(beta), 2 / beta
        ),
        "nft_plus": lambda: FieldChoice("NFT v*+", problem.nft_perturbation(1), 2.0),
        "nft_minus": lambda: FieldChoice("NFT v*-", problem.nft_perturbation(-1), -2.0),
        "cumulant": lambda: FieldChoice(
            f"cumulant field of order {order}, scale = {a:g}", problem.cumulant_field(a, order), a
        ),
    }
    return makers[name]()


def _tilt_choice(problem: Problem, wrapper: Wrapper, scale: float) -> FieldChoice:
    return FieldChoice(f"tilt by {wrapper.label}", problem.tilted_field(wrapper), scale)


@dataclass(frozen=True)
class LawReport:
    """A law, its candidate targets and the distances between them."""

    problem: str
    field: str
    sampler: str
    dim: int
    distances: dict[str, dict[str, Distance]]
    refused: dict[str, str]
    mean: list[float]
    std: list[float]
    mean_reward: float
    reward_of_target: dict[str, float]
    mass: float | None
    curves: dict[str, GridLaw] = dataclass_field(default_factory=dict, repr=False)
    samples: dict[str, Array] = dataclass_field(default_factory=dict, repr=False)

    @property
    def nearest(self) -> str:
        """The target at the smallest TV."""
        return min(self.distances, key=lambda name: self.distances[name]["TV"].value)

    @property
    def tied(self) -> list[str]:
        """Other targets whose TV is not told from the smallest, given both floors."""
        best = self.distances[self.nearest]["TV"]
        return [
            name
            for name, row in self.distances.items()
            if name != self.nearest and row["TV"].value - best.value <= row["TV"].floor + best.floor
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain data, without curves and samples."""
        return {
            "problem": self.problem,
            "field": self.field,
            "sampler": self.sampler,
            "dim": self.dim,
            "mass": self.mass,
            "mean": self.mean,
            "std": self.std,
            "mean_reward": self.mean_reward,
            "nearest": self.nearest,
            "tied_with_nearest": self.tied,
            "distances": {
                target: {k: {"value": _finite(d.value), "floor": d.floor} for k, d in row.items()}
                for target, row in self.distances.items()
            },
            "mean_reward_of_target": self.reward_of_target,
            "refused": self.refused,
        }


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if np.isfinite(value) else None


def candidate_wrappers(scale: float) -> list[Wrapper]:
    """exp(a r), its Taylor polynomials of order 1 to 3, and r itself."""
    orders = [TruncatedExponential(scale, n) for n in (1, 2, 3)]
    return [Exponential(scale), *orders, Power(1)]


def candidates(problem: Problem, scale: float) -> tuple[dict[str, Tilt], dict[str, str]]:
    """Targets that are densities, and why the others are not."""
    found, refused = {}, {}
    for wrapper in candidate_wrappers(scale):
        try:
            found[wrapper.label] = problem.tilt(wrapper)
        except ValueError as error:
            refused[wrapper.label] = str(error)
    return found, refused


def law_report(
    problem: Problem,
    choice: FieldChoice,
    *,
    diffusion: Diffusion | None = None,
    samples: int = 20_000,
    seed: int = 0,
) -> LawReport:
    """The law of the field's ODE (or, d = 1, of its SDE) against every candidate target.

    samples, seed: for d > 2, where distances are Monte Carlo.
    """
    if problem.base.dtype != torch.float64:
        raise ValueError(f"problem has dtype {problem.base.dtype}: allowed here is torch.float64")
    targets, refused = candidates(problem, choice.scale)
    if diffusion is not None and problem.dim != 1:
        raise ValueError(f"diffusion in d = {problem.dim}: allowed is d = 1")
    if problem.dim == 2 and problem.route == "quadrature":
        raise ValueError(
            "route = 'quadrature' for a law in d = 2: allowed is d = 1 (thousands of nodes a "
            "point at every step of the ODE are out of reach); fields by quadrature work in d = 2"
        )
    if problem.dim > 2:
        return _sampled_report(problem, choice, targets, refused, samples, seed)
    return _grid_report(problem, choice, targets, refused, diffusion)


# --- d = 1 and 2: densities on a grid


def make_grid(problem: Problem, field: ExactField, targets: dict[str, Tilt]) -> tuple[Array, ...]:
    """Axes that hold base, targets and what the field samples."""
    laws = [problem.base, *(t.law for t in targets.values() if t.law is not None)]
    low = torch.stack([_reach(law, -TAIL_STDS).amin(0) for law in laws]).amin(0)
    high = torch.stack([_reach(law, TAIL_STDS).amax(0) for law in laws]).amax(0)
    ends = _pushed_shell(field)
    low, high = torch.minimum(low, ends.amin(0)), torch.maximum(high, ends.amax(0))
    if problem.dim == 2:
        corners = zip(low.tolist(), high.tolist(), strict=True)
        return tuple(np.linspace(a, b, PLANE_POINTS) for a, b in corners)
    # Evenly spaced, and dense where the law and the components are: thin peaks are not missed.
    across = torch.linspace(-TAIL_STDS, TAIL_STDS, PUSHED_POINTS, dtype=field.dtype)[:, None]
    pushed = FlowLaw(field, rtol=1e-5, atol=1e-5).push(across * _start_std(field))[:, 0]
    parts = [np.linspace(float(low), float(high), LINE_POINTS), pushed.numpy()]
    for law in laws[:2]:  # the base, and the exponential tilt's heaviest components
        top = law.log_abs.topk(min(8, law.n_components)).indices
        std = law.cov[top, 0, 0].sqrt().numpy()
        parts.append((law.mean[top, 0].numpy() + SPACING[:, None] * std).ravel())
    axis = np.sort(np.concatenate(parts))
    axis = axis[(axis >= float(low)) & (axis <= float(high))]
    gaps = np.diff(axis, prepend=-np.inf) > 1e-6 * (axis[-1] - axis[0])
    return (axis[gaps],)


def uniform_line(problem: Problem, field: ExactField, axis: Array) -> Array:
    """Even points over `axis` and over the start law, for the Fokker-Planck equation."""
    start = TAIL_STDS * float(_start_std(field))
    low, high = min(float(axis[0]), -start), max(float(axis[-1]), start)
    return np.linspace(low, high, SDE_POINTS)


def _start_std(field: ExactField) -> Tensor:
    return field.path.sigma(torch.zeros((), dtype=field.dtype))


def _reach(law: GaussianSum, stds: float) -> Tensor:
    """mean + stds * std of every component that weighs anything, (K, d)."""
    heavy = law.log_abs > law.log_abs.max() - 36.0
    std = law.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    return (law.mean + stds * std)[heavy]


def _pushed_shell(field: ExactField) -> Tensor:
    """Where starting points TAIL_STDS from the origin end up."""
    if field.dim == 1:
        start = torch.tensor([[-TAIL_STDS], [TAIL_STDS]], dtype=field.dtype)
    else:
        angle = torch.linspace(0, 2 * torch.pi, 33, dtype=field.dtype)[:-1]
        start = TAIL_STDS * torch.stack([angle.cos(), angle.sin()], -1)
    return FlowLaw(field, rtol=1e-5, atol=1e-5).push(start * _start_std(field))


def flow_on_grid(field: ExactField, axes: tuple[Array, ...]) -> GridLaw:
    """The ODE's density (and cdf, d = 1) on a grid."""
    points = _points(axes)
    # Errors of 1e-10 on the line and 1e-8 in the plane: below the floors of the distances.
    tolerances = (1e-8, 1e-10) if len(axes) == 1 else (1e-7, 1e-9)
    law = FlowLaw(field, *tolerances)
    x0, log_density = law.pull_back(points)
    cdf = None
    if len(axes) == 1:
        cdf = torch.special.ndtr(x0[:, 0] / _start_std(field)).numpy()
    return GridLaw(axes, log_density.reshape([len(a) for a in axes]).numpy(), cdf)


def tilt_on_grid(target: Tilt, axes: tuple[Array, ...]) -> GridLaw:
    """A target's density (and cdf, d = 1) on a grid."""
    law = target.law
    # The sum's own log-density does not underflow where Phi(r) does.
    exact = law.log_density if law is not None and law.is_positive else target.log_density
    return _on_grid(exact, law, axes)


def mixture_on_grid(law: GaussianSum, axes: tuple[Array, ...]) -> GridLaw:
    """A mixture's density (and cdf, d = 1) on a grid."""
    return _on_grid(law.log_density, law, axes)


def _on_grid(
    log_density: Callable[[Tensor], Tensor], law: GaussianSum | None, axes: tuple[Array, ...]
) -> GridLaw:
    values = log_density(_points(axes)).reshape([len(a) for a in axes]).numpy()
    cdf = None
    if len(axes) == 1:
        if law is not None:
            cdf = law.cdf(torch.as_tensor(axes[0])).numpy()
        else:
            cdf = CubicSpline(axes[0], np.exp(values)).antiderivative()(axes[0])
    return GridLaw(axes, values, cdf)


def _points(axes: tuple[Array, ...]) -> Tensor:
    grid = torch.meshgrid(*(torch.as_tensor(a) for a in axes), indexing="ij")
    return torch.stack([g.reshape(-1) for g in grid], -1)


def _grid_report(
    problem: Problem,
    choice: FieldChoice,
    targets: dict[str, Tilt],
    refused: dict[str, str],
    diffusion: Diffusion | None,
) -> LawReport:
    axes = make_grid(problem, choice.field, targets)
    if diffusion is not None:
        axes = (uniform_line(problem, choice.field, axes[0]),)
    base = mixture_on_grid(problem.base, axes)
    if diffusion is None:
        law, null = flow_on_grid(choice.field, axes), flow_on_grid(problem.base_field, axes)
    else:
        law = sde_law(choice.field, diffusion, axes[0])
        null = sde_law(problem.base_field, diffusion, axes[0])
    lost = abs(1 - law.mass())
    if not lost <= MOST_LOST_MASS:
        raise ValueError(
            f"the grid of {'x'.join(str(len(a)) for a in axes)} points misses {lost:.1e} of the "
            f"law's mass: allowed is {MOST_LOST_MASS:g}; the law is too thin for this grid, try a "
            "smaller scale or wider components"
        )
    floors = grid_distances(null, base)
    curves = {"base": base}
    curves |= {label: tilt_on_grid(target, axes) for label, target in targets.items()}
    distances = {
        label: {
            name: d.at_least(abs(floors[name].value))
            for name, d in grid_distances(law, curve).items()
        }
        for label, curve in curves.items()
    }
    reward = problem.reward(_points(axes)).reshape(law.log_density.shape).numpy()
    mean, cov = law.moments()
    curves["law"] = law
    return LawReport(
        problem=problem.name,
        field=choice.label,
        sampler="ODE" if diffusion is None else f"SDE, {diffusion.label}",
        dim=problem.dim,
        distances=distances,
        refused=refused,
        mean=mean.tolist(),
        std=np.sqrt(np.diag(cov)).tolist(),
        mean_reward=_grid_mean(law, reward),
        reward_of_target={k: _grid_mean(c, reward) for k, c in curves.items() if k != "law"},
        mass=law.mass(),
        curves=curves,
    )


def _grid_mean(law: GridLaw, values: Array) -> float:
    return law.integrate(values) / law.mass()


# --- any d: draws with their log-densities --------------------------------------------------


def draw(target: Tilt, field: ExactField, n: int, generator: torch.Generator) -> Tensor:
    """Exact draws of a target: from its mixture, or through its exact field."""
    if target.law is not None and target.law.is_positive:
        return target.law.sample(n, generator)
    return FlowLaw(field, rtol=1e-6, atol=1e-8).sample(n, generator)


def _sampled_report(
    problem: Problem,
    choice: FieldChoice,
    targets: dict[str, Tilt],
    refused: dict[str, str],
    samples: int,
    seed: int,
) -> LawReport:
    generator = torch.Generator().manual_seed(seed)
    law = FlowLaw(choice.field, rtol=1e-6, atol=1e-8)
    x, log_p = law.push_with_log_density(law.start(samples, generator))
    draws = {"law": x}
    densities = {"base": problem.base.log_density(x)}
    pairs = {"base": [problem.base.sample(samples, generator) for _ in range(2)]}
    for label, target in targets.items():
        own = problem.tilted_field(target.wrapper)
        densities[label] = target.log_density(x)
        pairs[label] = [draw(target, own, samples, generator) for _ in range(2)]
    distances = {
        label: sample_distances(x, log_p, densities[label], *pairs[label]) for label in pairs
    }
    draws |= {label: pair[0] for label, pair in pairs.items()}
    return LawReport(
        problem=problem.name,
        field=choice.label,
        sampler=f"ODE, {samples} draws, seed {seed}",
        dim=problem.dim,
        distances=distances,
        refused=refused,
        mean=x.mean(0).tolist(),
        std=x.std(0).tolist(),
        mean_reward=float(problem.reward(x).mean()),
        reward_of_target={
            k: float(problem.reward(v).mean()) for k, v in draws.items() if k != "law"
        },
        mass=None,
        samples={k: v.numpy() for k, v in draws.items()},
    )
