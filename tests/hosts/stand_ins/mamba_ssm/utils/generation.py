"""Names that ProSeCo imports; a DiT run calls none of them."""

InferenceParams = None
