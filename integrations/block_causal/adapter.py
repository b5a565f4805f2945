"""Models that write block after block (LLaDA2.x, SDAR, TraDo, Fast-dLLM v2): a position sees its block and those before
it, so that what is kept of finished blocks is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.cache import CacheConfig
from prism_plugin.models.hooked import HookedDenoiser

from .cache import KeptBlocks
from .kinds import KINDS, Kind, block_mask, kind_of, length_of


class BlockCausalDenoiser(HookedDenoiser):
    """A model with ``lm_head`` that was trained block by block, bare or under peft; dLLM's A2D models by asking alone.

    It is given a (B, 1, L, L) mask: these hosts read a mask of two dimensions as bidirectional, or as causal as soon as
    a row is padded, which is neither. Blocks are counted from where a text begins, so that padding on the left moves
    none; write with block_length = ``block_length`` and prompts that fill their blocks, as the hosts do.
    """

    classes = tuple(name for name, kind in KINDS.items() if not kind.asked)
    wants = f"none of {', '.join(KINDS)} was found"
    gives = frozenset({"padding", "second_forward", "probe", "cache"})
    cache: KeptBlocks | None

    def __init__(self, model: Any, mask_id: int | None = None, *, block_length: int = 0, tokenizer: Any = None) -> None:
        if block_length < 0:
            raise ConfigError(f"block_length = {block_length}: allowed block_length >= 1, or 0 for the model's own.")
        self.kind = kind_of(model) or Kind(0, "added")  # of none: refused below
        self.shift = self.kind.shift
        self.block_length = length_of(model, block_length)
        if self.kind.columns:
            self.unit = self.block_length
        super().__init__(model, mask_id, tokenizer=tokenizer)

    def fits(self) -> bool:
        """See ``HookedDenoiser.fits``."""
        return kind_of(self.host) is not None

    @classmethod
    def known_mask(cls, config: dict[str, Any]) -> int | None:
        """See ``HookedDenoiser.known_mask``."""
        return next((KINDS[name].mask_id for name in config.get("architectures") or () if name in KINDS), None)

    def inputs(self, tokens: Tensor, padding: Tensor | None, window: slice = slice(None)) -> dict[str, Any]:
        """Keywords of the host for the columns in ``window``: positions from a text's beginning, and a mask (B, 1, W,
        W') of these and all columns before them.
        """
        if self.kind.mask == "own":
            return {"input_ids": tokens[:, window], "block_size": self.block_length, "use_cache": False}
        real = torch.ones_like(tokens, dtype=torch.bool) if padding is None else padding
        place = (real.long().cumsum(dim=1) - 1).clamp(min=0)
        block = torch.arange(tokens.shape[1], device=tokens.device).expand_as(place) if self.kind.columns else place
        mask = block_mask(self.host, real, block // self.block_length, window)
        given = {"attention_mask": mask, "position_ids": place[:, window]}
        return {"input_ids": tokens[:, window], **given, "use_cache": False}

    def new_cache(self, config: CacheConfig) -> KeptBlocks:
        """See ``Denoiser.new_cache``."""
        return KeptBlocks(config, self.block_length, from_text=not self.kind.columns)
