"""Keys and values kept between forward passes: a pass goes over the blocks that changed, the rest is remembered.

On a block-causal backbone that is exact: a change in block b leaves the blocks before it as they were, and those from b
on are computed anew. Where every position looks everywhere it is an approximation (Fast-dLLM, arXiv 2505.22618).
"""

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import ConfigError, unknown
from .backbone import Backbone


@dataclass
class CacheConfig:
    """name: ``none``; ``prefix`` computes from the first block that changed to the end; ``dual`` from there to the last
    block that changed, or the first with a mask. block_length: of those blocks. refresh: every how many passes all is
    computed, 0 is never. after_remask: whether all is computed where a token was masked again.
    """

    name: str = "none"
    block_length: int = 32
    refresh: int = 0
    after_remask: bool = True

    def __post_init__(self) -> None:
        if self.name not in ("none", "prefix", "dual"):
            raise unknown("cache", self.name, ("none", "prefix", "dual"))
        if self.block_length < 1 or self.refresh < 0:
            raise ConfigError(
                f"cache.block_length = {self.block_length}, cache.refresh = {self.refresh}: "
                "allowed block_length >= 1, refresh >= 0."
            )


class Cache:
    """What a backbone of ours remembers of its last pass over a batch.

    Raises ConfigError for a backbone that cannot use it, naming both.
    """

    def __init__(self, backbone: Backbone, config: CacheConfig) -> None:
        shape = backbone.config
        if shape.grid or shape.time_conditioning:
            what = f"grid = {shape.grid}" if shape.grid else "time_conditioning = True"
            raise ConfigError(
                f"cache = {config.name} needs texts in a line and no time in them; the backbone has {what}."
            )
        if shape.block_causal and (config.name == "dual" or config.block_length != shape.block_causal):
            raise ConfigError(
                f"cache = {config.name} with cache.block_length = {config.block_length} would be wrong on a backbone "
                f"with block_causal = {shape.block_causal}: choose cache=prefix and that block_length."
            )
        self.backbone, self.config = backbone, config
        self.exact = bool(shape.block_causal)
        self.forget()

    def forget(self) -> None:
        """The next pass computes everything."""
        self.tokens: Tensor | None = None
        self.hidden: Tensor | None = None
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def settings(self) -> dict[str, object]:
        """For a result's settings."""
        return asdict(self.config)

    def run(self, tokens: Tensor, t: Tensor, padding: Tensor | None, mask_id: int) -> tuple[Tensor, Tensor, float]:
        """As ``Backbone.forward``, with hidden states (B, L, D) of the whole text, and the share computed anew."""
        window = self._window(tokens, padding, mask_id)
        if window == slice(0, tokens.shape[1]):
            self.passes, self.hidden, self.keys, self.values = 0, None, {}, {}
        self.passes += 1
        self.tokens, self.padding = tokens.clone(), None if padding is None else padding.clone()
        store = [partial(self._renew, layer, window) for layer in range(len(self.backbone.blocks))]
        hidden, time = self.backbone(tokens, t, padding, kept=store, window=window)
        if self.hidden is not None and hidden.shape[1] < tokens.shape[1]:
            hidden = torch.cat([self.hidden[:, : window.start], hidden, self.hidden[:, window.stop :]], dim=1)
        self.hidden = hidden
        return hidden, time, (window.stop - window.start) / max(tokens.shape[1], 1)

    def _window(self, tokens: Tensor, padding: Tensor | None, mask_id: int) -> slice:
        """The columns to compute: one range for the batch."""
        length, size = tokens.shape[1], self.config.block_length
        everything = slice(0, length)
        if self.tokens is None or tokens.shape != self.tokens.shape or not _same(padding, self.padding):
            return everything
        changed = tokens != self.tokens
        if not self.exact:
            remasked = bool((changed & (tokens == mask_id)).any())
            if (self.config.refresh and self.passes >= self.config.refresh) or (self.config.after_remask and remasked):
                return everything
        columns = changed.any(dim=0).nonzero().squeeze(1).tolist() or [length - 1]
        last = length
        if self.config.name == "dual":
            masked = (tokens == mask_id).any(dim=0).nonzero().squeeze(1).tolist() or [0]
            last = min((max(columns[-1], masked[0]) // size + 1) * size, length)
        return slice(columns[0] // size * size, last)

    def _renew(self, layer: int, window: slice, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, L, d) of a layer, those in the window new."""
        if layer in self.keys:
            self.keys[layer][:, :, window] = keys
            self.values[layer][:, :, window] = values
        else:
            self.keys[layer], self.values[layer] = keys, values
        return self.keys[layer], self.values[layer]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
