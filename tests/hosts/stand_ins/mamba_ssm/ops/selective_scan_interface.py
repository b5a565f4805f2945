"""Names that the host's DiMamba imports; a DiT run calls none of them."""

mamba_inner_fn = None
selective_scan_fn = None
