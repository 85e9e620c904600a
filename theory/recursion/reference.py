"""The law that an anchored recursion on densities is pulled to, on points.

A Gaussian sum has its density in closed form; a field (a guided one, say) stands for the law that
it samples by its ODE, found by paths that run back from the points (`theory.samplers.flow`).
"""

from __future__ import annotations

from torch import Tensor

from theory.fields.mixture import ExactField, MixtureField
from theory.laws.gaussians import GaussianSum
from theory.recursion.grid import Array
from theory.samplers.flow import FlowLaw

Reference = GaussianSum | ExactField
# Relative errors of paths: d = 1 is carried to 1e-9, d = 2 to 1e-4. To find the ends of axes three
# digits do, far out, where a tight tolerance costs most.
FLOW_RTOL = {1: 1e-9, 2: 1e-7}
LOOK_RTOL, LOOK_ATOL = 1e-3, 1e-2


def closed_law(reference: Reference | None) -> GaussianSum | None:
    """The reference's law where it is known in closed form."""
    if isinstance(reference, MixtureField):
        return reference.law
    return reference if isinstance(reference, GaussianSum) else None


def log_density(reference: Reference, points: Tensor, look: bool = False) -> Array:
    """log of the reference's density at points (n, d), (n,); look: to three digits at most."""
    law = closed_law(reference)
    if law is not None:
        return law.log_density(points).numpy()
    assert isinstance(reference, ExactField)
    rtol = FLOW_RTOL[reference.dim]
    flow = FlowLaw(reference, rtol, rtol / 100)
    if look:
        flow = FlowLaw(reference, LOOK_RTOL, LOOK_ATOL, method="dopri5")
    return flow.log_density(points).numpy()
