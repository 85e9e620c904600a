"""The adjoint family on named control problems, d = 10 and 20; what runs take by default."""

BUDGET, BATCH, STEPS = 3e7, 128, 64
STARTS = ("none", "optimum")
