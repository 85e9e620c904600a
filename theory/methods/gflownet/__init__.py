"""GFlowNets on the denoising chain: nabla-DB, detailed balance and trajectory balance.

family         what they share: options, trajectories, the flow with its forward-looking part
transitions    a trajectory's transitions, and a kernel's densities and scores there
priors         what the policy is compared with: the pretrained chain, or the noising kernels
truth          the optimum of each, over Gaussian kernels
"""
