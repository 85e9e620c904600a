"""Plumbline's theory: closed-form targets, exact fields and the exact laws that they sample."""
