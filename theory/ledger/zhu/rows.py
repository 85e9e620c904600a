"""The ledger's rows of zhu: a KL-regularised view of DiffusionNFT (Y. Zhu).

The identities at one point and time are here; laws of samples, recursions, averages and limits in
`laws`, `online`, `ema`, `limits` and `two_kl`.
"""

from __future__ import annotations

import numpy as np
import torch

from theory.common.tolerances import ALGEBRA
from theory.fields.paths import PATHS
from theory.laws.gaussians import GaussianSum
from theory.ledger.core.claim import Array, Claim, Context, Finding, number
from theory.ledger.core.identity import Identity, row
from theory.ledger.oracle import conditional
from theory.ledger.settings.problems import Problems, Setting
from theory.ledger.zhu import ema as zhu_ema
from theory.ledger.zhu import guidance as zhu_guidance
from theory.ledger.zhu import laws as zhu_laws
from theory.ledger.zhu import limits as zhu_limits
from theory.ledger.zhu import objective
from theory.ledger.zhu import online as zhu_online
from theory.ledger.zhu import two_kl as zhu_two_kl
from theory.problems.problem import Problem
from theory.tilts.bump_rewards import bump_reward
from theory.tilts.wrappers import Power

EVERY_PATH = tuple(PATHS)
ANY_PATH = Problems(paths=EVERY_PATH)
POSITIVE_PATH = Problems(kinds=("bumps",), paths=EVERY_PATH)


def _time(s: Setting) -> torch.Tensor:
    return torch.tensor(s.t, dtype=torch.float64)


# --- Z1: p+_t / p_old_t E[r] = m_t


def ratio_of_marginals(s: Setting) -> float:
    """p+_t(x) / p_old_t(x), by the closed densities of the two noised mixtures."""
    path, t = s.route_path, _time(s)
    weighted = s.problem.tilt(Power(1)).law
    assert weighted is not None
    above = weighted.noised(s.point, path.alpha(t), path.sigma(t)).log_abs
    below = s.problem.base.noised(s.point, path.alpha(t), path.sigma(t)).log_abs
    return float((above - below).exp()[0])


def mean_of_reward(s: Setting) -> float:
    """E[r] under the base."""
    return float(s.problem.tilt(Power(1)).log_z.exp())


Z1_PARTS = (
    Identity(
        "p+_t / p_old_t E[r] = m_t",
        POSITIVE_PATH,
        lambda s: np.array(ratio_of_marginals(s) * mean_of_reward(s)),
        lambda s: np.array(conditional.mean_reward(s.case, s.x, s.at)),
        {
            "without E[r]": lambda s: np.array(ratio_of_marginals(s)),
            "ratio turned over": lambda s: np.array(mean_of_reward(s) / ratio_of_marginals(s)),
            "weighted by r twice": lambda s: np.array(
                ratio_of_marginals(s) ** 2 * mean_of_reward(s)
            ),
        },
        lambda s: s.spread,
    ),
)

# --- Z2: m_t (v+ - v_old) and grad m_t


def guidance(s: Setting) -> Array:
    """m_t (v+ - v_old), v+ the velocity of the reward-weighted law."""
    gap = s.problem.reward_weighted_field()(s.point, s.t) - s.problem.base_field(s.point, s.t)
    return row(s.problem.conditional_reward.mean(s.point, s.t)[:, None] * gap)


def gradient_by_quadrature(s: Setting) -> Array:
    return conditional.mean_reward_gradient(s.case, s.x, s.at)


def eta_by_hand(s: Setting) -> float:
    """sigma (sigma alpha'/alpha - sigma'), from the second route's path."""
    at = s.at
    return at.sigma * (at.sigma * at.dalpha / at.alpha - at.dsigma)


def _guidance_size(s: Setting) -> float:
    at = s.at
    return s.spread * (abs(at.dalpha) + abs(at.dsigma))


def factor_is_not_two_over_beta(context: Context) -> Finding:
    """One Gaussian, one bump, t = 1/2, nft_beta = 1: the factor is eta = 1, 2/nft_beta is 2."""
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    problem = Problem("N(0, 1)", base, bump_reward(1.0, [1.0], width=1.0))
    x = torch.tensor([[-0.5], [0.3], [1.2]], dtype=torch.float64)
    reward = problem.conditional_reward
    gap = problem.reward_weighted_field()(x, 0.5) - problem.base_field(x, 0.5)
    ratio = (reward.mean(x, 0.5)[:, None] * gap / reward.gradient(x, 0.5)).numpy()
    error = ALGEBRA.error(ratio, np.ones_like(ratio))
    return Finding(
        "N(0, 1), one bump, t = 1/2, nft_beta = 1: the factor is 1", "support", "exact",
        error <= ALGEBRA.rtol,
        f"factor 1 within {number(error)}; the 2/beta that is printed beside it is 2",
        {"error": error}, "N(0, 1), bump of width 1 at 1",
        mutants={"2/beta": ALGEBRA.error(ratio, 2 * np.ones_like(ratio)) > ALGEBRA.rtol},
    )  # fmt: skip


Z2_PARTS = (
    Identity(
        "m_t (v+ - v_old) = eta_t grad m_t on every path (eta = (1 - t)/t on the RF path)",
        POSITIVE_PATH,
        guidance,
        lambda s: eta_by_hand(s) * gradient_by_quadrature(s),
        {
            "factor 1": lambda s: guidance(s) / eta_by_hand(s),
            "factor 2/beta": lambda s: 2 / s.nft_beta * guidance(s) / eta_by_hand(s),
            "sign": lambda s: -guidance(s),
            "not times m_t": lambda s: (
                guidance(s) / float(s.problem.conditional_reward.mean(s.point, s.t)[0])
            ),
        },
        _guidance_size,
    ),
    factor_is_not_two_over_beta,
)


# --- Z3: the score that the optimum implies


def implied_score(s: Setting, factor: float) -> Array:
    """The score that velocity v_old + factor Cov(V, r | x) implies on the path."""
    velocity = s.problem.cumulant_field(factor, 1)(s.point, s.t)
    return row(s.route_path.convert(velocity, s.point, s.t, "velocity", "score"))


Z3_PARTS = (
    Identity(
        "score of v* = s_old + (2/beta) grad m_t",
        ANY_PATH,
        lambda s: implied_score(s, 2 / s.nft_beta),
        lambda s: conditional.score(s.case, s.x, s.at) + 2 / s.nft_beta * gradient_by_quadrature(s),
        {
            "1/beta for 2/beta": lambda s: implied_score(s, 1 / s.nft_beta),
            "sign": lambda s: implied_score(s, -2 / s.nft_beta),
            "the velocity for its score": lambda s: row(
                s.problem.nft_field(s.nft_beta)(s.point, s.t)
            ),
        },
        lambda s: (1 + 2 / s.nft_beta * s.spread) / s.at.sigma,
    ),
)

ROWS: tuple[Claim, ...] = (
    Claim(
        "Z1",
        "zhu, boxed: alpha(x_t, c) = p_old(o = 1 | x_t, c)",
        "With r = p(o = 1 | x): (p+_t / p_old_t) E[r] = p_old(o = 1 | x_t) = m_t(x_t).",
        "r > 0; any noising kernel (checked: rectified flow, VP, VE, trigonometric).",
        "ratio of the closed densities of the two noised mixtures",
        "E[r | X_t] by adaptive quadrature",
        "exact",
        "",
        Z1_PARTS,
    ),
    Claim(
        "Z2",
        "zhu, 'Delta proportional to (2/beta) p grad log p'",
        "At each t Delta = m_t (v+ - v_old) is proportional to p grad log p = grad m_t, p = "
        "p(o = 1 | x_t).",
        "r > 0; the factor may depend on t, and is not the 2/beta printed beside the sign.",
        "closed velocities of the reward-weighted and the old law",
        "numerical derivative of E[r | X_t] by quadrature; eta_t from the path by complex steps",
        "exact",
        "The factor is eta_t = sigma (sigma alpha'/alpha - sigma'), (1 - t)/t on the RF path, on "
        "every path. It has no beta in it: the 2/beta printed after the sign of proportionality "
        "stands in front of Delta already, v* = v_old + (2/beta) Delta, and an equality with it "
        "would hold at the one time where eta_t = 2/beta. With eta_t the note's next line is "
        "exact: Z3.",
        Z2_PARTS,
    ),
    Claim(
        "Z3",
        "zhu, 'grad log p*_t / p_old_t = (2/beta) grad alpha'",
        "The NFT optimum is the velocity whose score is s_old + (2/beta) grad m_t at every t.",
        "t with alpha, sigma > 0; 'score' means what the velocity implies on the path.",
        "v* converted by the path",
        "derivatives of the log-marginal and of E[r | X_t], both by quadrature and stencils",
        "exact",
        "Whether X_t of the sampler has that score is another question: Z4.",
        Z3_PARTS,
    ),
    Claim(
        "Z4",
        "zhu, 'This implies the explicit density' and 'At t = 0'",
        "The optimum is the density p*_t = p_old_t exp((2/beta) m_t)/Z_t; at the data end its "
        "samples follow p_old exp((2/beta) r)/Z.",
        "None printed.",
        "laws by the ODE (torchdiffeq) and SDEs (Fokker-Planck) with the implied score",
        "scipy on sums over a grid (line and plane); draws that carry their log-density (d = 2, "
        "5); Euler-Maruyama draws; the variance of a linear SDE by scipy",
        "conditional",
        "The score is that of p*_t at each t (Z3), but the p*_t are not the marginals of one "
        "process: their continuity equation is off by lambda² eta_t |grad m_t|² - d log Z_t/dt. "
        "So the ODE samples p_old exp(lambda r - lambda² int eta_t |grad m_t|² dt - lambda E r), "
        "the integral along the path that ends at x. SDEs with the implied score sample a law "
        "for each noise, the nearer to the claim the louder: on every problem tried TV falls at "
        "each step of g = 0 (the ODE), 1/2, 1, 2, 4, 8, and it vanishes, like g^-4; under "
        "multiples k of the memoryless schedule, whose noise dies at the data end, like 1/k. At "
        "any g that samplers use it is there. Without noise, or with any, exact where "
        "|grad m_t| is the same for all x: a linear reward along a direction in which the base "
        "is Gaussian and independent of the rest.",
        zhu_laws.Z4_PARTS,
        zhu_laws.separation_region,
    ),
    Claim(
        "Z5",
        "zhu, 'Idealized recursion'",
        "With exact per-epoch optima and m_t held fixed, p^(K)_t = p^(0)_t exp((2K/beta) m_t)/Z.",
        "m_t frozen at its first value.",
        "closed fields (m_t frozen); theory.recursion on a grid (m_t recomputed)",
        "the loss by quadrature with any v_old; epochs by the loss's normal equations on sums, "
        "pulled back by scipy",
        "conditional",
        "With m_t frozen the scores add up by linearity (Z3), the law of the samples does not "
        "(as Z4). With m_t recomputed from each epoch's own law the claim becomes true in the "
        "limit of small steps: at a fixed total 2K/beta the law tends to p^(0) exp((2K/beta) r) "
        "with order 1 in 2/beta. If v_old is the last student, the optimum is v_old + (2/beta) "
        "Cov(r, V|x) + (1/beta)(2 m_t - 1)(u - v_old), u the RF velocity of v_old's own samples; "
        "with r in [0, 1] that has the same limit. With rewards below 0 v_old - u grows by "
        "1 + (1 - 2 m_t)/beta an epoch, without bound where m_t has none: in the tails first, "
        "until trajectories from there are lost.",
        zhu_online.Z5_PARTS,
        zhu_online.epochs_region,
    ),
    Claim(
        "Z6",
        "zhu, after the recursion (commented out in the source)",
        "As K grows p^(0) exp(K lambda r)/Z concentrates on the maximisers of the reward, with "
        "the weights of p^(0) restricted to them.",
        "A maximum that is attained.",
        "the limiting weights from theory's densities, Hessians by automatic differentiation",
        "masses of p^(0) exp(K lambda r) by quadrature, up to K lambda = 1e4, extrapolated",
        "conditional",
        "The sentence about weights stands in a comment of the source; concentration itself, the "
        "visible one, is what masses show. True where the maximisers carry mass (discrete "
        "states, plateaux), and of isolated maxima with one curvature. At others the weights are "
        "p^(0)(x_i) / sqrt(det(-Hess r(x_i))): flat peaks win.",
        zhu_limits.Z6_PARTS,
        zhu_limits.peak_region,
    ),
    Claim(
        "Z7",
        "zhu, 'Remarks on EMA references'",
        "An EMA reference slows the growth of the tilt and changes nothing else qualitatively: "
        "measured as, velocities averaged with decay g are no EMA at nft_beta/(1 - g); "
        "parameters averaged are that up to second order.",
        "Each epoch trained to its optimum; decay g in [0, 1).",
        "theory.recursion with the EMA carried out",
        "the recursion without EMA at nft_beta/(1 - g), by theory.recursion and by scipy on sums; "
        "averages of network weights",
        "order 2",
        "Without an anchor, averaging velocities with decay g is the same recursion at "
        "nft_beta/(1 - g), exactly, in every mode. Averaging parameters differs from that by the "
        "second order in the size of an epoch's step.",
        zhu_ema.Z7_PARTS,
        zhu_ema.average_region,
    ),
    Claim(
        "Z8",
        "zhu, 'The unique optimizer has the closed form'",
        "argmax E_p[m] - KL(p|p^k)/eta_1 - KL(p|p^0)/eta_0 = p^k^w p^0^(1-w) exp(lambda m)/Z, "
        "w = eta_0/(eta_0 + eta_1), lambda = eta_0 eta_1/(eta_0 + eta_1).",
        "eta_0, eta_1 > 0.",
        "the closed form on atoms, and as a Gaussian sum",
        "Newton on the objective over softmax logits; first variation of the integrals",
        "exact",
        "",
        zhu_two_kl.Z8_PARTS,
    ),
    Claim(
        "Z9",
        "zhu, 'Recursive application and limiting distribution'",
        "Iterating Z8 keeps the form p^0 exp(B_k m), B_{k+1} = w B_k + lambda, "
        "B_k = eta_0 (1 - w^k): the limit depends on eta_0 alone, eta_1 sets the rate.",
        "m the same in every epoch (at the data end it is: m_1 = r).",
        "B_k in closed form",
        "the optimisation of Z8 carried out epoch after epoch",
        "exact",
        "A statement about densities. A penalty kl |v - v_ref|² on velocities has the same form "
        "at the level of scores, m_t frozen, with w = beta²/(beta² + kl) and eta_0 = 2 beta/kl "
        "(a closed form of theory.recursion, not measured in this row).",
        zhu_two_kl.Z9_PARTS,
    ),
    Claim(
        "Z10",
        "zhu, closing remark on classifier-free guidance",
        "A reference sampled with guidance changes what an initial-KL anchor pulls towards: the "
        "limit is its law times exp(eta_0 r).",
        "The anchored recursion Z9, with p^0 the law that the guided sampler really has.",
        "theory.recursion.carry on a grid, pulled to the guided field's own law; the guided law by "
        "torchdiffeq",
        "the recursion on states (Newton); expectations over X_0 pushed through scipy's fields; "
        "path integrals in d = 1, 2 and 5",
        "exact",
        "A statement about densities. The guided law is p(x|c)^(1+w) p(x)^-w exp(-w (1+w) int "
        "eta_t |grad log p_t(x|c)/p_t(x)|² dt), not p(x|c)^(1+w) p(x)^-w; the two agree where "
        "p(x|c) and p(x) are Gaussians of one covariance.",
        (zhu_two_kl.OTHER_ANCHOR, *zhu_guidance.Z10_PARTS),
        zhu_guidance.guidance_region,
    ),
    Claim(
        "Z11",
        "zhu, title and 'Thus, DiffusionNFT with fixed p_old'",
        "NFT with a fixed reference is the KL-regularised problem "
        "argmax E_p[r] - (beta/2) KL(p|p_old).",
        "None printed.",
        "laws and tilts in closed form, objective on a grid",
        "objective by adaptive quadrature over the density that scipy's flow gives; in d = 2 and 5 "
        "draws that carry their log-density",
        "conditional",
        "True where Z4 is. Elsewhere NFT's law falls short of the optimum by (beta/2) KL(NFT | "
        "tilt).",
        objective.Z11_PARTS,
        objective.objective_region,
    ),
)
