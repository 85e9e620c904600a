"""Commands of `python -m figures` about the figures of figures/note/, one a module."""
