"""zhu, Z5 and Z7: online recursions, with m_t frozen and recomputed, and EMA references."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from theory.claims.identity import Identity
from theory.claims.ledger import Context, Finding, extra, number
from theory.claims.order import Slope, fit_slope
from theory.claims.region import Region
from theory.claims.settings import Problems, Setting
from theory.claims.zhu_laws import gaussian_along_reward, nft_density, tilt_density
from theory.oracle import conditional
from theory.oracle.integrate import Array
from theory.problem import load_problem
from theory.recursion import Recursion, Trajectory, carry
from theory.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.wrappers import Exponential

MORE = [2, 4, 8, 16, 32, 64, 128, 200]  # epochs of the thorough profile: two decades
TOTAL = 2.0  # the sum of 2/beta over the epochs, where steps are made smaller
LOG_SIZE = 12.0  # log-ratios are averaged where the law lies within e^-12 of its peak


def _array(value: object) -> Array:
    return np.asarray(value)[0]


# --- Z5: what one epoch does when v_old is no RF field


def old_velocity(s: Setting, velocity: Array) -> Array:
    """Some v_old that is not the velocity of the data: shrunk and pushed aside."""
    return 0.8 * velocity + 0.3 * np.cos(np.arange(1, s.dim + 1))


def student_optimum(s: Setting, extra: float = 1.0, centre: float = 1.0) -> Array:
    """v_old + (2/beta) Cov(r, V | x) + (1/beta)(2 m_t - 1)(u - v_old)."""
    reward = s.problem.conditional_reward
    u = _array(s.problem.base_field(s.point, s.t))
    v = old_velocity(s, u)
    m = float(reward.mean(s.point, s.t)[0])
    step = 2 * _array(reward.covariance(s.point, s.t)) + extra * (2 * m - centre) * (u - v)
    return v + step / s.nft_beta


def student_by_quadrature(s: Setting) -> Array:
    v = old_velocity(s, conditional.velocity(s.case, s.x, s.at))
    return conditional.nft_minimiser(s.case, s.x, s.at, s.nft_beta, v_old=v)


STUDENT = Identity(
    "optimum with any v_old: v_old + (2/beta) Cov(r, V|x) + (1/beta)(2 m_t - 1)(u - v_old)",
    Problems(),
    student_optimum,
    student_by_quadrature,
    {
        "without the last term": lambda s: student_optimum(s, extra=0.0),
        "its sign": lambda s: student_optimum(s, extra=-1.0),
        "2 m_t for 2 m_t - 1": lambda s: student_optimum(s, centre=0.0),
    },
    lambda s: 1 + (2 * s.spread + 1) / s.nft_beta,
    role="instead",
)


def law_gap(trajectory: Trajectory, total: float) -> float:
    """RMS under the tilt of log q_K - log(p exp(total r)/Z), where the tilt has its mass."""
    problem, axis = trajectory.problem, torch.as_tensor(trajectory.axes[0])[:, None]
    tilt = problem.tilt(Exponential(total)).log_density(axis).numpy()
    gap = trajectory.laws[-1].log_density - tilt
    weight = np.where(tilt > tilt.max() - LOG_SIZE, np.exp(tilt), 0.0)
    return float(math.sqrt((weight * gap**2).sum() / weight.sum()))


def frozen_is_the_tilt(context: Context) -> Finding:
    """The claim at the data end: the law of v^0 + K lambda Cov against p^0 exp(K lambda r)/Z."""
    names = (
        ("note_1d",) if context.profile.name == "fast" else ("note_1d", "quadratic_1d", "linear_1d")
    )
    found = {}
    for name in names:
        problem = load_problem(name)
        lam = problem.scale / 2
        for k in (1, 4):
            p, q = (make(problem, k * lam) for make in (nft_density, tilt_density))
            found[f"{name}, K = {k}, 2/beta = {lam:g}"] = float(
                0.5 * np.trapezoid(np.abs(p - q), np.linspace(-9.0, 9.0, len(p)))
            )
    worst = max(found, key=lambda k: found[k])
    return Finding(
        "m_t frozen: law of the samples = p^0 exp(K lambda r)/Z", "claim", "exact",
        max(found.values()) <= QUADRATURE.rtol,
        f"TV {number(min(found.values()))} to {number(found[worst])}", {"tv": found},
        f"{worst}: TV {number(found[worst])}",
    )  # fmt: skip


def recursion_in_the_gaussian_case(context: Context) -> Finding:
    """Base Gaussian along a linear reward: every recursion is the tilt, at any step."""
    problem = gaussian_along_reward(1)
    epochs, beta = 4, 1.5
    total = epochs * 2 / beta
    worst, where = 0.0, ""
    for mode in ("frozen", "refit", "student"):
        run = carry(problem, Recursion(nft_beta=beta, mode=mode), epochs)
        gap = law_gap(run, total)
        if gap >= worst:
            worst, where = gap, mode
    wrong = law_gap(run, 1.1 * total)
    return Finding(
        "linear reward along a Gaussian direction: frozen, refit and student", "condition",
        "exact", worst <= QUADRATURE.rtol, f"log-density within {number(worst)} after 4 epochs",
        {"error": worst}, where, mutants={"total tilt 10 % off": wrong > QUADRATURE.rtol},
    )  # fmt: skip


def small_steps(mode: str) -> Callable[[Context], Finding]:
    """At a fixed total K lambda the law tends to the exact tilt as lambda falls: its order."""

    @extra
    def part(context: Context) -> Finding:
        fast = context.profile.name == "fast"
        names = ("note_1d",) if fast else ("note_1d", UNBOUNDED if mode == "refit" else "bumps_1d")
        counts = (
            [1, 2, 3, 4, 5, 6]
            if fast
            else MORE
            if context.profile.starts
            else [2, 3, 4, 6, 8, 16, 32]
        )
        slopes: dict[str, Slope] = {}
        errors: dict[str, list[float]] = {}
        for name in names:
            problem = load_problem(name)
            lams = TOTAL / np.array(counts)
            gaps = [
                law_gap(carry(problem, Recursion(2 / lam, mode), k), TOTAL)  # type: ignore[arg-type]
                for k, lam in zip(counts, lams, strict=True)
            ]
            slopes[name], errors[name] = fit_slope(lams, np.array(gaps), 1e-9), gaps
        worst = max(slopes, key=lambda k: abs(slopes[k].slope - 1))
        return Finding(
            f"v_old = {WORDS[mode]}: law to p^0 exp(K lambda r) as lambda falls",
            "instead", "order",
            all(s.order == 1 and s.is_order for s in slopes.values()),
            f"slope {slopes[worst]} in lambda ({worst}); RMS log-ratio "
            f"{number(errors[worst][0])} at {counts[0]} epochs, {number(errors[worst][-1])} at "
            f"{counts[-1]}",
            {"epochs": counts, "errors": errors, "slopes": {k: s.slope for k, s in slopes.items()}},
            worst, order=1, mutants={"frozen m_t": _frozen_does_not_shrink()},
        )  # fmt: skip

    return part


UNBOUNDED = "quadratic_1d"  # a reward far below 0, where only NFT's refitted form stays stable
WORDS = {"refit": "RF field of the last law's own samples", "student": "the last student itself"}


def _frozen_does_not_shrink() -> bool:
    """With m_t frozen the law depends on K lambda alone: small steps do not help."""
    problem = load_problem("note_1d")
    gaps = [law_gap(carry(problem, Recursion(2 * k / TOTAL, "frozen"), k), TOTAL) for k in (2, 4)]
    return abs(gaps[0] - gaps[1]) <= QUADRATURE.rtol * gaps[0] + QUADRATURE.rtol


@extra
def student_outside_unit_interval(context: Context) -> Finding:
    """Where m_t < 1/2 the student's own error (v_old - u) grows every epoch."""
    problem = load_problem(UNBOUNDED)
    said = ""
    try:
        carry(problem, Recursion(16.0, "student"), 16)
    except ValueError as error:
        said = str(error)
    refit = carry(problem, Recursion(16.0), 16)
    return Finding(
        "rewards outside [0, 1]: the student recursion diverges, the refitted one does not",
        "support", "exact", "leave the x grid" in said and refit.mass_error <= QUADRATURE.rtol,
        f"{UNBOUNDED}, nft_beta = 16: the student's trajectories leave the grid at "
        f"{said.split(':')[0] or 'no epoch'} of 16; refitted: mass within "
        f"{number(refit.mass_error)} after 16 epochs",
        {"mass_error": refit.mass_error}, UNBOUNDED,
    )  # fmt: skip


Z5_PARTS = (
    frozen_is_the_tilt,
    recursion_in_the_gaussian_case,
    STUDENT,
    small_steps("refit"),
    small_steps("student"),
    student_outside_unit_interval,
)


def epochs_region(cells: int) -> Region:
    """TV of the law after K refit epochs to p^0 exp(K lambda r)/Z, over lambda and K."""
    problem = load_problem("note_1d")
    lams, counts = np.geomspace(0.05, 1.0, max(cells // 2, 5)), np.arange(1, cells + 1)
    errors = np.empty((len(lams), cells))
    for i, lam in enumerate(lams):
        run = carry(problem, Recursion(2 / float(lam)), cells, grid=40 * cells)
        axis = run.axes[0]
        points = torch.as_tensor(axis)[:, None]
        for k in counts:
            tilt = problem.tilt(Exponential(float(k * lam))).log_density(points).exp().numpy()
            errors[i, k - 1] = 0.5 * np.trapezoid(np.abs(run.laws[k].density - tilt), axis)
    return Region(
        "online NFT (m_t recomputed) against p^0 exp(K lambda r)", "lambda = 2/nft_beta", lams,
        "epochs K", counts.astype(float), errors, "TV", "x",
    )  # fmt: skip


# --- Z7: EMA


def averaged_velocities(context: Context) -> Finding:
    """EMA of velocities with decay g at beta, against no EMA at beta/(1 - g)."""
    modes = (
        ("refit", "student") if context.profile.name == "fast" else ("frozen", "refit", "student")
    )
    names = ("note_1d",) if context.profile.name == "fast" else ("note_1d", "bumps_1d")
    epochs, beta = 3, 2.0
    worst, where, killed = 0.0, "", False
    for name in names:
        problem = load_problem(name)
        for mode in modes:
            for g in (0.6,) if context.profile.name == "fast" else (0.5, 0.9):
                ema = carry(problem, Recursion(beta, mode, ema=g), epochs)  # type: ignore[arg-type]
                axes = ema.axes
                plain = carry(problem, Recursion(beta / (1 - g), mode), epochs, axes)  # type: ignore[arg-type]
                error = _gap(ema, plain)
                if error >= worst:
                    worst, where = error, f"{name}, {mode}, g = {g}"
            wrong = carry(problem, Recursion(beta, mode), epochs, axes)  # type: ignore[arg-type]
            killed = killed or _gap(ema, wrong) > QUADRATURE_TIGHT.rtol
    return Finding(
        "velocities: decay g at nft_beta = no EMA at nft_beta/(1 - g)", "claim", "exact",
        worst <= QUADRATURE_TIGHT.rtol,
        f"densities within {number(worst)} after {epochs} epochs, modes {', '.join(modes)}",
        {"error": worst}, where, mutants={"EMA changes nothing": killed},
    )  # fmt: skip


def _gap(one: Trajectory, other: Trajectory) -> float:
    """Largest difference of the last densities, relative to the peak."""
    p, q = one.laws[-1].density, other.laws[-1].density
    return float(np.abs(p - q).max() / q.max())


class _Adapted(nn.Module):
    """A tanh network of x and t with a frozen first layer and a LoRA of rank 2 on the second."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.first, self.second = normal(16, 2), normal(16, 16) / 4
        self.last = normal(1, 16) / 4
        self.lora_a, self.lora_b = normal(2, 16) / 4, torch.zeros(16, 2, dtype=torch.float64)

    def forward(self, x: Tensor, lora_a: Tensor, lora_b: Tensor, second: Tensor) -> Tensor:
        hidden = torch.tanh(x @ self.first.T)
        return torch.tanh(hidden @ (second + lora_b @ lora_a).T) @ self.last.T


def parameter_gaps(steps: Array, decay: float, kind: str) -> Array:
    """RMS difference between averaged parameters and averaged velocities, one a size of the epoch's
    step. kind: 'weights' or 'lora'."""
    generator = torch.Generator().manual_seed(2)
    net = _Adapted(generator)
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    moves = [torch.randn(p.shape, generator=generator, dtype=torch.float64) / 4
             for p in (net.lora_a, net.lora_b, net.second)]  # fmt: skip
    masks = (1.0, 1.0, 0.0) if kind == "lora" else (0.0, 0.0, 1.0)
    start = [net.lora_a, net.lora_b, net.second]
    found = []
    with torch.no_grad():
        old = net(x, *start)
        for step in steps:
            moved = [p + float(step) * on * m for p, m, on in zip(start, moves, masks, strict=True)]
            student = net(x, *moved)
            mean = [decay * p + (1 - decay) * q for p, q in zip(start, moved, strict=True)]
            gap = net(x, *mean) - (decay * old + (1 - decay) * student)
            found.append(float((gap**2).mean().sqrt()))
    return np.array(found)


def averaged_parameters(context: Context) -> Finding:
    """EMA of weights and of LoRA factors against EMA of velocities: order in the step's size."""
    steps = np.geomspace(0.005, 0.5, 12)
    slopes = {
        k: fit_slope(steps, parameter_gaps(steps, 0.5, k), 1e-16) for k in ("weights", "lora")
    }
    big = {k: float(parameter_gaps(np.array([1.0]), 0.5, k)[0]) for k in slopes}
    worst = max(slopes, key=lambda k: abs(slopes[k].slope - 2))
    first_order = fit_slope(steps, parameter_gaps(steps, 0.5, "lora") + 0.01 * steps, 1e-16)
    return Finding(
        "parameters: difference to averaged velocities", "claim", "order",
        all(s.order == 2 and s.is_order for s in slopes.values()),
        f"slope {slopes[worst]} ({worst}, the further of weights and LoRA factors); at a step of "
        f"the weights' own size RMS {number(big['weights'])} and {number(big['lora'])}",
        {"slopes": {k: [s.slope, s.half] for k, s in slopes.items()}, "at_unit_step": big},
        worst, order=2, mutants={"a first-order difference": first_order.order != 2},
    )  # fmt: skip


@extra
def ema_is_nearer(context: Context) -> Finding:
    """At the same total tilt, many small steps (EMA) lie nearer to the exact tilt."""
    problem = load_problem("note_1d")
    hard = law_gap(carry(problem, Recursion(1.0), 1), 2.0)
    soft = law_gap(carry(problem, Recursion(1.0, ema=0.9), 10), 2.0)
    return Finding(
        "at one total tilt of 2: one epoch against ten with g = 0.9", "support", "exact",
        soft < hard, f"RMS log-ratio to p^0 exp(2r): {number(hard)} hard copy, {number(soft)} EMA",
        {"hard": hard, "ema": soft},
    )  # fmt: skip


Z7_PARTS = (averaged_velocities, averaged_parameters, ema_is_nearer)


def average_region(cells: int) -> Region:
    """LoRA factors from B = 0: share of (1 - g) of the epoch's step that averaging them misses."""
    decays, moves = np.linspace(0.0, 0.95, cells), np.geomspace(0.01, 3.0, cells)
    rng = np.random.default_rng(0)
    a0, b1 = rng.normal(size=(4, 32)), rng.normal(size=(32, 4))
    direction = a0 @ np.linalg.qr(rng.normal(size=(32, 32)))[0] * 0.2 + a0
    direction *= np.linalg.norm(a0) / np.linalg.norm(direction)
    errors = np.empty((cells, cells))
    for i, g in enumerate(decays):
        for j, rho in enumerate(moves):
            a1 = a0 + rho * direction
            whole = (1 - g) * b1 @ a1
            factors = ((1 - g) * b1) @ (g * a0 + (1 - g) * a1)
            errors[i, j] = np.linalg.norm(whole - factors) / np.linalg.norm(whole)
    return Region(
        "EMA of LoRA factors against EMA of their product", "decay g", decays,
        "change of A in the epoch / |A|", moves, errors, "relative error", "y",
    )  # fmt: skip
