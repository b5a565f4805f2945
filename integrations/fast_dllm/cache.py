"""What Fast-dLLM's cached loops keep of a pass: the text before the block, or all but it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prism_plugin.models.cache import Cache
from prism_plugin.models.hooked import captured

if TYPE_CHECKING:
    from .adapter import CachedDenoiser


class BlockCache(Cache):
    """Fast-dLLM's ``prefix`` and ``dual`` cache (arXiv 2505.22618): all is computed when a block begins, then the text
    from the block on, or the block alone; and all again where a token was masked again (``after_remask``).

    The blocks are the sampler's. Texts of a batch that are at different blocks share a window over all of these.
    """

    past: Any = None
    at: slice | None = None
    by_row = True

    def window(self, tokens: Tensor, padding: Tensor | None, mask_id: int) -> slice:
        """See ``Cache.window``."""
        before, length, config = self.tokens, tokens.shape[1], self.config
        at, self.needed = self.needed, None
        known = before is not None and before.shape == tokens.shape and at is not None and at == self.at
        if known:
            changed = torch.ne(tokens, before)  # type: ignore[arg-type]  # known
            remasked = config.after_remask and bool((changed & (tokens == mask_id)).any())
            late = bool(config.refresh) and self.passes >= config.refresh
            known = not (remasked or late or bool(changed[:, : at.start].any()))
        self.tokens, self.at = tokens.clone(), at
        self.passes = self.passes + 1 if known else 1
        if not known or at is None:
            return slice(0, length)
        return slice(at.start, length if config.name == "prefix" else at.stop)

    def run(self, denoiser: CachedDenoiser, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """States (B, L, D), those in the window of this pass."""
        window, length = self.window(tokens, padding, denoiser.mask_id), tokens.shape[1]
        given = {**denoiser.inputs(tokens, padding), "input_ids": tokens[:, window], "use_cache": True}
        if self.passes > 1:
            given["past_key_values"] = self.past
            if isinstance(given.get("attention_mask"), Tensor):  # (B, 1, L, L)
                given["attention_mask"] = given["attention_mask"][:, :, window]
        with captured(*denoiser.state_at()) as kept:
            past = self._call(denoiser, given, tokens, window).past_key_values
        if self.passes == 1:
            cut = length if self.config.name == "dual" or self.at is None else self.at.start
            self.past = [tuple(table.narrow(denoiser.columns, 0, cut) for table in layer) for layer in past]
        return self.whole(kept[0], window)

    def _call(self, denoiser: CachedDenoiser, given: dict[str, Any], tokens: Tensor, window: slice) -> Any:
        """The host's forward; its releases read ``replace_position`` by text, or as one for all and fail for more."""
        if self.passes == 1 or self.config.name != "dual":
            return denoiser.host(**given)
        where = torch.zeros_like(tokens, dtype=torch.bool)
        where[:, window] = True
        if self.by_row:
            try:
                return denoiser.host(**given, **denoiser.dual, replace_position=where)
            except (RuntimeError, IndexError):
                if len(tokens) == 1:
                    raise
                self.by_row = False
        return denoiser.host(**given, **denoiser.dual, replace_position=where[:1])
