"""Samples and rewards of two models: read from tables, checked, copies found."""
