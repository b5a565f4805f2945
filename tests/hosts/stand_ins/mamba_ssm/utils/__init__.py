"""Names that the host's DiMamba imports; a DiT run calls none of them."""
