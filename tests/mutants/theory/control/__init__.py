"""Mistakes planted in theory.control, theory.fields.diffusion and theory.samplers.chain, and what
rejects them.

A mutant is a module with a function or a part of a class replaced, or, where the code has no seam,
with one snippet of its text. A room has quick checks of its modules, which give the names of what
fails and use no code of theirs, and a table of mutants. The modules as they stand fail nothing.
"""
