"""Models that write block after block (LLaDA2.x, SDAR, TraDo, Fast-dLLM v2): a position sees its block and those before
it, so that what is kept of finished blocks is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.cache import Cache, CacheConfig
from prism_plugin.models.hooked import HookedDenoiser, base_model, captured
from prism_plugin.models.remote import load


@dataclass(frozen=True)
class Kind:
    """A class of the hosts. block_length: where the config does not say it.

    mask: what the host does with a mask (B, 1, L, L): ``added`` to the scores of attention, ``bool`` (a position of 0
    is not seen), or ``own`` (it makes one of ``block_size``, for rows without padding). shift: see ``HookedDenoiser``.
    mask_id: where neither config nor tokenizer names it. keep: what its forward is told to keep keys and values.
    columns: its blocks are those of the columns, padding on the left included; asked: others of the same class are not
    block-causal, so that ``enable`` does not take it for one.
    """

    block_length: int
    mask: str
    shift: int = 0
    mask_id: int | None = None
    keep: dict[str, Any] = field(default_factory=dict)
    columns: bool = False
    asked: bool = False


KINDS = {
    "LLaDA2MoeModelLM": Kind(32, "added"),
    "SDARForCausalLM": Kind(4, "bool", keep={"store_kv": True}),
    "Fast_dLLM_QwenForCausalLM": Kind(32, "own", 1, 151665, {"update_past_key_values": True}),
    **{f"A2D{name}LMHeadModel": Kind(32, "bool", columns=True, asked=True) for name in ("Llama", "Qwen2", "Qwen3")},
}


def kind_of(model: Any) -> Kind | None:
    """By the name of a model's class, or of one that it is derived from."""
    return next((KINDS[kind.__name__] for kind in type(base_model(model)).__mro__ if kind.__name__ in KINDS), None)


def length_of(model: Any, given: int = 0) -> int:
    """Length of a model's blocks: as given, by its config, or by its class; 0 where it is none of ``KINDS``."""
    kind, config = kind_of(model), getattr(base_model(model), "config", None)
    named = (given, getattr(config, "block_size", None), getattr(config, "bd_size", None))
    return 0 if kind is None else next((size for size in named if size), kind.block_length)


def block_mask(host: Any, real: Tensor, block: Tensor, window: slice = slice(None)) -> Tensor:
    """(B, 1, W, W'), as the host reads it: whom the columns in ``window`` see of all up to its end. real (B, L) bool,
    block (B or 1, L) int64, the block of every column.
    """
    seen = ((block[:, None, : window.stop] <= block[:, window, None]) & real[:, None, : window.stop])[:, None]
    found = kind_of(host)
    if found is None or found.mask != "added":
        return seen
    kind = next(host.parameters()).dtype
    return torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill(~seen, torch.finfo(kind).min)


class BlockCausalDenoiser(HookedDenoiser):
    """A model with ``lm_head`` that was trained block by block, bare or under peft; dLLM's A2D models by asking alone.

    It is given a (B, 1, L, L) mask: these hosts read a mask of two dimensions as bidirectional, or as causal as soon as
    a row is padded, which is neither. Blocks are counted from where a text begins, so that padding on the left moves
    none; write with block_length = ``block_length`` and prompts that fill their blocks, as the hosts do.
    """

    wants = f"none of {', '.join(KINDS)} was found"
    from_pretrained = staticmethod(load)
    gives = frozenset({"padding", "second_forward", "probe", "cache"})
    cache: KeptBlocks | None

    def __init__(self, model: Any, mask_id: int | None = None, *, block_length: int = 0, tokenizer: Any = None) -> None:
        if block_length < 0:
            raise ConfigError(f"block_length = {block_length}: allowed block_length >= 1, or 0 for the model's own.")
        self.kind = kind_of(model) or Kind(0, "added")  # of none: refused below
        self.shift = self.kind.shift
        self.block_length = length_of(model, block_length)
        super().__init__(model, mask_id, tokenizer=tokenizer)

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is one of them, by the name of its class."""
        kind = kind_of(model)
        return kind is not None and not kind.asked

    def fits(self) -> bool:
        """See ``HookedDenoiser.fits``."""
        return kind_of(self.host) is not None

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        return any(name in KINDS and not KINDS[name].asked for name in config.get("architectures") or ())

    @staticmethod
    def known_mask(config: dict[str, Any]) -> int | None:
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

    def _named_mask_id(self) -> int:
        try:
            return super()._named_mask_id()
        except ConfigError:
            if self.kind.mask_id is None:
                raise
            return self.kind.mask_id


class KeptBlocks(Cache):
    """The host's own cache of keys and values, cut back to what stands unchanged: every pass renews the rest."""

    share = 1.0

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
        self.share = (window.stop - window.start) / tokens.shape[1]
        return self.whole(kept[0], window)
