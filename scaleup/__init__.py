"""Plumbline's scaleup: not built yet (docs/STATUS.md)."""
