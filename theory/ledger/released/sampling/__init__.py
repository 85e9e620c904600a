"""N6: training at some times of the sampling grid, and what samplers make of it."""
