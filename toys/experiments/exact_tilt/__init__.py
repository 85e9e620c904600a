"""What exp(a r) costs networks: NFT in one or many epochs, Tilt Matching, weighting."""
