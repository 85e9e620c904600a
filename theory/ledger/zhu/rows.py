"""The ledger's rows of zhu: a KL-regularised view of DiffusionNFT (Y. Zhu).

The identities at one point and time are in `points`; laws of samples, recursions, averages and
limits in `laws`, `online`, `ema`, `limits` and `two_kl`.
"""

from __future__ import annotations

from theory.ledger.core import Claim
from theory.ledger.zhu import ema, guidance, laws, limits, objective, online, points, two_kl

ROWS: tuple[Claim, ...] = (
    Claim(
        id="Z1",
        source="zhu, boxed: alpha(x_t, c) = p_old(o = 1 | x_t, c)",
        statement="With r = p(o = 1 | x): (p+_t / p_old_t) E[r] = p_old(o = 1 | x_t) = m_t(x_t).",
        assumptions="r > 0; any noising kernel (checked: rectified flow, VP, VE, trigonometric).",
        first="ratio of the closed densities of the two noised mixtures",
        second="E[r | X_t] by adaptive quadrature",
        recorded="exact",
        remark="",
        parts=points.Z1_PARTS,
    ),
    Claim(
        id="Z2",
        source="zhu, 'Delta proportional to (2/beta) p grad log p'",
        statement=(
            "At each t Delta = m_t (v+ - v_old) is proportional to p grad log p = grad m_t, p = "
            "p(o = 1 | x_t)."
        ),
        assumptions=(
            "r > 0; the factor may depend on t, and is not the 2/beta printed beside the sign."
        ),
        first="closed velocities of the reward-weighted and the old law",
        second=(
            "numerical derivative of E[r | X_t] by quadrature; eta_t from the path by complex steps"
        ),
        recorded="exact",
        remark=(
            "The factor is eta_t = sigma (sigma alpha'/alpha - sigma'), (1 - t)/t on the RF "
            "path, on every path. It has no beta in it: the 2/beta printed after the sign of "
            "proportionality stands in front of Delta already, v* = v_old + (2/beta) Delta, and "
            "an equality with it would hold at the one time where eta_t = 2/beta. With eta_t the "
            "note's next line is exact: Z3."
        ),
        parts=points.Z2_PARTS,
    ),
    Claim(
        id="Z3",
        source="zhu, 'grad log p*_t / p_old_t = (2/beta) grad alpha'",
        statement=(
            "The NFT optimum is the velocity whose score is s_old + (2/beta) grad m_t at every t."
        ),
        assumptions="t with alpha, sigma > 0; 'score' means what the velocity implies on the path.",
        first="v* converted by the path",
        second="derivatives of the log-marginal and of E[r | X_t], both by quadrature and stencils",
        recorded="exact",
        remark="Whether X_t of the sampler has that score is another question: Z4.",
        parts=points.Z3_PARTS,
    ),
    Claim(
        id="Z4",
        source="zhu, 'This implies the explicit density' and 'At t = 0'",
        statement=(
            "The optimum is the density p*_t = p_old_t exp((2/beta) m_t)/Z_t; at the data end "
            "its samples follow p_old exp((2/beta) r)/Z."
        ),
        assumptions="None printed.",
        first="laws by the ODE (torchdiffeq) and SDEs (Fokker-Planck) with the implied score",
        second=(
            "scipy on sums over a grid (line and plane); draws that carry their log-density (d = "
            "2, 5); Euler-Maruyama draws; the variance of a linear SDE by scipy"
        ),
        recorded="conditional",
        remark=(
            "The score is that of p*_t at each t (Z3), but the p*_t are not the marginals of one "
            "process: their continuity equation is off by lambda² eta_t |grad m_t|² - d log "
            "Z_t/dt. So the ODE samples p_old exp(lambda r - lambda² int eta_t |grad m_t|² dt - "
            "lambda E r), the integral along the path that ends at x. SDEs with the implied "
            "score sample a law for each noise, the nearer to the claim the louder: on every "
            "problem tried TV falls at each step of g = 0 (the ODE), 1/2, 1, 2, 4, 8, and it "
            "vanishes, like g^-4; under multiples k of the memoryless schedule, whose noise dies "
            "at the data end, like 1/k. At any g that samplers use it is there. Without noise, "
            "or with any, exact where |grad m_t| is the same for all x: a linear reward along a "
            "direction in which the base is Gaussian and independent of the rest."
        ),
        parts=laws.Z4_PARTS,
        region=laws.separation_region,
    ),
    Claim(
        id="Z5",
        source="zhu, 'Idealized recursion'",
        statement=(
            "With exact per-epoch optima and m_t held fixed, p^(K)_t = p^(0)_t exp((2K/beta) "
            "m_t)/Z."
        ),
        assumptions="m_t frozen at its first value.",
        first="closed fields (m_t frozen); theory.recursion on a grid (m_t recomputed)",
        second=(
            "the loss by quadrature with any v_old; epochs by the loss's normal equations on "
            "sums, pulled back by scipy"
        ),
        recorded="conditional",
        remark=(
            "With m_t frozen the scores add up by linearity (Z3), the law of the samples does "
            "not (as Z4). With m_t recomputed from each epoch's own law the claim becomes true "
            "in the limit of small steps: at a fixed total 2K/beta the law tends to p^(0) "
            "exp((2K/beta) r) with order 1 in 2/beta. If v_old is the last student, the optimum "
            "is v_old + (2/beta) Cov(r, V|x) + (1/beta)(2 m_t - 1)(u - v_old), u the RF velocity "
            "of v_old's own samples; with r in [0, 1] that has the same limit. With rewards "
            "below 0 v_old - u grows by 1 + (1 - 2 m_t)/beta an epoch, without bound where m_t "
            "has none: in the tails first, until trajectories from there are lost."
        ),
        parts=online.Z5_PARTS,
        region=online.epochs_region,
    ),
    Claim(
        id="Z6",
        source="zhu, after the recursion (commented out in the source)",
        statement=(
            "As K grows p^(0) exp(K lambda r)/Z concentrates on the maximisers of the reward, "
            "with the weights of p^(0) restricted to them."
        ),
        assumptions="A maximum that is attained.",
        first="the limiting weights from theory's densities, Hessians by automatic differentiation",
        second="masses of p^(0) exp(K lambda r) by quadrature, up to K lambda = 1e4, extrapolated",
        recorded="conditional",
        remark=(
            "The sentence about weights stands in a comment of the source; concentration itself, "
            "the visible one, is what masses show. True where the maximisers carry mass "
            "(discrete states, plateaux), and of isolated maxima with one curvature. At others "
            "the weights are p^(0)(x_i) / sqrt(det(-Hess r(x_i))): flat peaks win."
        ),
        parts=limits.Z6_PARTS,
        region=limits.peak_region,
    ),
    Claim(
        id="Z7",
        source="zhu, 'Remarks on EMA references'",
        statement=(
            "An EMA reference slows the growth of the tilt and changes nothing else "
            "qualitatively: measured as, velocities averaged with decay g are no EMA at "
            "nft_beta/(1 - g); parameters averaged are that up to second order."
        ),
        assumptions="Each epoch trained to its optimum; decay g in [0, 1).",
        first="theory.recursion with the EMA carried out",
        second=(
            "the recursion without EMA at nft_beta/(1 - g), by theory.recursion and by scipy on "
            "sums; averages of network weights"
        ),
        recorded="order 2",
        remark="Without an anchor, averaging velocities with decay g is the same recursion at "
        "nft_beta/(1 - g), exactly, in every mode. Averaging parameters differs from that by the "
        "second order in the size of an epoch's step.",
        parts=ema.Z7_PARTS,
        region=ema.average_region,
    ),
    Claim(
        id="Z8",
        source="zhu, 'The unique optimizer has the closed form'",
        statement=(
            "argmax E_p[m] - KL(p|p^k)/eta_1 - KL(p|p^0)/eta_0 = p^k^w p^0^(1-w) exp(lambda "
            "m)/Z, w = eta_0/(eta_0 + eta_1), lambda = eta_0 eta_1/(eta_0 + eta_1)."
        ),
        assumptions="eta_0, eta_1 > 0.",
        first="the closed form on atoms, and as a Gaussian sum",
        second="Newton on the objective over softmax logits; first variation of the integrals",
        recorded="exact",
        remark="",
        parts=two_kl.Z8_PARTS,
    ),
    Claim(
        id="Z9",
        source="zhu, 'Recursive application and limiting distribution'",
        statement="Iterating Z8 keeps the form p^0 exp(B_k m), B_{k+1} = w B_k + lambda, "
        "B_k = eta_0 (1 - w^k): the limit depends on eta_0 alone, eta_1 sets the rate.",
        assumptions="m the same in every epoch (at the data end it is: m_1 = r).",
        first="B_k in closed form",
        second="the optimisation of Z8 carried out epoch after epoch",
        recorded="exact",
        remark=(
            "A statement about densities. A penalty kl |v - v_ref|² on velocities has the same "
            "form at the level of scores, m_t frozen, with w = beta²/(beta² + kl) and eta_0 = 2 "
            "beta/kl (a closed form of theory.recursion, not measured in this row)."
        ),
        parts=two_kl.Z9_PARTS,
    ),
    Claim(
        id="Z10",
        source="zhu, closing remark on classifier-free guidance",
        statement=(
            "A reference sampled with guidance changes what an initial-KL anchor pulls towards: "
            "the limit is its law times exp(eta_0 r)."
        ),
        assumptions=(
            "The anchored recursion Z9, with p^0 the law that the guided sampler really has."
        ),
        first=(
            "theory.recursion.carry on a grid, pulled to the guided field's own law; the guided "
            "law by torchdiffeq"
        ),
        second=(
            "the recursion on states (Newton); expectations over X_0 pushed through scipy's "
            "fields; path integrals in d = 1, 2 and 5"
        ),
        recorded="exact",
        remark=(
            "A statement about densities. The guided law is p(x|c)^(1+w) p(x)^-w exp(-w (1+w) "
            "int eta_t |grad log p_t(x|c)/p_t(x)|² dt), not p(x|c)^(1+w) p(x)^-w; the two agree "
            "where p(x|c) and p(x) are Gaussians of one covariance."
        ),
        parts=(two_kl.OTHER_ANCHOR, *guidance.Z10_PARTS),
        region=guidance.guidance_region,
    ),
    Claim(
        id="Z11",
        source="zhu, title and 'Thus, DiffusionNFT with fixed p_old'",
        statement="NFT with a fixed reference is the KL-regularised problem "
        "argmax E_p[r] - (beta/2) KL(p|p_old).",
        assumptions="None printed.",
        first="laws and tilts in closed form, objective on a grid",
        second=(
            "objective by adaptive quadrature over the density that scipy's flow gives; in d = 2 "
            "and 5 draws that carry their log-density"
        ),
        recorded="conditional",
        remark=(
            "True where Z4 is. Elsewhere NFT's law falls short of the optimum by (beta/2) KL(NFT "
            "| tilt)."
        ),
        parts=objective.Z11_PARTS,
        region=objective.objective_region,
    ),
)
