"""The ledger's rows of the released DiffusionNFT training code: facts about practice (N1 to N8).

Its loss, per sample, on predictions x1+- = x1_old +- nft_beta (x1_student - x1_old) of the data:

    (5 / nft_beta) [r |x1+ - x1|^2 / w+ + (1 - r) |x1- - x1|^2 / w-] + kl_weight |v - v_ref|^2

w+- the adaptive normaliser, 1 where it is off; r the mapped reward.
"""

from __future__ import annotations

from theory.ledger.core import Claim
from theory.ledger.released.cancel import N2
from theory.ledger.released.every_step import N8
from theory.ledger.released.normaliser import N5
from theory.ledger.released.penalty import N3
from theory.ledger.released.reward.mapping import N1
from theory.ledger.released.reward.modes import N7
from theory.ledger.released.sampling.times import N6
from theory.ledger.released.schedule import N4

ROWS: tuple[Claim, ...] = (N1, N2, N3, N4, N5, N6, N7, N8)
