"""Fast-dLLM's LLaDA, and what its cached loops keep of a pass: what stands before the block, or all but the block."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.cache import Cache, CacheConfig
from prism_plugin.models.denoiser import Output
from prism_plugin.models.hooked import base_model, captured

from ..llada.adapter import LLaDADenoiser


class FastDLLMDenoiser(LLaDADenoiser):
    """LLaDA's classes as Fast-dLLM changed them: a forward with ``replace_position`` that hands out keys and values.

    It ignores the attention mask, so texts of one length go together; with a cache one text at a time, as in its loops.
    """

    gives = LLaDADenoiser.gives | {"cache"}
    cache: BlockCache | None
    wants = "model.model.transformer, and a forward with replace_position, were not found"

    @staticmethod
    def matches(model: object) -> bool:
        """Whether a model is LLaDA's with Fast-dLLM's forward."""
        host = base_model(model)
        return LLaDADenoiser.matches(model) and "replace_position" in inspect.signature(host.forward).parameters

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """By name its checkpoints are LLaDA's, and load as such: the class is in a checkout."""
        return False

    def new_cache(self, config: CacheConfig) -> BlockCache:
        """See ``Denoiser.new_cache``."""
        return BlockCache(config, 0)

    def states(self, tokens: Tensor, padding: Tensor | None = None, level: Tensor | None = None) -> list[Tensor]:
        """See ``HookedDenoiser.states``; by the ``cache`` where there is one."""
        return super().states(tokens, padding, level) if self.cache is None else [self.cache.run(self, tokens)]

    def forward(self, tokens: Tensor, padding: Tensor | None = None, level: Tensor | None = None) -> Output:
        """See ``LLaDADenoiser.forward``."""
        output = super().forward(tokens, padding, level)
        return output if self.cache is None else output._replace(share=self.cache.share)


class BlockCache(Cache):
    """Fast-dLLM's ``prefix`` and ``dual`` cache (arXiv 2505.22618): all is computed when a block begins, then the text
    from the block on, or the block alone; and all again where a token was masked again (``after_remask``).

    Blocks are counted from the first mask of a text, as there.
    """

    share = 1.0
    past: Any = None
    begin = start = 0

    def window(self, tokens: Tensor, padding: Tensor | None, mask_id: int) -> slice:
        """See ``Cache.window``."""
        before, length, config = self.tokens, tokens.shape[1], self.config
        if before is None or before.shape != tokens.shape:
            self.forget()
            self.begin = int((tokens[0] == mask_id).long().argmax())
        stop, self.needed = self.needed, None
        start = self.begin if stop is None else stop - 1 - (stop - 1 - self.begin) % config.block_length
        known = stop is not None and self.tokens is not None and start == self.start
        if known and before is not None:
            changed = torch.ne(tokens, before)
            remasked = config.after_remask and bool((changed & (tokens == mask_id)).any())
            late = bool(config.refresh) and self.passes >= config.refresh
            known = not (remasked or late or bool(changed[:, :start].any()))
        self.tokens, self.start = tokens.clone(), start
        self.passes = self.passes + 1 if known else 1
        return slice(start, length if config.name == "prefix" else stop) if known else slice(0, length)

    def run(self, denoiser: FastDLLMDenoiser, tokens: Tensor) -> Tensor:
        """States (1, L, D), those in the window of this pass. Raises ConfigError for more than one text."""
        if len(tokens) != 1:
            raise ConfigError(
                f"cache = {self.config.name}: Fast-dLLM keeps one text, without guidance, and {len(tokens)} rows came: "
                "slots=1 writes one at a time."
            )
        window = self.window(tokens, None, denoiser.mask_id)
        given: dict[str, Any] = {}
        if self.passes > 1:
            given = {"past_key_values": self.past}
            if self.config.name == "dual":
                given["replace_position"] = torch.zeros_like(tokens, dtype=torch.bool)
                given["replace_position"][:, window] = True
        with captured(*denoiser.state_at()) as kept:
            past = denoiser.host(tokens[:, window], use_cache=True, **given).past_key_values
        if self.passes == 1:
            cut = self.start if self.config.name == "prefix" else tokens.shape[1]
            self.past = [tuple(table[:, :, :cut] for table in layer) for layer in past]
        self.share = (window.stop - window.start) / tokens.shape[1]
        return self.whole(kept[0], window)
