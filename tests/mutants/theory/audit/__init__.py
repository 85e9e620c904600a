"""Mistakes planted in theory.audit, and what rejects them.

A mutant is a module with a function or a part of a class replaced, or, where the code has no seam,
with one snippet of its text. The checks use enumeration, loops and closed forms, and give the names
of what fails; the modules as they stand fail nothing.
"""
