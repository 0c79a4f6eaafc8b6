"""The method: the denoising loop, the reference branch, what is injected."""
