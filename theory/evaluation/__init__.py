"""What a field or a sampler samples, measured against what it is said to sample."""
