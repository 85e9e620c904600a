"""The ledger's rows of nabla: nabla-GFlowNet on the denoising chain.

The paper's alpha_t is the square of a state's signal coefficient a_k, its beta the scale of a
wrapper, its eta `prior`; P# is the pretrained chain. Identities at a pair of states are in `points`
and `looking`, what is sampled in `starts` and `strengths`, sums along paths in `telescope`, what
losses do not say in `divergence`, `corrections` and `directions`, what an anchor of the outputs and
noise in the reward's gradient change in `anchors` and `smoothing`.
"""

from __future__ import annotations

from theory.ledger.core import Claim
from theory.ledger.gflownet import (
    anchors,
    corrections,
    directions,
    divergence,
    looking,
    points,
    smoothing,
    starts,
    strengths,
    telescope,
)

INTEGRALS = "adaptive quadrature over X_T, derivatives from integrals at states around"
TABLES = "kernels normalised by themselves, multiplied out over tables"

ROWS: tuple[Claim, ...] = (
    Claim(
        id="G1",
        source="nabla, (3), (5)",
        statement="For the exact reverse chain P_F(x'|x) F(x) = P_B(x|x') F(x').",
        assumptions="F_T = W integrable, P_B the path's noising; W = R^beta p_T or R^beta",
        first="kernels as mixtures by components, flows as noised Gaussian sums",
        second=INTEGRALS,
        recorded="exact",
        remark="The exact kernels are mixtures: no Gaussian kernel is in balance with a mixture.",
        parts=points.G1_PARTS,
    ),
    Claim(
        id="G2",
        source="nabla, (6), (7), (9)",
        statement="The forward and the reverse nabla-DB condition hold for the exact flow.",
        assumptions="as G1",
        first="closed scores of noised Gaussian sums",
        second=INTEGRALS,
        recorded="exact",
        remark="(6) fixes P_F given the next state's flow, (9) the flow given P_F.",
        parts=points.G2_PARTS,
    ),
    Claim(
        id="G3",
        source="nabla, Proposition 1; section 2.1",
        statement=("If (7), (9) and (8) are zero everywhere, samples have the law R^beta / Z."),
        assumptions="R^beta integrable; as printed: any P_0",
        first="the exact policy's law by one integral over X_0",
        second=TABLES,
        recorded="conditional",
        remark=(
            "The proof puts F_0 for P_0 in (31): the chain must start from F_0 / Z, or from a "
            "state without signal (alpha_0 = 0), whose law then does not matter. Otherwise it "
            "samples R^beta(x_T) int q(x_0|x_T) P_0(x_0) / F_0(x_0) dx_0. Section 2.1 prints "
            "sqrt(1 - ratio) for the variance, and kernels that do not compose to q(x_t|x_T)."
        ),
        parts=starts.G3_PARTS,
        region=starts.start_region,
    ),
    Claim(
        id="G4",
        source="nabla, (10)-(14), Proposition 4",
        statement=(
            "If (12), (13) and (14) are zero everywhere, samples have the law R^beta P#^eta / Z."
        ),
        assumptions="R^beta P# integrable; as printed: any eta and P_0",
        first="the target as a Gaussian sum; the conditions solved backwards on a grid",
        second=TABLES,
        recorded="conditional",
        remark=(
            "The conditions are met by P#(x'|x)^eta Ft(x')/Ft(x) alone, which samples R^beta int "
            "P_0/Ft_0 prod P#^eta. From a memoryless start that is (10) at any eta if P# is in "
            "detailed balance with the noising: powers of F cancel, those of P_B integrate to one "
            "number. Of Gaussian kernels it is R^beta times their own law at eta = 1, and no power "
            "of it else; a policy of the chain's own variance meets the conditions at eta = 1 "
            "alone: (eta - 1) x'/s² is left."
        ),
        parts=strengths.G4_PARTS,
        region=strengths.strength_region,
    ),
    Claim(
        id="G5",
        source="nabla, Remark 5, (49), (50)",
        statement="Residual DB telescopes to relative trajectory balance with one Z / Z#.",
        assumptions="as printed: any P_0",
        first="residual flows at both ends of a path",
        second=INTEGRALS + ", one ratio of kernels a step",
        recorded="conditional",
        remark=(
            "The sum leaves Ft_0(x_0), one number where the first state keeps no signal. From a "
            "later start (49) with a learned Z has no zero, though residual DB has."
        ),
        parts=telescope.G5_PARTS,
        region=telescope.telescope_region,
    ),
    Claim(
        id="G6",
        source="nabla, Remark 6",
        statement=(
            "grad' log Pt(x'|x) = -grad' log Pt(x''|x') on all triples needs no flow: it is (11) "
            "and (13)."
        ),
        assumptions="the terminal condition (14) is added to both; T >= 2",
        first="closed kernels; dimensions of solution sets on tables",
        second=INTEGRALS,
        recorded="exact",
        remark=(
            "The left side knows no x'', the right side no x: both are the score of one function "
            "of x', the flow. Without (14) neither knows the reward."
        ),
        parts=looking.G6_PARTS,
    ),
    Claim(
        id="G7",
        source="nabla, (15)-(18)",
        statement=(
            "With grad log Ft = beta gamma grad log R(xhat) + g there is a g at which (16), (17) "
            "and (18) are zero."
        ),
        assumptions="xhat = E[X_T | X_k = x] under P#, gamma_T = 1",
        first="closed residual scores and posterior means",
        second=INTEGRALS,
        recorded="exact",
        remark=(
            "At gamma = 1 nothing is left of one Gaussian with log R linear. Of the score's rms g "
            "keeps 0.52, 0.51 and 0.66 on note_1d (gamma = 1, the signal, its square) and 1.42, "
            "0.42 and 0.60 on bump_2d: there gamma = 1 is worse than not looking ahead."
        ),
        parts=looking.G7_PARTS,
    ),
    Claim(
        id="G8",
        source="nabla, (21)",
        statement="On-policy nabla-DB is a Fisher divergence.",
        assumptions="Gaussian kernels, one state; as printed: grad log P_B in the first place",
        first="sums over the kernel's nodes, automatic differentiation in the policy's mean",
        second="sums over tables, complex steps",
        recorded="false",
        remark=(
            "With the policy's score in the first place the value is half the loss. The gradient "
            "is not: training holds the samples, the divergence's derivative moves them."
        ),
        parts=divergence.G8_PARTS,
        region=divergence.gradient_region,
    ),
    Claim(
        id="G9",
        source="nabla, (51), (52)",
        statement=(
            "A pretrained model that violates detailed balance biases the residual loss, and (51)-"
            "(52) with a learned h correct it."
        ),
        assumptions="Gaussian kernels for P#; from a memoryless start",
        first="theory's kernels, differentiated; laws on a grid",
        second=INTEGRALS + "; " + TABLES,
        recorded="conditional",
        remark=(
            "The residual conditions never use P_B: they sample R^beta times the pretrained "
            "chain's own law. Against the data's law that is biased, and h = log P# F# / (P_B F#') "
            "corrects it. A free h is no correction: every policy has one. (52) prints "
            "F(x_{t+1}) under a gradient in x_t."
        ),
        parts=corrections.G9_PARTS,
        region=corrections.bias_region,
    ),
    Claim(
        id="G10",
        source="nabla, section 4.1, (20)",
        statement="DAG-DB samples R^beta, residual DB (20) R^beta P#.",
        assumptions="from a memoryless start; as printed: (20) without the flow of x_t",
        first="targets as Gaussian sums; the residual flow",
        second=TABLES,
        recorded="conditional",
        remark=(
            "With + log Ft(x_t). As printed a normalised kernel would have to be P# R^beta, whose "
            "mass given x is Ft(x): zero is reached where R is constant and nowhere else."
        ),
        parts=directions.G10_PARTS,
        region=directions.printed_region,
    ),
    Claim(
        id="G11",
        source="nabla, Remark 2, Table 1",
        statement="The forward condition alone (w_B = 0) suffices.",
        assumptions="with the terminal condition (14); flows of states before the last one free",
        first="one integral over the last noising kernel",
        second=TABLES,
        recorded="false",
        remark=(
            "P_F = P# Ft(x')/C(x) has zero forward loss for any flows Ft_k, k < T. With Ft_k = 1 "
            "it is the base until the last step, which cannot move far. What is found in training "
            "is what initialisation and looking ahead make of the free flows."
        ),
        parts=directions.G11_PARTS,
        region=directions.forward_region,
    ),
    Claim(
        id="G12",
        source="nabla, Algorithm 1, section 4.3",
        statement=(
            "With output regularisation lambda |f - f_anchor|² residual nabla-DB still settles at "
            "R^beta P# / Z."
        ),
        assumptions=(
            "one Gaussian, log R linear, from a memoryless start; P# the law of the Gaussian "
            "kernels; as printed: the anchor is the pretrained model (Algorithm 1, footnote 5) or "
            "the previous update step (section 4.3)"
        ),
        first="springs in a row along every eigenvector, modes of a round",
        second="least squares in all means and flows at once, round after round",
        recorded="conditional",
        remark=(
            "Anchored at the last step's output it is a proximal step: its fixed point is the one "
            "without it, whatever lambda, and it only slows. Anchored at the pretrained model, as "
            "Algorithm 1 prints it, it is a penalty that takes the tilt back in proportion to a "
            "small lambda; the paper's 100 and 1000 would leave 0.35 % and 0.09 % of it at 50 "
            "steps (N(0, 1), noise outputs), whatever beta. With one gradient step for every "
            "anchor, at the output that the step starts from, the penalty has no gradient."
        ),
        parts=anchors.G12_PARTS,
        region=anchors.anchor_region,
    ),
    Claim(
        id="G13",
        source="nabla, section 4.3",
        statement=(
            "E grad log R(x + c eps) in the place of grad log R samples R^beta P# to second order "
            "in c: its target is exp(beta (log R * N(0, c² I))) P# / Z."
        ),
        assumptions="log R linear, quadratic or a sum of bumps; c the noise's standard deviation",
        first="bumps and quadratics smoothed in closed form",
        second="log R averaged over nodes, Z by adaptive quadrature",
        recorded="order 2",
        remark=(
            "log R is averaged, not R: a linear log R stays, a quadratic one gains a constant, "
            "bumps keep their volume and get c² added to their widths². The paper's c = 2e-3 is "
            "too small to be seen; if its N(0, c) means the variance, the order is 1 in c. Only "
            "X_T's gradient counts: before, g takes up whatever looking ahead leaves (G7)."
        ),
        parts=smoothing.G13_PARTS,
        region=smoothing.smoothing_region,
    ),
)
