"""The model of a ``LLaDA2Pipeline`` as a ``Denoiser``, and what the pipeline's own forward passes show by hooks."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Denoiser, Output


class LLaDA2Denoiser(Denoiser):
    """``pipe.model`` as the pipeline calls it: ``model(tokens, attention_mask=, position_ids=).logits``.

    Hidden states are what enters the model's output layer, after its final norm. Hooks keep the last ones seen and the
    attention mask they were made with, whoever calls the model; they go when this object goes.

    Raises ConfigError for a pipeline without a mask token or a model without an output layer.
    """

    hidden_at = "post_norm"
    gives = frozenset({"padding", "second_forward"})  # the pipeline runs the text itself, nothing else
    host: Any

    def __init__(self, pipe: Any, mask_id: int | None = None) -> None:
        super().__init__()
        self.host = pipe.model
        output_layer = self.host.get_output_embeddings() if hasattr(self.host, "get_output_embeddings") else None
        if output_layer is None:
            raise ConfigError(
                f"{type(self.host).__name__} names no output layer (get_output_embeddings): a quality head reads the "
                "hidden states that enter it."
            )
        found = pipe.mask_token_id if mask_id is None else mask_id
        if found is None:
            raise ConfigError("the pipeline's tokenizer has no mask token: pass mask_id.")
        config = self.host.config
        self.vocab_size, self.mask_id, self.hidden_size = config.vocab_size, found, config.hidden_size
        if not 0 <= found < self.vocab_size:
            raise ConfigError(f"mask_id = {found} is outside the vocabulary: allowed 0 to {self.vocab_size - 1}.")
        self.max_length = config.max_position_embeddings
        self.seen: dict[str, Tensor] = {}
        handles = [
            output_layer.register_forward_pre_hook(partial(_keep_hidden, self.seen)),
            self.host.register_forward_pre_hook(partial(_keep_mask, self.seen), with_kwargs=True),
        ]
        weakref.finalize(self, _remove, handles)

    @staticmethod
    def matches(pipe: object) -> bool:
        """Whether an object is a ``LLaDA2Pipeline``."""
        return any(kind.__name__ == "LLaDA2Pipeline" for kind in type(pipe).__mro__)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        """See ``Denoiser.forward``; a pass of our own, for training a head or generating without the pipeline."""
        attended = torch.ones_like(tokens) if padding is None else padding.long()
        place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        logits = self.host(tokens, attention_mask=attended, position_ids=place).logits
        return Output(self.take("hidden").float(), None, logits)

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


def _keep_mask(seen: dict[str, Tensor], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("attention_mask") is not None:
        seen["attended"] = kwargs["attention_mask"]


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
