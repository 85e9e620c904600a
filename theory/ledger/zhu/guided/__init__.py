"""Z10: guided samplers."""
