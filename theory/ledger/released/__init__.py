"""The released code of DiffusionNFT: rows R1 and on."""
