"""GFlowNets on a denoising chain: flows, kernels and laws by integrals alone."""
