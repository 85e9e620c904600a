"""Named selections of runs, and what is asked of them."""
