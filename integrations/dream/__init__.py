"""Dream and models of its shape: the adapter, and a drop-in ``diffusion_generate``."""

from .adapter import DreamDenoiser, OpenDLLMDenoiser
from .generate import diffusion_generate

__all__ = ["DreamDenoiser", "OpenDLLMDenoiser", "diffusion_generate"]
