"""Fast-dLLM's LLaDA and Dream: their cache of keys and values behind our samplers. See README.md."""

from .adapter import FastDLLMDenoiser, FastDreamDenoiser

__all__ = ["FastDLLMDenoiser", "FastDreamDenoiser"]
