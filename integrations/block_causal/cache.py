"""Keys and values of finished blocks, which are exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from prism_plugin.models.cache import Cache
from prism_plugin.models.hooked import captured

if TYPE_CHECKING:
    from .adapter import BlockCausalDenoiser


class KeptBlocks(Cache):
    """The host's own cache of keys and values, cut back to what stands unchanged: every pass renews the rest."""

    def forget(self) -> None:
        """See ``Cache.forget``."""
        super().forget()
        self.past: Any = None

    def run(self, denoiser: BlockCausalDenoiser, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """States (B, L, D), of the columns that are needed; those behind are 0."""
        from transformers import DynamicCache

        window = self.window(tokens, padding, denoiser.mask_id)
        if window.start == 0:
            self.past = DynamicCache()
        elif self.past.get_seq_length() > window.start:
            self.past.crop(window.start - self.past.get_seq_length())
        given = denoiser.inputs(tokens, padding, window) | {"use_cache": True, "past_key_values": self.past}
        with captured(*denoiser.state_at()) as kept:
            denoiser.host(**given, **denoiser.kind.keep)
        return self.whole(kept[0], window)
