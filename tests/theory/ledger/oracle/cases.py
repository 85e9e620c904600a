"""Problems whose conditional quantities are worked out by hand."""

from __future__ import annotations

import numpy as np

from theory.ledger.oracle.conditional import Instant
from theory.ledger.oracle.instants import instant
from theory.ledger.oracle.integrals.plane import PlaneNumbers

INSTANTS = {
    "middle": instant("rectified_flow", 0.4),
    "start": instant("rectified_flow", 0.0),
    "late": instant("rectified_flow", 0.995),
    "exploding": Instant(1.0, 7.0, 0.0, -30.0),
}


class OneGaussian:
    """X_1 ~ N(mean, cov) in R^dim, reward c + w.X_1; the plane holds w's direction.

    Everything by regression: K = alpha cov S^-1 with S = alpha^2 cov + sigma^2 I.
    """

    def __init__(self, e: int, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        frame = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        factor = 0.5 * rng.normal(size=(e, e)) + np.eye(e)
        mean, w, self.constant = rng.normal(size=e), rng.normal(size=e), 0.4
        self.case = PlaneNumbers(
            weights=np.ones(1),
            means=mean[None],
            covs=(factor @ factor.T)[None],
            kind="linear",
            parameters={"vector": w, "constant": np.array(self.constant)},
            scale=1.0,
            frame=frame,
            rest_std=0.6,
        )
        plane, rest = frame[:, :e], frame[:, e:]
        self.mean, self.w = plane @ mean, plane @ w
        self.cov = plane @ factor @ factor.T @ plane.T + 0.36 * rest @ rest.T
        self.x = rng.normal(size=dim)

    def _posterior(self, at: Instant, tilt: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of X_1 given X_t = x; a tilt moves the prior mean by tilt cov w."""
        mean = self.mean + tilt * self.cov @ self.w
        total = at.alpha**2 * self.cov + at.sigma**2 * np.eye(len(mean))
        gain = at.alpha * np.linalg.solve(total, self.cov).T
        return mean + gain @ (self.x - at.alpha * mean), self.cov - at.alpha * gain @ self.cov

    def _rate(self, at: Instant) -> float:
        """dV / dX_1 at fixed x."""
        return at.dalpha - at.dsigma * at.alpha / at.sigma

    def velocity(self, at: Instant, tilt: float = 0.0) -> np.ndarray:
        mean, _ = self._posterior(at, tilt)
        return self._rate(at) * mean + at.dsigma / at.sigma * self.x

    def mean_reward(self, at: Instant) -> float:
        return self.constant + float(self.w @ self._posterior(at, 0.0)[0])

    def mean_reward_gradient(self, at: Instant) -> np.ndarray:
        total = at.alpha**2 * self.cov + at.sigma**2 * np.eye(len(self.x))
        return at.alpha * np.linalg.solve(total, self.cov @ self.w)

    def score(self, at: Instant, tilt: float = 0.0) -> np.ndarray:
        mean = self.mean + tilt * self.cov @ self.w
        total = at.alpha**2 * self.cov + at.sigma**2 * np.eye(len(mean))
        return -np.linalg.solve(total, self.x - at.alpha * mean)

    def covariance(self, at: Instant) -> np.ndarray:
        return self._rate(at) * self._posterior(at, 0.0)[1] @ self.w


def mixture(e: int, kind: str, dim: int | None = None, seed: int = 3) -> PlaneNumbers:
    """Two components, bumps or a quadratic reward."""
    rng = np.random.default_rng(seed)
    if kind == "bumps":
        parameters = {
            "heights": np.array([1.0, 0.5]),
            "centres": rng.normal(size=(2, e)),
            "precisions": np.array([1.5 * np.eye(e), 0.7 * np.eye(e)]),
        }
    else:
        parameters = {
            "matrix": -0.3 * np.eye(e),
            "vector": rng.normal(size=e),
            "constant": np.array(0.2),
        }
    return PlaneNumbers(
        weights=np.array([0.35, 0.65]),
        means=np.stack([-np.ones(e), 1.2 * np.ones(e)]),
        covs=np.stack([0.3 * np.eye(e), 0.5 * np.eye(e)]),
        kind=kind,
        parameters=parameters,
        scale=1.0,
        frame=np.linalg.qr(rng.normal(size=(dim or e, dim or e)))[0],
        rest_std=0.8,
    )
