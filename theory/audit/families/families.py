"""The wrappers Phi that an audit fits: what a tuned model may have made of the base's rewards.

    exponential      exp(a r)                          NFT (first order), Adjoint Matching, RWR
    linear           1 + a r                           reward-weighted losses, NFT read as 1 + a r
    truncated_2, _3  Taylor polynomials of exp(a r)    about r = 0, as the rewards are given
    power            r^b                               p R^b (nabla-GFlowNets), for r > 0
    clipped          min(exp(a r), w)                  DRWR with a cap on the weights
    best_of_n        F_g(r)^(n - 1), n real            best of n samples of a prompt
    rank             exp(a F_g(r))                     losses of ranks within a prompt

F_g is the cdf of the base's rewards in the prompt, from its base rows.
"""

from __future__ import annotations

from theory.audit.families.clipped import ClippedFamily
from theory.audit.families.curved import LinearFamily, TruncatedFamily
from theory.audit.families.family import ExponentialFamily, Family, PowerFamily
from theory.audit.families.ranks import BestOfN, RankFamily

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        ExponentialFamily(),
        LinearFamily(),
        TruncatedFamily(2),
        TruncatedFamily(3),
        PowerFamily(),
        ClippedFamily(),
        BestOfN(),
        RankFamily(),
    )
}
