"""Adaptive quadrature, and laws and distances by it."""

from theory.ledger.oracle.integrals.integrate import Array, Estimate, Function, Region
from theory.ledger.oracle.integrals.law import Density, Law
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.oracle.integrals.stencils import Exponent, radius_for, shifted, slope, steps
