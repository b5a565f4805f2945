"""LLaDA and models of its interface: the adapter, the drop-in ``generate``, and a loader for its remote code."""

from .adapter import LLaDADenoiser
from .generate import generate
from .load import load

__all__ = ["LLaDADenoiser", "generate", "load"]
