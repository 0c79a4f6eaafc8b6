"""How good extractors and matchers are inside the diffusion process, against known truth."""
