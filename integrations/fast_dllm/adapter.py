"""Fast-dLLM's LLaDA and Dream: a forward that hands out keys and values, and takes them back with a block replaced."""

from __future__ import annotations

from typing import Any

from prism_plugin.models.cache import CacheConfig
from prism_plugin.models.hooked import HookedDenoiser, forward_takes

from ..dream.adapter import DreamDenoiser
from ..llada.adapter import LLaDADenoiser
from .cache import BlockCache


class CachedDenoiser(HookedDenoiser):
    """A host whose forward takes ``replace_position`` and hands out keys and values.

    columns: the dimension of its tables of keys that counts columns. dual: what its forward takes besides to put a
    block into them.
    """

    gives = HookedDenoiser.gives | {"cache"}
    cache: BlockCache | None
    columns = 2
    dual: dict[str, Any] = {}  # noqa: RUF012  (never written)

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """By name its checkpoints are LLaDA's and Dream's, and load as such: the class is in a checkout."""
        return False

    def new_cache(self, config: CacheConfig) -> BlockCache:
        """See ``Denoiser.new_cache``."""
        return BlockCache(config, 0)


class FastDLLMDenoiser(CachedDenoiser, LLaDADenoiser):
    """LLaDA's classes as Fast-dLLM changed them. It ignores the attention mask: texts of one length go together."""

    wants = "model.model.transformer, and a forward with replace_position, were not found"

    @staticmethod
    def matches(model: object) -> bool:
        """Whether a model is LLaDA's with Fast-dLLM's forward."""
        return LLaDADenoiser.matches(model) and "replace_position" in forward_takes(model)


class FastDreamDenoiser(CachedDenoiser, DreamDenoiser):
    """Dream's class as Fast-dLLM changed it: keys are kept as they were before rotation, positions are the columns'."""

    wants = "a DreamModel with lm_head, and a forward with replace_position, were not found"
    columns = 1
    dual = {"dual_cache": True}  # noqa: RUF012

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is Dream's with Fast-dLLM's forward."""
        return DreamDenoiser.is_dream(model) and "replace_position" in forward_takes(model)
