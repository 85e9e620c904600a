"""Training runs: what they are, their folders, the trainer, the schedule."""
