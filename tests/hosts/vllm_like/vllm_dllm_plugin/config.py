"""The size of a block, fixed for all models."""

DRAFT_SIZE = 32
