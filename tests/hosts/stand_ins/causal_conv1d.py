"""Names that the host's DiMamba imports; a DiT run calls none of them."""

causal_conv1d_fn = None
causal_conv1d_update = None
