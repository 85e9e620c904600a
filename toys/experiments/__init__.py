"""Presets, control cases, the frontier and the practice runs."""
