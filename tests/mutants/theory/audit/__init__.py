"""Mistakes planted in theory.audit, and what rejects them.

A mutant is a module's text with one snippet replaced. The checks use enumeration, loops and
closed forms, and give the names of what fails; the modules as they stand fail nothing.
"""
