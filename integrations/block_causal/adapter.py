"""Models that write block after block (LLaDA2.x, SDAR, TraDo): a position sees its block and those before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import HookedDenoiser, base_model
from prism_plugin.models.remote import load

KINDS = {"LLaDA2MoeModelLM": (32, True), "SDARForCausalLM": (4, False)}
"""Classes: the length of their blocks where the config does not say it; whether what the mask holds is added to the
attention's scores (SDAR takes it for truth values: a position of 0 is not seen)."""


class BlockCausalDenoiser(HookedDenoiser):
    """A model with ``lm_head`` that was trained block by block, bare or under peft.

    It is given a (B, 1, L, L) mask: these hosts read a mask of two dimensions as bidirectional, or as causal as soon as
    a row is padded, which is neither. Blocks are counted from where a text begins, so that padding on the left moves
    none; write with block_length = ``block_length`` and prompts that fill their blocks, as the hosts do.
    """

    wants = f"none of {', '.join(KINDS)} was found"
    from_pretrained = staticmethod(load)

    def __init__(self, model: Any, mask_id: int | None = None, *, block_length: int = 0, tokenizer: Any = None) -> None:
        if block_length < 0:
            raise ConfigError(f"block_length = {block_length}: allowed block_length >= 1, or 0 for the model's own.")
        host = base_model(model)
        named, self.added = next(
            (KINDS[kind.__name__] for kind in type(host).__mro__ if kind.__name__ in KINDS), (0, True)
        )
        own = getattr(getattr(host, "config", None), "block_size", None)
        self.block_length = block_length or own or named
        super().__init__(model, mask_id, tokenizer=tokenizer)

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is one of them, by the name of its class."""
        return any(kind.__name__ in KINDS for kind in type(base_model(model)).__mro__)

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        return bool(set(config.get("architectures") or ()) & set(KINDS))

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """Keywords of the host: positions from a text's beginning, and a mask (B, 1, L, L)."""
        real = torch.ones_like(tokens, dtype=torch.bool) if padding is None else padding
        place = (real.long().cumsum(dim=1) - 1).clamp(min=0)
        block = place // self.block_length
        mask = ((block[:, None, :] <= block[:, :, None]) & real[:, None, :])[:, None]
        if self.added:
            kind = next(self.host.parameters()).dtype
            mask = torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill(~mask, torch.finfo(kind).min)
        return {"input_ids": tokens, "attention_mask": mask, "position_ids": place, "use_cache": False}
