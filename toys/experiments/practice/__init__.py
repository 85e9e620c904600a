"""What users of the released DiffusionNFT code get, on toy networks."""
