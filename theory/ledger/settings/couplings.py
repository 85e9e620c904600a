"""Where couplings are tried: random families (the oracle's `joint`) with a point, a time, and a."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from theory.laws.couplings import CouplingFamily
from theory.laws.distances import Array
from theory.ledger.oracle.integrals.joint import JointNumbers, random_joint
from theory.ledger.settings.domain import AnySetting, Domain


@dataclass(frozen=True, eq=False)
class CouplingSetting(AnySetting):
    """A family of couplings, a point x (d,) of X_t, and the parameter a."""

    joint: JointNumbers
    x: Array
    t: float
    a: float

    @property
    def dim(self) -> int:
        return self.joint.dim

    @cached_property
    def family(self) -> CouplingFamily:
        """The same in R^(2d): the plane's directions of x_0 and x_1, then the rest."""
        j, e, d = self.joint, self.joint.plane_dim, self.joint.dim
        plane, rest = j.frame[:, :e], j.frame[:, e:]
        into = np.zeros((2 * d, 2 * d))  # columns: plane x_0, plane x_1, rest x_0, rest x_1
        into[:d, :e], into[d:, e : 2 * e] = plane, plane
        into[:d, 2 * e : d + e], into[d:, d + e :] = rest, rest
        k = len(j.logits)

        def wide(block: Array, own: float) -> Array:
            full = np.zeros((k, 2 * d, 2 * d))
            full[:, : 2 * e, : 2 * e] = block
            ones, many = np.eye(d - e), 2 * e
            full[:, many : many + d - e, many : many + d - e] = own * ones
            full[:, many + d - e :, many + d - e :] = own * j.rest_std * ones
            return into @ full

        def long(rows: Array) -> Array:
            return rows @ into[:, : 2 * e].T

        parts = (
            j.logits,
            long(j.means),
            wide(j.factors, 1.0),
            j.logit_rates,
            long(j.mean_rates),
            wide(j.factor_rates, 0.0),
        )
        return CouplingFamily(*(torch.as_tensor(p) for p in parts))

    @property
    def point(self) -> Tensor:
        return torch.as_tensor(self.x)[None, :]

    def describe(self) -> str:
        dependent = np.abs(self.joint.factors[:, self.joint.plane_dim :, : self.joint.plane_dim])
        kind = "dependent" if dependent.max() > 0 else "independent"
        return (
            f"d = {self.dim}, {kind} coupling of {len(self.joint.logits)} Gaussians, "
            f"t = {self.t:.3g}, a = {self.a:.3g}"
        )


@dataclass(frozen=True)
class Couplings(Domain[CouplingSetting]):
    """Random families of couplings (the oracle's `joint`), dependent or independent."""

    dependent: bool = True

    def draw(self, dim: int, seed: int) -> CouplingSetting:
        rng = np.random.default_rng([seed, 3, dim])
        joint = random_joint(dim, int(rng.integers(2**32)), self.dependent)
        t, a = float(rng.uniform(0.0, 0.95)), float(rng.choice([0.0, rng.uniform(-0.5, 0.8)]))
        e = joint.plane_dim
        k = rng.integers(len(joint.logits))
        u = joint.means[k] + a * joint.mean_rates[k]
        u = u + (joint.factors[k] + a * joint.factor_rates[k]) @ rng.normal(size=2 * e)
        rest = (1 - t) * rng.normal(size=dim - e) + t * joint.rest_std * rng.normal(size=dim - e)
        x = joint.frame @ np.concatenate([t * u[e:] + (1 - t) * u[:e], rest])
        return CouplingSetting(joint, x, t, a)

    def nudge(
        self, setting: CouplingSetting, rng: np.random.Generator, step: float
    ) -> CouplingSetting | None:
        j, e = setting.joint, setting.joint.plane_dim
        keep = np.tril(np.ones((2 * e, 2 * e)))
        keep[:e] = 0
        if not self.dependent:
            keep[:, :e] = 0
        late = np.concatenate([np.zeros(e), np.ones(e)])
        factors = j.factors + step * keep * rng.normal(size=j.factors.shape)
        own = factors[:, range(e, 2 * e), range(e, 2 * e)]
        joint = replace(
            j,
            logits=j.logits + step * rng.normal(size=j.logits.shape),
            means=j.means + step * late * rng.normal(size=j.means.shape),
            factors=factors,
            factor_rates=j.factor_rates + step * keep * rng.normal(size=j.factors.shape),
            mean_rates=j.mean_rates + step * late * rng.normal(size=j.means.shape),
        )
        t = min(max(setting.t + 0.3 * step * rng.normal(), 0.0), 0.97)
        x = setting.x + step * rng.normal(size=setting.x.shape)
        inside = own.min() > 0.25 and own.max() < 2.0 and np.abs(joint.means).max() < 5
        moved = np.abs(joint.factor_rates).max() < 1.0 and np.abs(joint.mean_rates).max() < 4
        if not (inside and moved and np.abs(x).max() < 5 and abs(setting.a) < 1):
            return None
        return CouplingSetting(joint, x, t, setting.a)
