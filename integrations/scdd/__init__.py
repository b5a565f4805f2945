"""PRISM in SCDD: see README.md."""

from .adapter import SCDDDenoiser

__all__ = ["SCDDDenoiser"]
