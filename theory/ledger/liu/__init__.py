"""Liu et al.: rows L1 and on."""
