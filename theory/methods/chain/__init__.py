"""What methods share that follow a chain of states.

rollouts    trajectories with what was drawn for them, and the chain's exact optimum
transforms  named changes to an estimator: clip, subset, reward_scale
finite      adjoints that are not finite, named
"""
