"""Commands of `python -m scaleup`, one a module."""
