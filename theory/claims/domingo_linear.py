"""domingo, Gaussian processes: D4 (Girsanov), D5, D6 and D8 in any dimension, D15.

First routes are Riccati and moment equations (`theory.control.linear`); the second writes a path as
one big Gaussian vector and tilts it by dense linear algebra, step sizes extrapolated to 0
(`theory.oracle.control_linear`). For mixtures D4 compares two integrals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.integrate import solve_ivp

from theory import oracle
from theory.claims.ledger import Context, Finding, number
from theory.claims.liu_laws import plain_numbers
from theory.control.linear import LinearQuadratic, of_gaussian
from theory.control.value import MemorylessOptimum
from theory.gaussians import GaussianSum
from theory.oracle import control_linear as dense
from theory.oracle.control_line import extrapolated
from theory.oracle.integrate import Array
from theory.problem import Problem, load_problem
from theory.rewards import quadratic_reward
from theory.schedules import Diffusion
from theory.tolerances import QUADRATURE, QUADRATURE_TIGHT

STEPS, LEVELS = 8, 4
MOST_DENSE = 3  # dimensions where a path of 512 Euler steps is written as one Gaussian
NAMES = ("note_1d", "linear_1d", "bumps_1d", "quadratic_1d")
Feedback = Callable[[float], tuple[Array, Array]]


def dims_of(context: Context) -> tuple[int, ...]:
    """Dimensions and seeds of the linear settings."""
    few = {"fast": (1, 2), "default": (1, 2, 3, 5)}
    return few.get(context.profile.name, (1, 1, 1, 2, 2, 2, 3, 3, 5))


def linear_case(dim: int, seed: int) -> LinearQuadratic:
    """A stable, non-normal linear SDE with A, a and g that depend on time, and full costs."""
    rng = np.random.default_rng([seed, dim, 5])
    A = -0.4 * np.eye(dim) + 0.6 * rng.normal(size=(dim, dim)) / np.sqrt(dim)
    B, a = 0.4 * rng.normal(size=(dim, dim)) / np.sqrt(dim), 0.5 * rng.normal(size=dim)
    g0, g1 = float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.1, 0.8))

    def definite(size: float) -> Array:
        root = rng.normal(size=(dim, dim)) / np.sqrt(dim)
        return np.asarray(size * (root @ root.T + 0.2 * np.eye(dim)))

    return LinearQuadratic(
        matrix=lambda t: A + t * B, shift=lambda t: (1 - t) * a, noise=lambda t: g0 + g1 * t,
        running_matrix=definite(0.5), running_vector=0.4 * rng.normal(size=dim),
        final_matrix=definite(0.8), final_vector=0.6 * rng.normal(size=dim),
        mean=0.5 * rng.normal(size=dim), cov=definite(0.6), name=f"d = {dim}, seed {seed}",
    )  # fmt: skip


def feedback_case(dim: int, seed: int) -> Feedback:
    """A feedback u = -g (P x + p) that is no optimum, P not symmetric."""
    rng = np.random.default_rng([seed, dim, 6])
    P, p = 0.5 * rng.normal(size=(dim, dim)), 0.5 * rng.normal(size=dim)
    return lambda t: ((1 + t) * P, (1 - 0.5 * t) * p)


def plain_linear(problem: LinearQuadratic, feedback: Feedback | None = None) -> dense.LinearNumbers:
    """The numbers as the second route takes them; with a feedback, the controlled process."""

    def matrix(t: float) -> Array:
        moved = 0.0 if feedback is None else problem.noise(t) ** 2 * feedback(t)[0]
        return np.asarray(problem.matrix(t) - moved)

    def shift(t: float) -> Array:
        moved = 0.0 if feedback is None else problem.noise(t) ** 2 * feedback(t)[1]
        return np.asarray(problem.shift(t) - moved)

    return dense.LinearNumbers(
        matrix, shift, problem.noise, lambda t: problem.running_matrix,
        lambda t: problem.running_vector, problem.final_matrix, problem.final_vector,
        problem.mean, problem.cov,
    )  # fmt: skip


def in_the_limit(once: Callable[[int], Array]) -> Array:
    """Steps to 0, of exact transitions: errors have even powers of the step."""
    return extrapolated(once, STEPS, LEVELS).value


def path_kl(first: dense.LinearNumbers, second: dense.LinearNumbers) -> Array:
    """KL of two diffusions' path measures, from Euler's chains: errors have all powers."""

    def once(n: int) -> Array:
        return np.array(dense.girsanov_kl(first, second, n))

    return extrapolated(once, 4 * STEPS, LEVELS + 1, (1, 2, 3, 4)).value


class Worst:
    """The largest error over settings, and which wrong versions were rejected on any."""

    def __init__(self, rtol: float, *mutants: str) -> None:
        self.error, self.where, self.rtol = 0.0, "", rtol
        self.killed = dict.fromkeys(mutants, False)
        self.count = 0

    def add(self, where: str, ours: Array | float, theirs: Array | float, **wrong: Array | float):  # type: ignore[no-untyped-def]
        """Compare; `wrong` by the mutants' places m0, m1, ..."""
        theirs = np.asarray(theirs, dtype=float)
        size = max(1.0, float(np.abs(theirs).max()))
        self.count += 1
        error = QUADRATURE.error(np.asarray(ours), theirs, size)
        if error >= self.error:
            self.error, self.where = error, where
        for key, value in wrong.items():
            name = list(self.killed)[int(key[1:])]
            gap = QUADRATURE.error(np.broadcast_to(np.asarray(value), theirs.shape), theirs, size)
            self.killed[name] |= gap > self.rtol

    def finding(self, name: str, what: str, role: str = "claim") -> Finding:
        """As a part of kind exact."""
        return Finding(
            name, role, "exact", self.error <= self.rtol,  # type: ignore[arg-type]
            f"error {number(self.error)} (bound {self.rtol:g}) over {self.count} {what}",
            {"error": self.error, "settings": self.count}, self.where, mutants=self.killed,
        )  # fmt: skip


# --- D4


def girsanov_linear(context: Context) -> Finding:
    """E int |u|^2/2 dt by moments, against the KL of two big Gaussians."""
    found = Worst(QUADRATURE.rtol, "without 1/2", "expectation under the base process")
    for seed, dim in enumerate(d for d in dims_of(context) if d <= MOST_DENSE):
        problem, feedback = linear_case(dim, seed), feedback_case(dim, seed)
        ours = problem.control_energy(feedback)
        controlled, base = plain_linear(problem, feedback), plain_linear(problem)
        theirs = path_kl(controlled, base)
        found.add(problem.name, ours, theirs, m0=2 * ours, m1=_energy_under_base(problem, feedback))
    return found.finding(
        "KL of path measures = E int |u|²/2 dt, linear SDEs and any linear u", "linear settings"
    )


def _energy_under_base(problem: LinearQuadratic, feedback: Feedback) -> float:
    """int E|u|^2/2 along the uncontrolled process: KL(base | controlled)."""
    # The base is the controlled process of -u from its own point of view: moments without u.
    d = problem.dim

    def rate(t: float, state: Array) -> Array:
        m, S = state[:d], state[d:-1].reshape(d, d)
        A, g2, (P, p) = problem.matrix(t), problem.noise(t) ** 2, feedback(t)
        moved, mean = A @ S, P @ m + p
        energy = 0.5 * g2 * (mean @ mean + np.trace(P @ S @ P.T))
        spread = moved + moved.T + g2 * np.eye(d)
        return np.concatenate([A @ m + problem.shift(t), spread.ravel(), [energy]])

    begin = np.concatenate([problem.mean, problem.cov.ravel(), [0.0]])
    return float(solve_ivp(rate, (0.0, 1.0), begin, rtol=1e-9, atol=1e-11).y[-1, -1])


def girsanov_at_the_optimum(context: Context) -> Finding:
    """E int |u*|^2/2 dt over time and space, against KL(target | base) by adaptive quadrature."""
    found = Worst(QUADRATURE.rtol, "without 1/2", "expectation under the base process")
    names = NAMES if context.profile.name == "thorough" else NAMES[:2]
    for name in names:
        problem = load_problem(name)
        ours, under_base = _energies(problem)
        plain = plain_numbers(problem)
        density, a = plain.density(), problem.scale

        def weight(y: Array, c: object = plain, a: float = a) -> Array:
            return np.asarray(np.exp(a * c.reward(y)))  # type: ignore[attr-defined]

        Z = float(oracle.normaliser(density, weight).value)
        Z /= float(oracle.normaliser(density).value)
        mean = oracle.expectation(density, lambda y, c=plain: c.reward(y)[:, None], weight)  # type: ignore[misc]
        theirs = a * float(np.ravel(mean.value)[0]) - np.log(Z)
        found.add(name, ours, theirs, m0=2 * ours, m1=under_base)
    return found.finding(
        "at u*, memoryless: E int |u*|²/2 dt = KL(base exp(a r)/Z | base), mixtures", "problems"
    )


def _energies(problem: Problem) -> tuple[float, float]:
    """int E|u*|^2/2 dt under X_t's law of the target and of the base: |u*|^2/2 = eta |grad V|^2."""
    optimum = MemorylessOptimum(problem, problem.scale)
    target = optimum.target.law
    assert target is not None
    nodes, weights = np.polynomial.legendre.leggauss(32)
    x = torch.linspace(-11.0, 11.0, 1101, dtype=torch.float64)[:, None]
    total = np.zeros(2)
    for t, w in zip(0.5 * (nodes + 1), 0.5 * weights, strict=True):
        time = torch.tensor(t, dtype=torch.float64)
        path = problem.path
        rate = path.eta(time) * (optimum.gradient(x, float(t)) ** 2).sum(-1)
        for i, law in enumerate((target, problem.base)):
            log_p = law.noised(x, path.alpha(time), path.sigma(time)).log_abs
            total[i] += w * float(torch.trapezoid(rate * log_p.exp(), x[:, 0]))
    return float(total[0]), float(total[1])


# --- D5, D6 and D8 where everything is Gaussian


def tilted_paths_linear(context: Context) -> Finding:
    """Mean and covariance of (X_0, X_1) under u*, against the big Gaussian tilted by exp(-cost)."""
    found = Worst(QUADRATURE.rtol, "base process", "half of u*", "X_0 tilted too")
    for seed, dim in enumerate(dims_of(context)):
        problem = linear_case(dim, seed)
        numbers = plain_linear(problem)

        def moments(n: int, numbers: dense.LinearNumbers = numbers) -> Array:
            best = dense.dense_optimum(numbers, numbers.mean, n)
            return np.concatenate([best.mean, best.cov.ravel()])

        theirs = in_the_limit(moments)
        found.add(
            problem.name, _flat(problem.law()), theirs,
            m0=_flat(problem.steered(lambda t, d=dim: (np.zeros((d, d)), np.zeros(d)))),  # type: ignore[misc]
            m1=_flat(problem.steered(lambda t, q=problem: _share(q, t, 0.5))),  # type: ignore[misc]
            m2=_flat(_start_tilted(problem)),
        )  # fmt: skip
    return found.finding(
        "(X_0, X_1) under u* is that of P exp(-int f - c)/Z(X_0)", "linear settings"
    )


def _flat(moments: tuple[Array, Array]) -> Array:
    return np.concatenate([moments[0], moments[1].ravel()])


def _share(problem: LinearQuadratic, t: float, share: float) -> tuple[Array, Array]:
    P, p, _ = problem.coefficients(t)
    return share * P, share * p


def _start_tilted(problem: LinearQuadratic) -> tuple[Array, Array]:
    """The same from X_0 ~ N(m, S) exp(-V(x, 0)): a tilt with one Z for all X_0."""
    P, p, _ = problem.coefficients(0.0)
    precision = np.linalg.inv(problem.cov)
    cov = np.linalg.inv(precision + P)
    mean = cov @ (precision @ problem.mean - p)
    return replace(problem, mean=mean, cov=0.5 * (cov + cov.T)).law()


def normaliser_is_the_value(context: Context) -> Finding:
    """exp(-V(x_0, 0)) = Z(x_0), by Riccati and by the big Gaussian."""
    found = Worst(QUADRATURE.rtol, "without the noise's (g²/2) tr P", "V of f = 0")
    for seed, dim in enumerate(dims_of(context)):
        problem = linear_case(dim, seed)
        numbers, x0 = plain_linear(problem), problem.mean + 0.3
        theirs = in_the_limit(lambda n, q=numbers, x=x0: np.array(dense.dense_value(q, x, n)))  # type: ignore[misc]
        quiet = replace(problem, running_matrix=0 * problem.running_matrix,
                        running_vector=0 * problem.running_vector)  # fmt: skip
        still = problem.value(x0[None], 0.0)[0] - _noise_part(problem)
        found.add(problem.name, problem.value(x0[None], 0.0)[0], theirs,
                  m0=still, m1=quiet.value(x0[None], 0.0)[0])  # fmt: skip
    return found.finding("Z(x_0) = exp(-V(x_0, 0))", "linear settings")


def _noise_part(problem: LinearQuadratic) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(32)
    parts = [
        0.25 * w * problem.noise(t) ** 2 * float(np.trace(problem.coefficients(t)[0]))
        for t, w in zip(0.5 * (nodes + 1), weights, strict=True)
    ]
    return float(np.sum(parts))


def gaussian_problem(dim: int, seed: int) -> Problem:
    """Fine-tuning one Gaussian with a quadratic reward."""
    rng = np.random.default_rng([seed, dim, 7])
    root = 0.4 * rng.normal(size=(dim, dim)) / np.sqrt(dim) + 0.7 * np.eye(dim)
    H = 0.3 * rng.normal(size=(dim, dim)) / np.sqrt(dim)
    base = GaussianSum.mixture([1.0], (0.6 * rng.normal(size=(1, dim))).tolist(),
                               covs=[(root @ root.T).tolist()])  # fmt: skip
    reward = quadratic_reward((0.5 * (H + H.T) - 0.4 * np.eye(dim)).tolist(),
                              (0.6 * rng.normal(size=dim)).tolist(), 0.2)  # fmt: skip
    return Problem(f"Gaussian, d = {dim}, seed {seed}", base, reward, 1.5)


def fine_tuned_gaussian(problem: Problem, schedule: Diffusion) -> tuple[Array, Array]:
    """Mean and covariance of X_1 under the optimum."""
    mean, cov = of_gaussian(problem, problem.scale, schedule).law()
    d = problem.dim
    return mean[d:], cov[d:, d:]


def law_of_gaussian_optimum(context: Context) -> Finding:
    """X_1 under u* for g = 0.2, 1 and memoryless, against the tilt times the factor of memory by
    dense algebra: Gaussians, full rank."""
    found = Worst(QUADRATURE.rtol, "the tilt at g = 1", "g = 0.2 for g = 1")
    fast = context.profile.name == "fast"
    for seed, dim in enumerate((2,) if fast else dims_of(context)):
        problem = gaussian_problem(dim, seed)
        target = MemorylessOptimum(problem, problem.scale).target.law
        assert target is not None
        tilt = _flat((target.mean[0].numpy(), target.cov[0].numpy()))
        memoryless = fine_tuned_gaussian(problem, Diffusion.of_memoryless(1.0, 5e-4))
        found.add(f"{problem.name}, memoryless", _flat(memoryless), tilt)
        slight = _flat(fine_tuned_gaussian(problem, Diffusion.of_constant(0.2)))
        linear = of_gaussian(problem, problem.scale, Diffusion.of_constant(1.0))
        numbers = plain_linear(linear)

        def moments(n: int, numbers: dense.LinearNumbers = numbers, d: int = dim) -> Array:
            best = dense.dense_optimum(numbers, numbers.mean, n)
            return np.concatenate([best.mean[d:], best.cov[d:, d:].ravel()])

        theirs = in_the_limit(moments)
        ours = _flat(fine_tuned_gaussian(problem, Diffusion.of_constant(1.0)))
        found.add(f"{problem.name}, g = 1", ours, theirs, m0=tilt, m1=slight)
    return found.finding(
        "the memoryless optimum is the tilt, at g = 1 the tilted path measure's law",
        "laws of Gaussians",
    )


# --- D15


def value_is_the_least_cost(context: Context) -> Finding:
    """J(u*) by moments of the controlled process, against E V(X_0) by dense algebra; and
    J(u) - J(u*) = KL(P^u | P^u*) for another u."""
    found = Worst(QUADRATURE.rtol, "J without its KL term", "J(u*/2)")
    gaps = []
    for seed, dim in enumerate(dims_of(context)):
        problem = linear_case(dim, seed)
        x0 = problem.mean + 0.3
        still = replace(problem, mean=x0, cov=np.zeros((dim, dim)))
        numbers = plain_linear(problem)
        theirs = in_the_limit(lambda n, q=numbers, x=x0: np.array(dense.dense_value(q, x, n)))  # type: ignore[misc]
        best = still.cost(lambda t, q=problem: q.coefficients(t)[:2])  # type: ignore[misc]
        energy = still.control_energy(lambda t, q=problem: q.coefficients(t)[:2])  # type: ignore[misc]
        half = still.cost(lambda t, q=problem: _share(q, t, 0.5))  # type: ignore[misc]
        found.add(problem.name, best, theirs, m0=best - energy, m1=half)
        if dim > MOST_DENSE:
            continue
        feedback = feedback_case(dim, seed)
        excess = problem.cost(feedback) - problem.expected_value()
        optimal = plain_linear(problem, lambda t, q=problem: q.coefficients(t)[:2])  # type: ignore[misc]
        kl = path_kl(plain_linear(problem, feedback), optimal)
        found.add(f"{problem.name}, another u", excess, kl)
        gaps.append(excess)
    finding = found.finding(
        "the least J is E V(X_0, 0), and J(u) - J(u*) = KL(P^u | P^u*)", "linear settings"
    )
    return replace(finding, numbers=finding.numbers | {"excess": gaps})


def control_is_the_fixed_point(context: Context) -> Finding:
    """-g E[a(t; X^u*) | X_t = x], the adjoint solved along the mean path from x, against u*."""
    found = Worst(QUADRATURE_TIGHT.rtol, "adjoint of another u (u*/2)", "sign", "without grad f")
    for seed, dim in enumerate(dims_of(context)):
        problem = linear_case(dim, seed)
        rng = np.random.default_rng([seed, 8])
        for t in (0.15, 0.7):
            x = rng.normal(size=dim)
            theirs = problem.control(x[None], t)[0]
            own = _mean_adjoint(problem, x, t, lambda s, q=problem: q.coefficients(s)[:2])  # type: ignore[misc]
            half = _mean_adjoint(problem, x, t, lambda s, q=problem: _share(q, s, 0.5))  # type: ignore[misc]
            quiet = _mean_adjoint(
                replace(problem, running_matrix=0 * problem.running_matrix), x, t,
                lambda s, q=problem: q.coefficients(s)[:2],  # type: ignore[misc]
            )  # fmt: skip
            g = problem.noise(t)
            found.add(f"{problem.name}, t = {t:g}", -g * own, theirs, m0=-g * half, m1=g * own,
                      m2=-g * quiet)  # fmt: skip
    return found.finding("u* = -g E[a(t; X^u*) | X_t], linear-quadratic", "points")


def _mean_adjoint(problem: LinearQuadratic, x: Array, t: float, feedback: Feedback) -> Array:
    """E[a(t) | X_t = x] under u = -g (P x + p): all is linear, so that means follow

    m' = B m + b,   -a' = B'a + g^2 P'(P m + p) + F m + f,   a(1) = Q m(1) + q,   B = A - g^2 P.
    """
    d = problem.dim

    def parts(s: float) -> tuple[Array, Array, Array, Array, float]:
        P, p = feedback(s)
        g2 = problem.noise(s) ** 2
        return problem.matrix(s) - g2 * P, problem.shift(s) - g2 * p, P, p, g2

    forward = solve_ivp(
        lambda s, m: parts(s)[0] @ m + parts(s)[1], (t, 1.0), x, method="DOP853",
        rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    end = forward.y[:, -1]

    def back(tau: float, state: Array) -> Array:
        """Backwards, the mean path beside the adjoint."""
        m, a = state[:d], state[d:]
        B, b, P, p, g2 = parts(1 - tau)
        rise = B.T @ a + g2 * P.T @ (P @ m + p)
        rise = rise + problem.running_matrix @ m + problem.running_vector
        return np.concatenate([-(B @ m + b), rise])

    start = np.concatenate([end, problem.final_matrix @ end + problem.final_vector])
    found = solve_ivp(back, (0.0, 1 - t), start, method="DOP853", rtol=1e-12, atol=1e-14)
    return np.asarray(found.y[d:, -1])
