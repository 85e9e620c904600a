"""Plumbline's toys: not built yet (docs/STATUS.md)."""
