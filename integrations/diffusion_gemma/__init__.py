"""DiffusionGemma of transformers: the adapter, and our samplers in its own ``generate``."""

from .adapter import DiffusionGemmaDenoiser
from .canvas import in_generate

__all__ = ["DiffusionGemmaDenoiser", "in_generate"]
