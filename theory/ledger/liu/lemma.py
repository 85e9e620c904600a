"""liu, L7: the lemma, in float64 against rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from theory.common.tolerances import ALGEBRA
from theory.ledger.core import Array, Identity
from theory.ledger.oracle import lemma
from theory.ledger.settings.lemma import Lemmas, LemmaSetting


def _square_side(s: LemmaSetting, mu: Array, factor: float | None = None) -> Array:
    """|b mu - b v - (2r - 1)(y - v)|^2."""
    pull = 2 * s.r - 1 if factor is None else factor
    return np.asarray(np.sum((s.b * (mu - s.v) - pull * (s.y - s.v)) ** 2))


def _contrast_gap(s: LemmaSetting) -> Array:
    """r |mu+ - y|^2 + (1 - r)|mu- - y|^2 at mu less that at the other mu, in rationals."""
    v, y, r, b = s.exact["v"], s.exact["y"], Fraction(s.r), Fraction(s.b)
    values = [lemma.contrast(s.exact[name], v, y, r, b) for name in ("mu", "other")]
    return np.array(float(values[0] - values[1]))


def _gap(s: LemmaSetting, factor: float | None = None) -> Array:
    return _square_side(s, s.mu, factor) - _square_side(s, s.other, factor)


L7_PARTS = (
    Identity(
        "the minimiser v + (2r - 1)/beta (y - v)",
        Lemmas(),
        lambda s: s.v + (2 * s.r - 1) / s.b * (s.y - s.v),
        lambda s: np.array(
            [
                float(q)
                for q in lemma.minimiser(s.exact["v"], s.exact["y"], Fraction(s.r), Fraction(s.b))
            ]
        ),
        {
            "r for 2r - 1": lambda s: s.v + s.r / s.b * (s.y - s.v),
            "times beta": lambda s: s.v + (2 * s.r - 1) * s.b * (s.y - s.v),
        },
        lambda s: s.scale / s.b,
        tier=ALGEBRA,
    ),
    Identity(
        "the two sides differ by a constant in mu",
        Lemmas(),
        _gap,
        _contrast_gap,
        {
            "divided by beta": lambda s: _gap(s) / s.b,
            "r for 2r - 1": lambda s: _gap(s, s.r),
        },
        lambda s: s.scale,
        tier=ALGEBRA,
    ),
)
