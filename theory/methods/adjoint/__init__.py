"""Adjoint Matching and its relatives: stochastic optimal control by adjoint equations."""
