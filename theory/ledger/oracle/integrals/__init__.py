"""Adaptive quadrature, and laws and distances by it."""
