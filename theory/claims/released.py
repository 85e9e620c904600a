"""The ledger's rows of the released DiffusionNFT training code: facts about practice (N1 to N8).

Its loss, per sample, on predictions x1+- = x1_old +- nft_beta (x1_student - x1_old) of the data:

    (5 / nft_beta) [r |x1+ - x1|^2 / w+ + (1 - r) |x1- - x1|^2 / w-] + kl_weight |v - v_ref|^2

w+- the adaptive normaliser, 1 where it is off; r the mapped reward.
"""

from __future__ import annotations

from theory.claims.ledger import Claim
from theory.claims.released_cancel import N2
from theory.claims.released_every_step import N8
from theory.claims.released_mapping import N1
from theory.claims.released_modes import N7
from theory.claims.released_normaliser import N5
from theory.claims.released_penalty import N3
from theory.claims.released_schedule import N4
from theory.claims.released_times import N6

ROWS: tuple[Claim, ...] = (N1, N2, N3, N4, N5, N6, N7, N8)
