"""Exact velocity fields: the base, every tilt, and fields that displace the base's.

A VelocityModel maps (x, t) to a velocity; exact fields also know their score, posterior mean and
divergence. All are the base field plus a displacement e(x, t) (see `theory.tilts.conditional`):

    E[X_1 | x] = E_0[X_1 | x] + sigma^2 e,   velocity = v0 + gain e,   score = s0 + alpha e

with gain = sigma (alpha' sigma - alpha sigma'), 1 - t for the rectified flow. Points are
(*b, n, d), times a scalar or (*b, n). Fields keep the dtype of their
input; their parameters must have it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from theory.common.checks import check_points, check_time
from theory.fields.paths import RECTIFIED_FLOW, Path, column
from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import MAX_DIM_DIFFERENCES, Posterior, combine_by_matmul
from theory.laws.rounding import Rounding, is_bounded, refuse_lost
from theory.tilts.conditional import ConditionalTilt
from theory.tilts.tilt import Tilt

# Rows evaluated at once: temporaries of about this many numbers stay in cache.
CHUNK_NUMBERS = 2**17


@runtime_checkable
class VelocityModel(Protocol):
    """What samples: x (n, *event), t (n,) or a scalar -> velocity of x's shape."""

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor: ...


class ExactField(ABC):
    """A velocity field known in closed form (or by quadrature).

    time_by_row: whether t may differ between points.
    """

    path: Path
    time_by_row: ClassVar[bool] = True

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension d of the points."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters, and of the points it takes."""

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        """Velocity at x (*b, n, d)."""

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The score that the velocity implies on this path."""
        return self.path.convert(self(x, t), x, t, "velocity", "score")

    def posterior_mean(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The E[X_1 | X_t = x] that the velocity implies."""
        return self.path.convert(self(x, t), x, t, "velocity", "x1")

    def with_divergence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(velocity, its divergence in x (*b, n)); here by automatic differentiation."""
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            velocity = self(point, t)
            trace = torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)
            for i in range(x.shape[-1]):
                (row,) = torch.autograd.grad(
                    velocity[..., i].sum(), point, retain_graph=i + 1 < x.shape[-1]
                )
                trace = trace + row[..., i]
        return velocity.detach(), trace

    def divergence(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Divergence of the velocity in x, (*b, n)."""
        return self.with_divergence(x, t)[1]


@dataclass(frozen=True, eq=False)
class MixtureField(ExactField):
    """The exact field of a Gaussian sum: v = E[alpha' X_1 + sigma' X_0 | X_t = x]."""

    law: GaussianSum
    path: Path = RECTIFIED_FLOW

    @property
    def dim(self) -> int:
        return self.law.dim

    @property
    def dtype(self) -> torch.dtype:
        return self.law.dtype

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Self:
        return type(self)(self.law.to(dtype, device), self.path)

    def posterior(self, x: Tensor, t: Tensor | float) -> Posterior:
        """X_1 given X_t = x, component by component."""
        check_points(x, self.dim, self.dtype)
        time = check_time(t, x)
        return self.law.noised(x, self.path.alpha(time), self.path.sigma(time))

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        check_points(x, self.dim, self.dtype)
        time = check_time(t, x)
        velocity = self.evaluate(x, time)
        if self.may_lose(x, time):
            error = Rounding(self.posterior(x, time)).combination(*self._readout(time))
            refuse_lost("the velocity", error, velocity.norm(dim=-1).clamp_min(1.0))
        return velocity

    def may_lose(self, x: Tensor, t: Tensor) -> bool:
        """Whether rounding may have reached a value's digits (theory.laws.rounding)."""
        times = self.path.alpha(t), self.path.sigma(t)
        return is_bounded(x) and self.law.extent.may_lose(x, *times)

    def evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity without checks, in chunks that stay in cache."""
        parts = self.chunks(x, t)
        if len(parts) == 1 or (torch.is_grad_enabled() and x.requires_grad):
            return torch.cat([self._velocity(*part) for part in parts], dim=-2)
        result, row = torch.empty_like(x), 0
        for points, times in parts:  # written while in cache: `cat` would read it all again
            result[..., row : row + points.shape[-2], :] = self._velocity(points, times)
            row += points.shape[-2]
        return result

    def chunks(self, x: Tensor, t: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(x, t) cut along the points, so that temporaries stay in cache."""
        n, k, d = x.shape[-2], self.law.n_components, self.dim
        width = max(k, d) if self.law.spectrum.isotropic else k * d
        rows = max(256, CHUNK_NUMBERS // (width * max(1, self.law.batch_shape.numel())))
        if n <= rows:
            return [(x, t)]
        times = t.split(rows, -1) if t.ndim and t.shape[-1] == n else [t] * -(-n // rows)
        return list(zip(x.split(rows, -2), times, strict=True))

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        law = self.law
        wide = law.spectrum.isotropic and law.dim > MAX_DIM_DIFFERENCES and law.is_positive
        if wide and t.ndim == 0:
            times = self.path.alpha(t), self.path.sigma(t)
            return combine_by_matmul(law, x, *times, *self._readout(t))
        return law.noised(x, self.path.alpha(t), self.path.sigma(t)).combine(*self._readout(t))

    def _readout(self, t: Tensor) -> tuple[Tensor, Tensor]:
        p, q = self.path.dalpha(t), self.path.sigma_dsigma(t)
        return (p[..., None, :] if p.ndim else p), (q[..., None, :] if q.ndim else q)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.posterior(x, t).score

    def posterior_mean(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.posterior(x, t).mean

    def posterior_covariance(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Cov(X_1 | X_t = x), (*b, n, d, d)."""
        return self.posterior(x, t).covariance()

    def log_density(self, x: Tensor, t: Tensor | float) -> Tensor:
        """log|density of X_t| at x, (*b, n)."""
        return self.posterior(x, t).log_abs

    def with_divergence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        velocity, trace = [], []
        for part, time in self.chunks(x, check_time(t, x)):
            post, readout = self.posterior(part, time), self._readout(time)
            velocity.append(post.combine(*readout))
            trace.append(post.combine_divergence(*readout))
            if self.may_lose(part, time):
                error = Rounding(post).divergence(*readout)
                refuse_lost("the divergence", error, trace[-1].abs().clamp_min(1.0))
        return torch.cat(velocity, -2), torch.cat(trace, -1)


class MovedField(ExactField):
    """A field made of another, `base`: on its path, in its dimension and dtype."""

    base: MixtureField

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.base.path

    @property
    def dim(self) -> int:
        return self.base.dim

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype


@dataclass(frozen=True, eq=False)
class ModelField(ExactField):
    """Any VelocityModel in d dimensions as a field: a trained network, say.

    model: called with x (n, d), t (n,), in `dtype`. Score and posterior mean are what its velocity
    implies on the path, inside (0, 1); divergences come by automatic differentiation.
    """

    model: VelocityModel
    n_dims: int
    path: Path = RECTIFIED_FLOW
    precision: torch.dtype = torch.float64

    @property
    def dim(self) -> int:
        return self.n_dims

    @property
    def dtype(self) -> torch.dtype:
        return self.precision

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        check_points(x, self.dim, self.dtype)
        time = check_time(t, x).expand(x.shape[:-1])
        return self.model(x.reshape(-1, self.dim), time.reshape(-1), cond).reshape(x.shape)


class Displacement(Protocol):
    """e(x, t) as a function of the base's posterior at (x, t)."""

    def __call__(self, post: Posterior) -> Tensor: ...

    def with_divergence(self, post: Posterior) -> tuple[Tensor, Tensor] | None:
        """(e, div e) where there is a closed form, else None (automatic differentiation then)."""


@dataclass(frozen=True, eq=False)
class DisplacedField(MovedField):
    """The base's field moved by a displacement e, given as a function of the base's posterior."""

    base: MixtureField
    displacement: Displacement

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        velocity = []
        for part, time in self.base.chunks(x, check_time(t, x)):
            post = self.base.posterior(part, time)
            self._check_rounding(post, time)
            move = column(self.path.gain(time)) * self.displacement(post)
            velocity.append(post.combine(*self.base._readout(time)) + move)
        return torch.cat(velocity, -2)

    def with_divergence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        velocity, trace = [], []
        for part, time in self.base.chunks(x, check_time(t, x)):
            post = self.base.posterior(part, time)
            known = self.displacement.with_divergence(post)
            if known is None:
                return super().with_divergence(x, t)
            move, spread = known
            readout, gain = self.base._readout(time), self.path.gain(time)
            velocity.append(post.combine(*readout) + column(gain) * move)
            trace.append(post.combine_divergence(*readout) + gain * spread)
            self._check_rounding(post, time, trace[-1])
        return torch.cat(velocity, -2), torch.cat(trace, -1)

    def _check_rounding(self, post: Posterior, t: Tensor, divergence: Tensor | None = None) -> None:
        """The base's, whose weights all averages share; what they average keeps its digits."""
        if not self.base.may_lose(post.points.mT, t):
            return
        readout, rounding = self.base._readout(t), Rounding(post)
        size = post.combine(*readout).norm(dim=-1).clamp_min(1.0)
        refuse_lost("the velocity", rounding.combination(*readout), size)
        if divergence is not None:
            size = divergence.abs().clamp_min(1.0)
            refuse_lost("the divergence", rounding.divergence(*readout), size)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        post, time = self.base.posterior(x, t), check_time(t, x)
        return post.score + column(self.path.alpha(time)) * self.displacement(post)

    def posterior_mean(self, x: Tensor, t: Tensor | float) -> Tensor:
        post, time = self.base.posterior(x, t), check_time(t, x)
        return post.mean + column(self.path.sigma(time)) ** 2 * self.displacement(post)


@dataclass(frozen=True, eq=False)
class _TiltDisplacement:
    conditional: ConditionalTilt

    def __call__(self, post: Posterior) -> Tensor:
        return self.conditional.evaluate(post)[2]

    def with_divergence(self, post: Posterior) -> tuple[Tensor, Tensor] | None:
        return None


def tilted_field(target: Tilt, path: Path) -> ExactField:
    """The velocity whose flow samples the tilt exactly."""
    if target.law is not None:
        return MixtureField(target.law, path)
    assert target.conditional is not None
    return DisplacedField(MixtureField(target.base, path), _TiltDisplacement(target.conditional))
