"""What every room needs: checks, tolerances, files, identities, signals, processes, progress."""
