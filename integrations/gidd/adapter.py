"""GIDD's models (dvruette/gidd), as transformers loads them, as a ``Denoiser``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.models.hooked import base_model
from prism_plugin.models.noise import MASKS, Peaked

from ..dit import DiTDenoiser, net_of


class GIDDDenoiser(DiTDenoiser):
    """``DIT`` of its ``modeling_dit.py``, bare or under peft; its own checkpoints after ``convert_checkpoint.py``.

    The host is told t = 1 - alpha of the sampler's plan, of a finished text 0.01 as in its self-correction. The mask is
    the tokenizer's, or the last row of the vocabulary. One that was trained with p_uniform = 0 knows masks alone.
    """

    gives = DiTDenoiser.gives | {"level"}
    wants = "a DIT with config.p_uniform was not found"
    length_key = "max_seq_len"

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        super().__init__(model, mask_id, tokenizer=tokenizer)
        share = float(self.host.config.p_uniform)
        self.noise = Peaked(share, tilted=True) if share else MASKS

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is one of them."""
        host = base_model(model)
        return hasattr(net_of(host), "output_layer") and hasattr(getattr(host, "config", None), "p_uniform")

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        return config["model_type"] == "dit" and "p_uniform" in config

    def time_of(self, tokens: Tensor, level: Tensor | None) -> Tensor:
        """t (B,)."""
        if level is None:
            level = torch.full((len(tokens),), 0.99, device=tokens.device)
        return (1 - level).float().to(tokens.device)
