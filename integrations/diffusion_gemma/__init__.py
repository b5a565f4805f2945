"""PRISM in transformers' DiffusionGemma: see README.md."""

from .adapter import DiffusionGemmaDenoiser

__all__ = ["DiffusionGemmaDenoiser"]
