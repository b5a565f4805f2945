"""The model of a ``LLaDA2Pipeline`` as a ``Denoiser``, and what the pipeline's own forward passes show by hooks."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import HookedDenoiser, base_model, class_names

from ..block_causal.kinds import block_mask, length_of


class LLaDA2Denoiser(HookedDenoiser):
    """``pipe.model`` as the pipeline calls it: ``model(tokens, attention_mask=, position_ids=).logits``.

    Hidden states are what enters the model's output layer, after its final norm. Hooks keep the last ones seen and the
    attention mask they were made with, whoever calls the model; they go when this object goes. A block-causal model
    reads the pipeline's mask of two dimensions as bidirectional, or as causal: it gets the one it was trained with in
    its place, of blocks of ``block_length`` columns (the model's own where it is 0).

    Raises ConfigError for a pipeline without a mask token or a model without an output layer.
    """

    gives = frozenset({"padding", "second_forward"})  # the pipeline runs the text itself, nothing else

    def __init__(self, pipe: Any, mask_id: int | None = None, *, block_length: int = 0, **given: Any) -> None:
        found = pipe.mask_token_id if mask_id is None else mask_id
        if found is None:
            raise ConfigError("the pipeline's tokenizer has no mask token: pass mask_id.")
        self.block_length = length_of(pipe.model, block_length)
        self.seen: dict[str, Tensor] = {}
        keep = partial(_keep_mask, self.seen, self.block_length)
        handles = [base_model(pipe.model).register_forward_pre_hook(keep, with_kwargs=True)]
        try:
            super().__init__(pipe.model, found, **{"tokenizer": pipe.tokenizer, **given})
            handles.append(self.output_layer().register_forward_pre_hook(partial(_keep_hidden, self.seen)))
        except BaseException:
            _remove(handles)
            raise
        self.undo.append(weakref.finalize(self, _remove, handles))

    def fits(self) -> bool:
        """Whether the pipeline's model has an output layer, which a head needs."""
        return getattr(self.host, "get_output_embeddings", lambda: None)() is not None

    @staticmethod
    def matches(pipe: object) -> bool:
        """Whether an object is a ``LLaDA2Pipeline``."""
        return "LLaDA2Pipeline" in class_names(pipe)

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """As the pipeline calls its model: the mask of padding, and positions by the column."""
        attended = torch.ones_like(tokens) if padding is None else padding.long()
        place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return {"input_ids": tokens, "attention_mask": attended, "position_ids": place}

    def take(self, what: str) -> Tensor:
        """``hidden`` (B, W, D) or ``attended`` (B, W) of the last pass, once; ConfigError where there was none."""
        if what not in self.seen:
            raise ConfigError(
                f"{what}: no forward pass of {type(self.host).__name__} was seen since the last step: attach the "
                "scheduler to the pipeline that calls it (pipe.scheduler.attach(pipe))."
            )
        return self.seen.pop(what)


def _keep_hidden(seen: dict[str, Tensor], module: nn.Module, args: tuple[Any, ...]) -> None:
    seen["hidden"] = args[0]


def _keep_mask(
    seen: dict[str, Tensor], block_length: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    attended = kwargs.get("attention_mask")
    if attended is None:
        return None
    seen["attended"] = attended
    if not block_length or attended.dim() != 2:
        return None
    block = torch.arange(attended.shape[1], device=attended.device)[None] // block_length
    return args, {**kwargs, "attention_mask": block_mask(module, attended.bool(), block)}


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
