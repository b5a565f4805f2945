"""Fast-dLLM's LLaDA: its cache of keys and values behind our samplers. See README.md."""

from .adapter import FastDLLMDenoiser

__all__ = ["FastDLLMDenoiser"]
