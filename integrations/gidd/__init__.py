"""PRISM in GIDD: see README.md."""

from .adapter import GIDDDenoiser

__all__ = ["GIDDDenoiser"]
