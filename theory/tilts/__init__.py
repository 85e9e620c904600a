"""Rewards, what is made of them, the laws they tilt, and conditional moments under them."""
