"""The ledger's rows of liu: DiffusionNFT as Taylor approximation (Q. Liu).

Exact rows compare theory's fields with `theory.ledger.oracle` (`identities`); rows about
approximations measure orders (`laws`) and which of several laws is nearest (`nearest`);
questions that the note leaves open are in `variance` and `adaptive`.
"""

from __future__ import annotations

from theory.ledger.core import Claim
from theory.ledger.liu import adaptive, identities, laws, lemma, nearest, variance, weighted

CLOSED = "closed forms of Gaussian sums (theory.fields.mixture, theory.fields.cumulants)"

ROWS: tuple[Claim, ...] = (
    Claim(
        id="L1",
        source="liu, after (1); Theorem 1.1",
        statement=(
            "The NFT loss is minimised by v* = v0 + (2/beta) m_t (vhat - v0); its perturbations "
            "are v*± = v0 ± 2 m_t (vhat - v0)."
        ),
        assumptions=(
            "v0 is the RF velocity of the data that the loss is trained on; beta > 0; any r (the "
            "curvature is 2 beta², whatever r)."
        ),
        first=CLOSED,
        second=(
            "the loss itself by quadrature at a stencil of mu, stationary point by a linear solve"
        ),
        recorded="exact",
        remark=(
            "Holds for rewards outside [0, 1] too. If v_old is not the velocity of the data, "
            "another term appears: Z5."
        ),
        parts=identities.L1_PARTS,
    ),
    Claim(
        id="L2",
        source="liu, after (1)",
        statement=(
            "vhat = E[r (X1 - X0)|X_t] / m_t is the RF velocity of the reward-weighted density "
            "pi_1 r / Z, not of an exponential tilt."
        ),
        assumptions="r > 0.",
        first=CLOSED,
        second="quadrature under the density pi_1 r",
        recorded="exact",
        remark=(
            "The velocities of pi_1 exp(r) and pi_1 (1 + r) are told from it (they are the "
            "mutants)."
        ),
        parts=identities.L2_PARTS,
    ),
    Claim(
        id="L3",
        source="liu, Theorem 1.3, first formula",
        statement=(
            "d/da v^a = Cov_a(X1 - X0, d/da log gamma^a(X0, X1) | X_t), for a joint density "
            "gamma^a that depends smoothly on a."
        ),
        assumptions=(
            "Couplings with a density (dependent ones too); derivative and integral may be "
            "exchanged."
        ),
        first=(
            "conditional moments of joint Gaussian mixtures whose weights, means and "
            "correlations move"
        ),
        second=(
            "slope in a of velocities by quadrature along the fibre t x1 + (1 - t) x0 = x "
            "(Chebyshev)"
        ),
        recorded="exact",
        remark=(
            "At a = 0 and away from it. A deterministic coupling has no density and is not covered."
        ),
        parts=identities.coupling_parts(dependent=True),
    ),
    Claim(
        id="L4",
        source="liu, Theorem 1.3, second formula",
        statement=(
            "For the independent coupling d/da v^a = Cov_a(X1 - X0, d/da log pi_1^a(X1) | X_t)."
        ),
        assumptions="X0 independent of X1; pi_1^a any smooth family.",
        first="the same closed form, X1's mixture moving",
        second="slope in a of velocities by quadrature (Chebyshev)",
        recorded="exact",
        remark="",
        parts=identities.coupling_parts(dependent=False),
    ),
    Claim(
        id="L5",
        source="liu, Theorem 1.3, third formula",
        statement="For pi_1 exp(a r)/Z_a: d/da v^a = Cov_a(X1 - X0, r(X1) | X_t) at every a.",
        assumptions="Independent coupling.",
        first=CLOSED + " under the tilted mixture",
        second="slope in a of velocities by quadrature (Chebyshev)",
        recorded="exact",
        remark="Taking the covariance under the untilted law (a = 0) is one of the mutants.",
        parts=identities.L5_PARTS,
    ),
    Claim(
        id="L6",
        source="liu, Theorem 1.1",
        statement="v* = v0 + (2/beta) m_t (vhat - v0) = v0 + (2/beta) Cov(r, X1 - X0 | X_t) = "
        "v0 + (2/beta) d/da v^a at a = 0; the same for v*± with ±2.",
        assumptions="v0 is the RF velocity of pi_1.",
        first=CLOSED,
        second="quadrature of each form: centred product, weighted velocity, slope in a",
        recorded="exact",
        remark=(
            "The proof's displayed line with Cov(2r - 1, .), as far as the text read off the PDF "
            "shows it, carries 2/beta where 1/beta is right: with 2/beta it is a mutant that "
            "fails."
        ),
        parts=identities.L6_PARTS,
    ),
    Claim(
        id="L7",
        source="liu, Lemma 1.2",
        statement=(
            "r |mu+ - y|² + (1 - r)|mu- - y|² = |beta mu - beta v - (2r - 1)(y - v)|² + const in "
            "mu, minimised at v + ((2r - 1)/beta)(y - v)."
        ),
        assumptions="beta > 0, any real r; the paper has scalars, vectors hold too.",
        first="float64",
        second="exact rational arithmetic of the left side; its minimiser from differences",
        recorded="exact",
        remark="",
        parts=lemma.L7_PARTS,
    ),
    Claim(
        id="L8",
        source="liu, 'DiffusionNFT as Taylor approximation'",
        statement=(
            "v* is the first-order Taylor approximation of the tilted velocity v^a at a = "
            "2/beta; v*+ that at a = 2."
        ),
        assumptions="r with finite cumulants given X_t.",
        first="closed fields; log-densities by torchdiffeq along them",
        second="slopes over two decades; the law once more by scipy on sums over a grid",
        recorded="order 2",
        remark=(
            "The error is of second order in a, for the field and for the law of its samples "
            "alike. At the temperatures that are used it is not small: the sizes are in the row."
        ),
        parts=laws.L8_PARTS,
        region=nearest.note_region,
    ),
    Claim(
        id="L9",
        source="liu, 'Assume r(x) is sufficiently close to a constant'",
        statement="The approximation is accurate when r is nearly constant.",
        assumptions="Nearly constant uniformly: r = E r + e (r - E r).",
        first="closed fields; log-densities by torchdiffeq",
        second="slope in e over two decades",
        recorded="order 2",
        remark=(
            "By the invariance of a r this is L8's law in another parameter; the map and the "
            "narrow bump are its own. A small standard deviation alone does not make the field "
            "accurate: over a narrow bump its error stays, on a region whose mass shrinks."
        ),
        parts=laws.L9_PARTS,
        region=laws.spread_region,
    ),
    Claim(
        id="L10",
        source="liu, after the expansion of exp(a r); Figure 2",
        statement=(
            "Of pi_1 exp(2r), pi_1 (1 + 2r) and pi_1 (1 + 2r + 2r²) the last, the second order, "
            "is closest to samples of NFT: the note says that it seems so in one toy; judged "
            "here is the general statement."
        ),
        assumptions=(
            "None: a toy is no assumption. Its numbers are not printed (ours: problem note_1d)."
        ),
        first="laws by torchdiffeq, targets as Gaussian sums, TV by exact integrals of splines",
        second="the law once more by scipy on sums over a grid",
        recorded="false",
        remark=(
            "Of the toy itself the note is right, narrowly, in our version of it (the caption of "
            "its Figure 1 says the exponential, its text the second order): what holds instead "
            "is that sentence, and no more. Over bump centres and temperatures each of the three "
            "is nearest somewhere, with nothing but the numbers to tell where."
        ),
        parts=nearest.L10_PARTS,
        region=nearest.ranking_region,
    ),
    Claim(
        id="L11",
        source="liu, (2)",
        statement=(
            "E[Phi(r(X1)) |v - (X1 - X0)|²] is minimised by the RF velocity of pi_1 Phi(r)/Z, "
            "for Phi = exp(2r), 1 + 2r, 1 + 2r + 2r²."
        ),
        assumptions="Phi(r) >= 0 (1 + 2r needs r >= -1/2).",
        first=CLOSED,
        second="the weighted loss by quadrature at a stencil of velocities",
        recorded="exact",
        remark="",
        parts=weighted.L11_PARTS,
    ),
    variance.L12,
    adaptive.L13,
)
