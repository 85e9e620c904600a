"""What a claim is, and how it is measured, searched and put on record."""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from theory.ledger.core.claim import (
        Array,
        Claim,
        Context,
        Extra,
        Finding,
        Part,
        Role,
        extra,
        number,
        z_bound,
    )
    from theory.ledger.core.identity import Identity, row, unit
    from theory.ledger.core.laws import (
        ATOL,
        AXIS,
        DRAW_ATOL,
        DRAW_RTOL,
        LINE,
        LOG_FLOOR,
        RTOL,
        SLOPE_ATOL,
        SLOPE_RTOL,
        TARGETS,
        BumpFamily,
        Draws,
        Estimate,
        base_points,
        column,
        draw,
        exponential_tilts,
        family_laws,
        field_errors,
        log_gap,
        nft_densities,
        nft_density,
        path_points,
        product_family,
        reward_spread,
        tilt_density,
        total_variation,
        total_variations,
    )
    from theory.ledger.core.order import Slope, fit_slope
    from theory.ledger.core.region import GOOD, Region
    from theory.ledger.core.tally import Tally
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
