"""Training: a masked diffusion model from scratch, and the quality head on top of one."""
