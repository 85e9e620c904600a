"""Where identities about GFlowNets on a chain are tried: a problem, a chain, a path of states."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from theory import GaussianSum, Problem, bumps_reward
from theory.fields.paths import PATHS
from theory.laws.distances import Array
from theory.ledger.oracle.gflownet.numbers import FlowNumbers, levels
from theory.ledger.settings.domain import AnySetting, Domain
from theory.ledger.settings.plane import PlaneProblem
from theory.ledger.settings.problems import Problems, Setting
from theory.ledger.settings.random import MAX_CONDITION
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Exponential, Power, Wrapper

SMOOTH = ("rectified_flow", "trigonometric", "variance_preserving")
STEPS = (2, 6)
ENDS = (0.03, 0.3)  # sigma_end
MOST_END = 0.5  # of the noise of the state before: sigma_end leaves every kernel its variance
POWERS = (1, 2, 3)  # of a plain R
PRIORS = (0.3, 2.5)  # eta
STARTS = (0.6, 1.6)  # s_0
SMOOTHING = (0.02, 0.5)  # c, of a reward that is averaged over N(x, c^2)
REACH = 3.5  # states lie within so many standard deviations of the base's or the reward's part
TRIES = 50
LINE_TOPS = 9.0  # (1.2 / 0.4)^2, of settings.random


@dataclass(frozen=True, eq=False)
class FlowSetting(AnySetting):
    """A problem, a chain of `steps` kernels with `sigma_end` on its last state, a step k, and
    states (T + 1, d) of a path, x = states[k] and x' = states[k + 1].

    power: beta. form: "log", R = exp(r), or "plain", R = r. prior: whether W = R^beta p_T or
    R^beta, where R decays along every axis (reward_std: outside the plane; inf, not at all).
    For some rows: eta, the prior's strength; start_std, of a first law that is not F_0; smoothing.
    """

    case: PlaneProblem
    path: str
    steps: int
    sigma_end: float
    first_time: float
    k: int
    states: Array
    power: float
    form: str
    prior: bool
    reward_std: float
    eta: float
    start_std: float
    smoothing: float

    @property
    def dim(self) -> int:
        return self.case.dim

    @property
    def x(self) -> Array:
        """(d,), at step k."""
        return np.asarray(self.states[self.k])

    @property
    def x_next(self) -> Array:
        """(d,), at step k + 1."""
        return np.asarray(self.states[self.k + 1])

    # --- first route

    @cached_property
    def problem(self) -> Problem:
        """Base, reward and path. Its reward is r: log R, or R itself where the form is plain."""
        found = replace(self.case.problem(), path=PATHS[self.path]())
        if math.isinf(self.reward_std):
            return found
        e, p = self.case.plane_dim, self.case.parameters
        plane, rest = np.split(self.case.frame, [e], axis=1)
        precisions = plane @ p["precisions"] @ plane.T + rest @ rest.T / self.reward_std**2
        decaying = bumps_reward(
            torch.as_tensor(p["heights"]),
            torch.as_tensor(p["centres"] @ plane.T),
            precisions=torch.as_tensor(0.5 * (precisions + np.swapaxes(precisions, 1, 2))),
        )
        return replace(found, reward=decaying)

    @cached_property
    def chain(self) -> Chain:
        return Chain(self.steps, self.sigma_end, PATHS[self.path](), self.first_time)

    @cached_property
    def wrapper(self) -> Wrapper:
        """Phi(r) = R^beta."""
        return Exponential(self.power) if self.form == "log" else Power(round(self.power))

    @cached_property
    def last(self) -> GaussianSum:
        """p_T, the base with sigma_end^2 added."""
        return self.problem.base.convolved(1.0, self.sigma_end)

    @property
    def point(self) -> Tensor:
        """x, (1, d)."""
        return torch.as_tensor(self.x)[None]

    @property
    def next_point(self) -> Tensor:
        """x', (1, d)."""
        return torch.as_tensor(self.x_next)[None]

    # --- second route

    @cached_property
    def numbers(self) -> FlowNumbers:
        alpha, sigma = levels(self.path, self.steps, self.sigma_end, self.first_time)
        return FlowNumbers(
            self.case, alpha, sigma, self.power, self.form, self.prior, self.reward_std
        )

    # --- tables

    def describe(self) -> str:
        kind = "exp(r)" if self.form == "log" else "r"
        weight = f"({kind})^{self.power:.3g}" + (" p_T" if self.prior else "")
        return (
            f"d = {self.dim}, {len(self.case.weights)} Gaussians (condition "
            f"{self.case.condition:.2g}), {self.case.kind} r, W = {weight}, "
            f"{self.path.replace('_', ' ')}, k = {self.k} of {self.steps}, sigma_end = "
            f"{self.sigma_end:.2g}, t_0 = {self.first_time:.2g}, |x| = "
            f"{np.linalg.norm(self.x):.3g}"
        )


@dataclass(frozen=True)
class FlowProblems(Domain[FlowSetting]):
    """Random ones. prior: W = R^beta p_T, any kind of r; without it R is a sum of bumps that
    decay along every axis, and W = R^beta.

    forms: of R, where there is a prior. late: whether some chains begin at first_time > 0, so that
    their first law is not F_0. steps, ends: ranges.
    """

    setting = FlowSetting

    prior: bool = True
    forms: tuple[str, ...] = ("log", "plain")
    kinds: tuple[str, ...] = ("linear", "quadratic", "bumps")
    paths: tuple[str, ...] = SMOOTH
    late: bool = True
    steps: tuple[int, int] = STEPS
    ends: tuple[float, float] = ENDS
    max_condition: float = MAX_CONDITION
    problems: Problems = field(init=False)

    def __post_init__(self) -> None:
        kinds = self.kinds if self.prior else ("bumps",)
        problems = Problems(kinds=kinds, max_condition=self.max_condition)
        object.__setattr__(self, "problems", problems)

    def draw(self, dim: int, seed: int) -> FlowSetting:
        plain = self.problems.draw(dim, seed)
        rng = np.random.default_rng([seed, dim, 53])
        bumps = plain.case.kind == "bumps"
        allowed = [f for f in self.forms if bumps or f == "log"] if self.prior else ["plain"]
        form = str(rng.choice(allowed))
        power = abs(plain.a) + 0.1 * plain.case.scale
        first_time = float(rng.uniform(0.05, 0.5)) if self.late and rng.random() < 0.4 else 0.0
        steps = int(rng.integers(self.steps[0], self.steps[1] + 1))
        setting = FlowSetting(
            case=plain.case,
            path=str(rng.choice(self.paths)),
            steps=steps,
            sigma_end=math.exp(rng.uniform(*np.log(self.ends))),
            first_time=first_time,
            k=int(rng.integers(0, steps)),
            states=np.zeros((steps + 1, dim)),
            power=float(rng.choice(POWERS)) if form == "plain" else power,
            form=form,
            prior=self.prior,
            reward_std=math.inf if self.prior else math.exp(rng.uniform(-0.5, 0.5)),
            eta=math.exp(rng.uniform(*np.log(PRIORS))),
            start_std=math.exp(rng.uniform(*np.log(STARTS))),
            smoothing=math.exp(rng.uniform(*np.log(SMOOTHING))),
        )
        most = MOST_END * _before_last(setting)
        setting = replace(setting, sigma_end=min(setting.sigma_end, most))
        for _ in range(TRIES):
            setting = replace(setting, states=_states(setting, rng))
            if _farthest(setting) <= REACH:
                return setting
        raise ValueError(f"seed must give states within {REACH:g} deviations, got {seed}")

    def nudge(
        self, setting: FlowSetting, rng: np.random.Generator, step: float
    ) -> FlowSetting | None:
        case = setting.case
        middle = case.frame[:, : case.plane_dim] @ (
            0.5 * case.means[0]
        )  # the states are held below
        plain = Setting(case, middle, 0.5, 1.0, _tilt(setting))
        problems = self.problems
        if case.plane_dim == 1:  # drawn variances lie condition * LINE_TOPS apart at most
            problems = replace(problems, max_condition=self.max_condition * LINE_TOPS)
        moved = problems.nudge(plain, rng, step)
        if moved is None:
            return None
        first_time = setting.first_time
        if first_time > 0:
            first_time = min(max(first_time + step * rng.normal(), 0.02), 0.6)
        power = setting.power if setting.form == "plain" else abs(moved.a)
        stretch = np.exp(step * rng.normal(size=3))
        new = replace(
            setting,
            case=moved.case,
            sigma_end=float(setting.sigma_end * np.exp(step * rng.normal())),
            first_time=first_time,
            states=setting.states + step * rng.normal(size=setting.states.shape),
            power=float(power),
            eta=float(setting.eta * stretch[0]),
            start_std=float(setting.start_std * stretch[1]),
            smoothing=float(setting.smoothing * stretch[2]),
        )
        return new if self._allows(new) else None

    def _allows(self, s: FlowSetting) -> bool:
        most = MOST_END * _before_last(s)  # `draw` lowers sigma_end to it
        inside = [(s.sigma_end, (min(self.ends[0], most), self.ends[1]))]
        inside += [(s.eta, PRIORS), (s.start_std, STARTS), (s.smoothing, SMOOTHING)]
        if not all(0.9 * low <= value <= 1.1 * high for value, (low, high) in inside):
            return False
        return s.sigma_end <= most and _farthest(s) <= REACH


def _tilt(s: FlowSetting) -> float:
    """What the exponent of exp(a r) is held by; a plain R has none."""
    return s.power if s.form == "log" else s.case.scale * 0.1


def _before_last(s: FlowSetting) -> float:
    """The noise of state T - 1 in units of the last one's scale: sigma_end must be below it."""
    alpha, sigma = levels(s.path, s.steps, s.sigma_end, s.first_time)
    return float(sigma[-2] / alpha[-2] * alpha[-1]) if alpha[-2] > 0 else math.inf


def _ends(s: FlowSetting) -> tuple[Array, Array, Array]:
    """Weights, means and covariances in the plane of what X_T's places are drawn from."""
    case, noise = s.case, s.sigma_end**2 * np.eye(s.case.plane_dim)
    if s.prior:
        return case.weights, case.means, case.covs + noise
    p = case.parameters
    heights = p["heights"] / p["heights"].sum()
    return heights, p["centres"], np.asarray(np.linalg.inv(p["precisions"]))


def _states(s: FlowSetting, rng: np.random.Generator) -> Array:
    """A path: X_T where W has its mass, then noise kernels back, (T + 1, d)."""
    weights, means, covs = _ends(s)
    j, e = rng.choice(len(weights), p=weights), s.case.plane_dim
    aside = s.reward_std if math.isfinite(s.reward_std) else s.numbers.last.rest_std
    plane = means[j] + np.linalg.cholesky(covs[j]) @ rng.normal(size=e)
    found = [s.case.frame @ np.concatenate([plane, aside * rng.normal(size=s.dim - e)])]
    for k in range(s.steps - 1, -1, -1):
        noise = math.sqrt(s.numbers.forward[k]) * rng.normal(size=s.dim)
        found.insert(0, s.numbers.ratio[k] * found[0] + noise)
    return np.array(found)


def _farthest(s: FlowSetting) -> float:
    """Standard deviations, in the plane, of the state that is farthest from all components."""
    _, means, covs = _ends(s)
    e, worst = s.case.plane_dim, 0.0
    for k, state in enumerate(s.states):
        rho, tau = s.numbers.noising(k)
        gaps = (s.case.frame.T @ state)[:e] - rho * means
        spread = rho**2 * covs + tau**2 * np.eye(e)
        squares = np.einsum("ki,kij,kj->k", gaps, np.linalg.inv(spread), gaps)
        worst = max(worst, float(np.sqrt(squares.min())))
    return worst


def line_problems(prior: bool = True, late: bool = True) -> FlowProblems:
    """Short chains with wide features, for laws of X_T by tables on the line."""
    return FlowProblems(
        prior=prior,
        late=late,
        steps=(2, 3),
        ends=(0.15, 0.3),
        max_condition=10.0,
        paths=("rectified_flow", "trigonometric"),
    )
