"""Stochastic optimal control of the generative SDE, exact.

value: closed forms, memoryless. linear: Riccati, any schedule and time grid. equation, grid:
Hamilton-Jacobi-Bellman, d = 1 and 2. steered: the velocity that fine-tuning leaves. adjoints,
critical: adjoint states, critical points of the matching losses. cases: named problems.
"""
