"""Block-causal models: LLaDA2.x, SDAR, TraDo."""

from .adapter import BlockCausalDenoiser

__all__ = ["BlockCausalDenoiser"]
