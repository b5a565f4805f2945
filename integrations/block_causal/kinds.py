"""The classes of the block-causal hosts: how long their blocks are, and what they do with a mask."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prism_plugin.models.hooked import base_model, class_names


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
    return next((KINDS[name] for name in class_names(model) if name in KINDS), None)


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
    kind, model = next(host.parameters()).dtype, base_model(host)
    inverts = hasattr(sys.modules[type(model).__module__], "_prepare_4d_causal_attention_mask")
    if inverts and not getattr(getattr(model, "model", None), "_use_sdpa", True):
        return seen.to(kind)  # LLaDA2.0 built for eager attention reads 1 and 0
    return torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill(~seen, torch.finfo(kind).min)
