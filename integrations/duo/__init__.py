"""PRISM in Duo: see README.md."""

from .adapter import DuoDenoiser

__all__ = ["DuoDenoiser"]
