"""The ledger's rows of domingo: Adjoint Matching, stochastic optimal control (C. Domingo-Enrich).

The slides' sigma(t) is g, their terminal cost g(x) is c, their (beta_t, alpha_t) are (sigma, alpha)
here. Identities at a point are in `points`, laws on the line in `laws` and `any_schedule`,
Gaussian processes in `linear`, memory in `memory`, adjoints in `adjoints`.
"""

from __future__ import annotations

import numpy as np
import torch

from theory import MemorylessOptimum, load_problem
from theory.ledger.core import Claim, Context, Finding, Part, fit_slope
from theory.ledger.domingo import (
    adjoint_limits,
    adjoints,
    any_schedule,
    control_points,
    laws,
    linear,
    memory,
    points,
)

QUADRATURE = "adaptive quadrature of the posterior, derivatives from integrals at points around x"
KERNELS = "transition kernels composed over the line, steps extrapolated to 0"
DENSE = "the path as one Gaussian vector, tilted by dense linear algebra, steps extrapolated to 0"


def limit_of_the_control(context: Context) -> Finding:
    """|u*/g + grad c| as t -> 1, on asymmetric mixtures in d = 2 and 5: first order in 1 - t."""
    orders, killed = {}, True
    for problem in map(load_problem, ("bump_2d", "linear_2d", "full_5d")):
        optimum = MemorylessOptimum(problem, problem.scale)
        x = problem.base.sample(64, torch.Generator().manual_seed(7))
        left = np.geomspace(3e-3, 3e-5, 9)
        at_end = optimum.gradient(x, 1.0)
        # The limit itself is an identity of this row; how fast it is reached is measured here.
        gaps = np.array(
            [float((optimum.gradient(x, 1 - float(s)) - at_end).norm(dim=-1).mean()) for s in left]
        )
        slope = fit_slope(left, gaps, 1e-13)
        orders[problem.name] = slope.slope
        killed &= slope.is_order and slope.order == 1
    return Finding(
        name="u*/g tends to -grad c like 1 - t",
        role="support",
        kind="exact",
        holds=killed,
        figure="slopes " + ", ".join(f"{k} {v:.3f}" for k, v in orders.items()),
        numbers={"slopes": orders},
        worst="g(1) = 0 under the memoryless schedule of these paths: u* itself vanishes there",
    )


def _adjoint_row(name: str, source: str, statement: str, parts: tuple[Part, ...]) -> Claim:
    text = adjoints.ROW_TEXTS[name]
    return Claim(
        id=name,
        source=source,
        statement=statement,
        parts=parts,
        region=None if text["recorded"] == "exact" else adjoint_limits.step_region,
        **text,
    )


ROWS: tuple[Claim, ...] = (
    Claim(
        id="D1",
        source="domingo, slide 'The Flow Matching Generative SDE'",
        statement="v = (alpha'/alpha) x + eta s for X_t = alpha_t X_1 + sigma_t X_0, "
        "eta = sigma (sigma alpha'/alpha - sigma').",
        assumptions="alpha_t > 0; X_0 ~ N(0, I) independent of X_1",
        first="closed fields of mixtures",
        second=QUADRATURE,
        recorded="exact",
        remark=(
            "On every path. At t = 0 of paths with alpha_0 = 0 both terms are infinite and "
            "cancel: compute with gain = alpha eta there."
        ),
        parts=points.D1_PARTS,
    ),
    Claim(
        id="D2",
        source="domingo, slide 'The Flow Matching Generative SDE'",
        statement=(
            "dX = (v + g²/(2 eta) (v - (alpha'/alpha) x)) dt + g dB keeps the marginals of the "
            "path for every diffusion schedule g(t)."
        ),
        assumptions="X starts from the path's own law at t = 0",
        first="Fokker-Planck's equation in closed form; the mixture's density",
        second="the density's time derivative by quadrature; " + KERNELS,
        recorded="exact",
        remark=(
            "With any g, its size at random at random times. An offset or a constant g is as "
            "exact as the memoryless schedule; only what a control can do with it differs (D6)."
        ),
        parts=(*points.D2_PARTS, laws.marginals_are_kept),
    ),
    Claim(
        id="D3",
        source="domingo, slides 'Stochastic optimal control', 'Backup'",
        statement=(
            "V(x, t) = -log E[exp(-int_t^1 f - c(X_1)) | X_t = x] solves V_t + drift . grad V + "
            "(g²/2) lap V - (g²/2)|grad V|² + f = 0."
        ),
        assumptions="exp(-c) integrable under the base process",
        first=(
            "closed form (memoryless, f = 0); the equation on a grid for other schedules and costs"
        ),
        second=QUADRATURE + "; " + KERNELS,
        recorded="exact",
        remark=(
            "The closed form needs g² = 2 eta: (X_t, X_1) has the path's joint law under no "
            "other schedule."
        ),
        parts=(*points.D3_POINTS, laws.value_under_any_schedule),
    ),
    Claim(
        id="D4",
        source="domingo, slide 'SOC = KL-regularized RL'",
        statement=(
            "Girsanov: KL of the controlled to the uncontrolled path measure is E int |u|²/2 dt."
        ),
        assumptions="both start from the same X_0; the expectation is under the controlled process",
        first="moments of linear SDEs; |grad V|² integrated over time and space",
        second="KL of two big Gaussians; KL(target | base) by quadrature",
        recorded="exact",
        remark=(
            "At the memoryless optimum the KL of paths is the KL of their ends: nothing is spent "
            "on the way."
        ),
        parts=linear.D4_PARTS,
    ),
    Claim(
        id="D5",
        source="domingo, slide 'The tilted path measure'",
        statement=(
            "The optimal path measure is P exp(-int f - c)/Z(x_0), with Z(x_0) = exp(-V(x_0, 0))."
        ),
        assumptions=(
            "X_0 keeps its law: the normaliser is one for each x_0; compared in the laws of "
            "(X_0, X_1) and of X_1"
        ),
        first="Riccati and moment equations; Fokker-Planck's equation with the grid's control",
        second=DENSE + "; " + KERNELS,
        recorded="exact",
        remark="X_0 is not tilted. A control moves the noise and not where it starts from.",
        parts=(*linear.D5_LINEAR, laws.controlled_law_is_the_tilted_paths),
    ),
    Claim(
        id="D6",
        source="domingo, slides 'Memoryless generative processes', 'Fine-tuning with different "
        "noise schedules'",
        statement=(
            "With a memoryless base process (X_0 independent of X_1) the optimum samples pi_1 "
            "exp(r); without it, the law is off by the factor E[exp(V(X_0, 0)) | X_1]."
        ),
        assumptions="f = 0, c = -r",
        first="Riccati and moment equations; the factor's own equation on a grid, d = 1 and 2",
        second=DENSE + "; " + KERNELS,
        recorded="exact",
        remark=(
            "TV to the tilt on note_1d: 0.33 at g = 0.2 and 0.11 at g = 1 (of 0.35 between base "
            "and tilt), 0 for the memoryless schedule."
        ),
        parts=(
            *linear.D6_LINEAR,
            laws.memoryless_optimum_is_the_tilt,
            laws.factor_of_memory,
            laws.factor_in_the_plane,
        ),
    ),
    Claim(
        id="D7",
        source="domingo, slide 'Memoryless generative processes', proposition",
        statement="The process is memoryless iff g² = 2 eta + chi with, for every t in (0, 1], "
        "lim_{t'->0} alpha_{t'} exp(-int_{t'}^t chi/(2 sigma²) ds) = 0.",
        assumptions="as printed: t = 1 included, no condition on g",
        first="theory's linear SDE, its drift integrated",
        second="the printed expression, plain paths",
        recorded="conditional",
        remark=(
            "True for t in (0, 1) and g finite there. At t = 1 the printed integral sees sigma "
            "-> 0: a schedule that is memoryless and then slower than 2 eta (the ODE, say) fails "
            "the printed condition and is memoryless. A multiple m of 2 eta forgets like t'^m; "
            "any m > 0 does."
        ),
        parts=memory.D7_PARTS,
        region=memory.memory_region,
    ),
    Claim(
        id="D8",
        source="domingo, slide 'Fine-tuning recipe', theorem",
        statement=(
            "After fine-tuning with g² = 2 eta, v_finetuned = v_base + (g/2) u sampled with any "
            "schedule (ODE included) gives the tilted law; for that recipe the schedule of the "
            "fine-tuning must be that one."
        ),
        assumptions=(
            "f = 0, c = -r; u the optimal control; fine-tuning under another g leaves v_base + "
            "u/(1/g + g/(2 eta)), the slide's b + g u = b_finetuned; measured at g = 0.2, 1 and "
            "g² = 4 eta"
        ),
        first="closed fields; laws by Fokker-Planck's equation and the ODE",
        second=QUADRATURE + " of the tilt's velocity; the tilt's density",
        recorded="exact",
        remark=(
            "A memoryless schedule is not enough: g² = 4 eta samples the tilt with its own "
            "schedule, and misses it by TV 0.04 with another."
        ),
        parts=(
            *control_points.D8_POINTS,
            any_schedule.any_schedule_gives_the_tilt,
            any_schedule.only_memoryless_training_does,
        ),
    ),
    Claim(
        id="D9",
        source="domingo, slide 'Implicit parameterization of the control'",
        statement="u = (2/g)(v_finetuned - v_base) under g² = 2 eta.",
        assumptions="the slide prints it only partly",
        first="closed velocities of tilt and base",
        second="-g grad V: " + QUADRATURE,
        recorded="exact",
        remark="Under another g: u = (1/g + g/(2 eta))(v_finetuned - v_base).",
        parts=control_points.D9_PARTS,
    ),
    _adjoint_row(
        "D10",
        "domingo, slide 'Methods for SOC: the adjoint method'",
        "The discrete adjoint gives the exact gradient of the cost; the continuous adjoint gives "
        "the same in the limit.",
        adjoints.D10_PARTS,
    ),
    _adjoint_row(
        "D11",
        "domingo, slide 'Basic Adjoint Matching'",
        "Basic adjoint matching: its gradient equals the continuous adjoint's, and u* is its only "
        "critical point.",
        adjoints.D11_PARTS,
    ),
    _adjoint_row(
        "D12",
        "domingo, slide 'Adjoint Matching', key observation",
        "The terms that the lean adjoint drops have zero conditional mean at u*.",
        (linear.LEAN_MEAN, *adjoints.D12_PARTS),
    ),
    _adjoint_row(
        "D13",
        "domingo, slide 'Adjoint Matching'",
        "Adjoint Matching: u* is the only critical point.",
        adjoints.D13_PARTS,
    ),
    Claim(
        id="D14",
        source="domingo, slides 'Basic Adjoint Matching', 'Backup'",
        statement="u* = -g grad V, and u*(x, 1)/g(1) = -grad c(x) in the limit.",
        assumptions="u* is the control that takes the base process to the optimal one",
        first="closed gradient of V",
        second="drifts of both processes by quadrature; the reward's own slope",
        recorded="exact",
        remark=(
            "Under the memoryless schedule of the rectified flow g(1) = 0 and u*(x, 1) = 0: the "
            "limit is that of u/g."
        ),
        parts=(*control_points.D14_POINTS, limit_of_the_control),
    ),
    Claim(
        id="D15",
        source="domingo, slides 'SOC = KL-regularized RL', 'Basic Adjoint Matching'",
        statement=(
            "J(u) is a KL-regularised RL objective; its optimal value is E V(X_0, 0); and u* is "
            "the fixed point u = -g E[a(t; X^u) | X_t]."
        ),
        assumptions="X_0 as in the base process",
        first="costs by moments; Riccati",
        second=DENSE + "; policy iteration on the adjoint's mean",
        recorded="exact",
        remark=(
            "The excess J(u) - J(u*) of any u is KL(P^u | P^u*): what is left to gain in the "
            "objective is the distance of path measures."
        ),
        parts=linear.D15_PARTS,
    ),
)
