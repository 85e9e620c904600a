"""Methods that score the kernels of a chain: DDPO."""
