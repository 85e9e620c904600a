"""Domingo-Enrich et al., Adjoint Matching: rows D1 to D15."""
