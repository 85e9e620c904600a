"""The toys' networks."""
