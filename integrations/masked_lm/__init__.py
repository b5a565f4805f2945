"""Any transformers model that fills masks (BERT, RoBERTa, ModernBERT, …)."""

from .adapter import MaskedLMDenoiser

__all__ = ["MaskedLMDenoiser"]
