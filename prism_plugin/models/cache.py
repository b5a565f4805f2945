"""Keys and values kept between forward passes: a pass goes over the blocks that changed, the rest is remembered.

On a block-causal model that is exact: a change in block b leaves the blocks before it as they were, those from b on are
computed anew, and those behind the block being written when it is their turn. Where every position looks everywhere it
is an approximation (Fast-dLLM, arXiv 2505.22618).
"""

from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import ConfigError, unknown
from .backbone import Backbone


@dataclass
class CacheConfig:
    """name: ``none``; ``prefix`` computes from the first block that changed to the end (of a block-causal model: to the
    block being written); ``dual`` from there to the last block that changed, or the first with a mask. block_length: of
    those blocks, 0 is a block-causal model's own and 32 elsewhere. refresh: every how many passes all is computed, 0 is
    never. after_remask: whether all is computed where a token was masked again.
    """

    name: str = "none"
    block_length: int = 0
    refresh: int = 0
    after_remask: bool = True

    def __post_init__(self) -> None:
        if self.name not in ("none", "prefix", "dual"):
            raise unknown("cache", self.name, ("none", "prefix", "dual"))
        if self.block_length < 0 or self.refresh < 0:
            raise ConfigError(
                f"cache.block_length = {self.block_length}, cache.refresh = {self.refresh}: "
                "allowed block_length >= 0, refresh >= 0."
            )


class Cache:
    """What a model remembers of its last pass over a batch, and which columns the next one goes over.

    block_causal: length of the blocks of a model whose positions look at theirs and those before it, 0 where they look
    everywhere. from_text: its blocks are counted from where a text begins, not from the first column.

    needed: the columns that are being written, and all that is asked for ends with them; None for all of the text.
    ``sampling.drive`` says it before each pass, and it holds for that one. share: of the columns, in the last pass.
    Raises ConfigError for a config that would be wrong on such a model, naming both.
    """

    share = 1.0

    def __init__(self, config: CacheConfig, block_causal: int, from_text: bool = False) -> None:
        config = replace(config, block_length=config.block_length or block_causal or 32)
        if block_causal and (config.name == "dual" or config.block_length != block_causal):
            raise ConfigError(
                f"cache = {config.name} with cache.block_length = {config.block_length} would be wrong on a backbone "
                f"with block_causal = {block_causal}: choose cache=prefix and that block_length."
            )
        self.config, self.exact, self.from_text = config, bool(block_causal), from_text
        self.needed: slice | None = None
        self.forget()

    def forget(self) -> None:
        """The next pass computes everything."""
        self.tokens: Tensor | None = None
        self.padding: Tensor | None = None
        self.hidden: Tensor | None = None
        self.passes = self.known = 0

    def settings(self) -> dict[str, object]:
        """For a result's settings."""
        return asdict(self.config)

    def window(self, tokens: Tensor, padding: Tensor | None, mask_id: int) -> slice:
        """The columns that a pass over ``tokens`` (B, L) is to compute, one range for the batch; remembers the text."""
        length, before = tokens.shape[1], self.tokens
        if before is not None and tokens.shape == before.shape and _same(padding, self.padding):
            changed = torch.ne(tokens, before)
        else:
            self.forget()
            changed = torch.ones_like(tokens, dtype=torch.bool)
        self.tokens, self.padding = tokens.clone(), None if padding is None else padding.clone()
        if self.exact:
            found = self._exact(changed)
        elif not self.passes:
            found = slice(0, length)
        else:
            found = self._approximate(tokens, changed, mask_id)
        self.passes = 1 if found == slice(0, length) else self.passes + 1
        return found

    def _exact(self, changed: Tensor) -> slice:
        """From the first block that changed, or that no pass has seen as it stands, to the end of what is needed."""
        length, size = changed.shape[1], self.config.block_length
        begins = changed.new_zeros(len(changed), dtype=torch.long)
        if self.from_text and self.padding is not None:
            begins = self.padding.long().argmax(dim=1)
        needed, self.needed = length if self.needed is None else self.needed.stop, None
        stop = min(int((begins - (begins - needed) // size * size).amax()), length)
        column = torch.arange(length, device=changed.device)
        first = torch.where(changed, column, length).amin(dim=1).clamp(max=min(self.known, stop - 1))
        start = max(int((begins + (first - begins) // size * size).amin()), 0)
        whole = int((begins + (stop - begins) // size * size).amin())  # a block that the window cuts is not known
        self.known = length if stop == length else max(whole, 0)
        return slice(start, stop)

    def _approximate(self, tokens: Tensor, changed: Tensor, mask_id: int) -> slice:
        length, size = tokens.shape[1], self.config.block_length
        remasked = bool((changed & (tokens == mask_id)).any())
        if (self.config.refresh and self.passes >= self.config.refresh) or (self.config.after_remask and remasked):
            return slice(0, length)
        columns = changed.any(dim=0).nonzero().squeeze(1).tolist() or [length - 1]
        last = length
        if self.config.name == "dual":
            masked = (tokens == mask_id).any(dim=0).nonzero().squeeze(1).tolist() or [0]
            last = min((max(columns[-1], masked[0]) // size + 1) * size, length)
        return slice(columns[0] // size * size, last)

    def whole(self, hidden: Tensor, window: slice) -> Tensor:
        """States (B, L, D) of the text, of which ``hidden`` are those in the window; 0 where none were computed yet."""
        assert self.tokens is not None, "window() comes first"
        if self.hidden is None:
            self.hidden = hidden.new_zeros(*self.tokens.shape, hidden.shape[-1])
        self.hidden = torch.cat([self.hidden[:, : window.start], hidden, self.hidden[:, window.stop :]], dim=1)
        self.share = (window.stop - window.start) / max(self.tokens.shape[1], 1)
        return self.hidden


class BackboneCache(Cache):
    """What a backbone of ours remembers. Raises ConfigError for one that cannot use it, naming both."""

    def __init__(self, backbone: Backbone, config: CacheConfig) -> None:
        shape = backbone.config
        if shape.grid or shape.time_conditioning:
            what = f"grid = {shape.grid}" if shape.grid else "time_conditioning = True"
            raise ConfigError(
                f"cache = {config.name} needs texts in a line and no time in them; the backbone has {what}."
            )
        self.backbone = backbone
        super().__init__(config, shape.block_causal)

    def forget(self) -> None:
        """See ``Cache.forget``."""
        super().forget()
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def run(self, tokens: Tensor, padding: Tensor | None, mask_id: int) -> tuple[Tensor, Tensor, float]:
        """As ``Backbone.forward``, with hidden states (B, L, D) of the whole text, and the share computed anew."""
        window = self.window(tokens, padding, mask_id)
        store = [partial(self._renew, layer, window) for layer in range(len(self.backbone.blocks))]
        hidden, time = self.backbone(tokens, None, padding, kept=store, window=window)
        return self.whole(hidden, window), time, self.share

    def _renew(self, layer: int, window: slice, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, L, d) of a layer, those in the window new."""
        assert self.tokens is not None, "run() has asked for the window"
        for kept, new in ((self.keys, keys), (self.values, values)):
            if layer not in kept:
                kept[layer] = new.new_zeros(*new.shape[:2], self.tokens.shape[1], new.shape[3])
            kept[layer][:, :, window] = new
        return self.keys[layer], self.values[layer]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
