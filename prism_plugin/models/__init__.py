"""Models: the one interface (denoiser), our own, hosts by name, checkpoints of others, LoRA, keys and values."""
