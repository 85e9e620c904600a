"""Zhu et al.: rows Z1 and on."""
