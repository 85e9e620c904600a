"""The ledger's rows of the released DiffusionNFT training code: facts about practice (N1 to N8).

Its loss, per sample, on predictions x1+- = x1_old +- nft_beta (x1_student - x1_old) of the data:

    (5 / nft_beta) [r |x1+ - x1|^2 / w+ + (1 - r) |x1- - x1|^2 / w-] + kl_weight |v - v_ref|^2

w+- the adaptive normaliser, 1 where it is off; r the mapped reward.
"""

from __future__ import annotations

from theory.ledger.core import Claim
from theory.ledger.released import cancel, every_step, normaliser, penalty, schedule
from theory.ledger.released.reward import mapping, modes
from theory.ledger.released.sampling import times

ROWS: tuple[Claim, ...] = (
    mapping.N1,
    cancel.N2,
    penalty.N3,
    schedule.N4,
    normaliser.N5,
    times.N6,
    modes.N7,
    every_step.N8,
)
