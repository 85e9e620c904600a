"""The released code of DiffusionNFT: rows N1 and on."""
