"""Reference trajectories: which latent the reference branch shows at each step."""
