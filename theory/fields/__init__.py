"""Velocity fields: paths from noise to samples, diffusion schedules, displaced fields."""
