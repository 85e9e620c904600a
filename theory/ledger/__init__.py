"""The ledger: statements of papers and code, each measured by two routes."""
