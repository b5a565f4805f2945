"""A server of one model, for those who have no serving engine; the extra ``serve``. docs/serve.md shows its use."""
