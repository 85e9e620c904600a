"""Commands of python -m toys."""
