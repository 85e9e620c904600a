"""Laws of samples: sums of Gaussians, their posteriors, couplings, distances."""
