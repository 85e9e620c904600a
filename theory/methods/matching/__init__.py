"""Methods that match velocities: NFT, weighted flow matching, tilt matching."""
