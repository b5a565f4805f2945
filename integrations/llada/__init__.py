"""LLaDA and models of its interface: the adapter, the drop-in ``generate``, and a loader for its remote code."""

from prism_plugin.models.remote import load

from .adapter import LLaDADenoiser
from .generate import generate

__all__ = ["LLaDADenoiser", "generate", "load"]
