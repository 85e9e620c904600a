"""The audit's estimators, one file each."""
