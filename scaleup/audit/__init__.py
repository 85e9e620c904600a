"""The audit of runs and of files: `python -m scaleup audit`."""
