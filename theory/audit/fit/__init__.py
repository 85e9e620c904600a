"""Maximum likelihood of a tilt, one normaliser a prompt."""
