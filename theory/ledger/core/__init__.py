"""What a claim is, and how it is measured, searched and put on record."""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from theory.ledger.core.claim import Array, Claim, Context, Extra, Finding, Part, extra, number
    from theory.ledger.core.identity import Identity, row, unit
    from theory.ledger.core.laws import (
        AXIS,
        LINE,
        Estimate,
        base_points,
        column,
        draw,
        exponential_tilts,
        tilt_density,
        total_variation,
    )
    from theory.ledger.core.order import Slope, fit_slope
    from theory.ledger.core.region import Region
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
