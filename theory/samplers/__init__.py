"""Flows, SDEs and chains, and the laws of what they sample."""
