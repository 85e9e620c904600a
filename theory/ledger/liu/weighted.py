"""liu, L11: the loss weighted by a function of the reward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory.ledger.core import Array, Identity, row
from theory.ledger.liu.identities import ANY, POSITIVE, base_velocity
from theory.ledger.oracle import conditional, importance
from theory.ledger.settings.problems import Setting
from theory.tilts.wrappers import Exponential, TruncatedExponential, Wrapper


def _phi_scale(s: Setting) -> float:
    return abs(s.a) + 0.1 * s.case.scale


def _phis(s: Setting) -> list[Wrapper]:
    """exp(a r), 1 + a r, 1 + a r + (a r)^2/2 at the setting's temperature (the note has a = 2)."""
    a = _phi_scale(s)
    return [Exponential(a), TruncatedExponential(a, 1), TruncatedExponential(a, 2)]


def _weighted(index: int) -> Identity[Setting]:
    def plain(s: Setting) -> Callable[[Array], Array]:
        a = _phi_scale(s)
        return (
            lambda r: np.exp(a * r),
            lambda r: 1 + a * r,
            lambda r: 1 + a * r + 0.5 * (a * r) ** 2,
        )[index]

    name = ("exp(ar)", "1 + ar", "1 + ar + (ar)²/2")[index]
    return Identity(
        f"Phi = {name}",
        POSITIVE if index == 1 else ANY,
        lambda s: row(s.problem.tilted_field(_phis(s)[index])(s.point, s.t)),
        lambda s: conditional.weighted_minimiser(s.case, s.x, s.at, plain(s)),
        {
            "another Phi": lambda s: row(
                s.problem.tilted_field(_phis(s)[2 - index if index != 1 else 0])(s.point, s.t)
            ),
            "the base's velocity": base_velocity,
        },
        share=1.0 if index == 0 else 0.4,
        sampled=lambda s, n, rng: importance.velocity(
            importance.Draw(s.case, s.x, s.at, n, rng), plain(s)
        ),
        full_rank_kinds=("bumps",) if index == 1 else ("linear", "quadratic", "bumps"),
    )


L11_PARTS = tuple(_weighted(i) for i in range(3))
