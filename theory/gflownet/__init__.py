"""GFlowNets on the denoising chain: exact flows, the conditions they meet, what policies sample."""
