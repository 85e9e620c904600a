"""Trained networks against the truth."""
