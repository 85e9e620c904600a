"""The ledger's rows of nabla: nabla-GFlowNet on the denoising chain.

The paper's alpha_t is the square of a state's signal coefficient a_k, its beta the scale of a
wrapper, its eta `prior`; P# is the pretrained chain. Identities at a pair of states are in `points`
and `looking`, what is sampled in `starts` and `strengths`, sums along paths in `telescope`.
"""

from __future__ import annotations

from theory.ledger.core import Claim
from theory.ledger.gflownet import looking, points, starts, strengths, telescope

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
            "The proof puts F_0 for P_0 in (31): the chain must start from F_0 / Z, which noise is "
            "where the first state keeps no signal (alpha_0 = 0). Otherwise it samples "
            "R^beta(x_T) int q(x_0|x_T) P_0(x_0) / F_0(x_0) dx_0. Section 2.1's kernels print "
            "sqrt(1 - ratio) where the variance stands and do not compose to its q(x_t|x_T)."
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
            "True for eta = 1 from a memoryless start. For another eta the conditions are met by "
            "P#(x'|x)^eta Ft(x')/Ft(x) alone, which samples R^beta int P_0/Ft_0 prod P#^eta: a "
            "product of powers is not the power of the integral. Gaussian kernels of the chain's "
            "own variance meet them at no eta but 1: (eta - 1) x'/s² is left."
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
            "and (18) are zero, small for gamma = 1 or the signal's strength."
        ),
        assumptions="xhat = E[X_T | X_k = x] under P#, gamma_T = 1",
        first="closed residual scores and posterior means",
        second=INTEGRALS,
        recorded="exact",
        remark=(
            "At gamma = 1 nothing is left of one Gaussian with log R linear; of mixtures and bumps "
            "much is, and the signal's square can leave more than no looking ahead saves."
        ),
        parts=looking.G7_PARTS,
    ),
)
