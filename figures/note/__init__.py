"""The note's figures, one file each."""
