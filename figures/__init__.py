"""Plumbline's figures: one module a figure; each reads theory, none trains."""
