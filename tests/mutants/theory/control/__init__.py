"""Mistakes planted in theory.control, theory.fields.diffusion and theory.samplers.chain, and what
rejects them.

A mutant is a module's text with one snippet replaced. A room has quick checks of its modules, which
give the names of what fails and use no code of theirs, and a table of mutants. The modules as they
stand fail nothing.
"""
