"""GFlowNets trained on the denoising chain against what they are known to sample.

comparison   all of them beside DDPO and Adjoint Matching, at one budget of model evaluations
posterior    25 Gaussians of which the tilt keeps nine: log Z, the lower bound, the modes' weights
ablations    the paper's six, by fixed points where they exist, else trained
runs         what trains, measures, keeps and writes
"""
