"""Dream and models of its shape, and Open-dLLM's, as a ``Denoiser``: logits shifted by one, a full mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.models.hooked import HookedDenoiser, base_model, class_names, forward_takes


class DreamDenoiser(HookedDenoiser):
    """``DreamModel``, bare or under peft: ``model.model`` and ``lm_head``.

    The logits of position i come from the state of position i - 1, as the host trains them; a head judges token i by
    the state of position i, which has seen it. Padding goes to the host as its own ``diffusion_generate`` passes it: a
    (B, 1, L, L) mask and positions that begin where a text does.
    """

    shift = 1
    model_types = ("dream", "Dream")
    wants = "a DreamModel with lm_head was not found"

    @staticmethod
    def is_dream(model: Any) -> bool:
        """Whether a model is Dream's, by the name of its class and its face."""
        host = base_model(model)
        named = any(name.endswith("DreamModel") for name in class_names(host))
        return named and hasattr(host, "lm_head") and hasattr(host, "model")

    @staticmethod
    def matches(model: Any) -> bool:
        """The same, but for Fast-dLLM's, whose forward keeps keys and values (``integrations/fast_dllm``)."""
        return DreamDenoiser.is_dream(model) and "replace_position" not in forward_takes(model)

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """See ``HookedDenoiser.inputs``."""
        if padding is None:
            return {"input_ids": tokens, "attention_mask": "full"}
        given = super().inputs(tokens, padding)
        return {**given, "attention_mask": padding[:, None, None, :] & padding[:, None, :, None]}


class OpenDLLMDenoiser(HookedDenoiser):
    """Open-dLLM's ``Qwen2ForCausalLM`` and ``Qwen3ForCausalLM``, told at the call to see what follows; Dream's shift.

    A mask of two dimensions, or none where attention is eager, makes them causal: they get (B, 1, 1, L), added to the
    scores. By its config a checkpoint is that of any Qwen, so none is taken by name: load it with the host's class.
    """

    shift = 1
    classes = ("MDMGenerationMixin",)
    wants = "a class with Open-dLLM's MDMGenerationMixin was not found"

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """See ``HookedDenoiser.inputs``."""
        given = {**super().inputs(tokens, padding), "is_causal": False, "use_cache": False}
        if padding is None and self.host.config._attn_implementation == "eager":
            padding = torch.ones_like(tokens, dtype=torch.bool)
        if padding is not None:
            kind = self.output_layer().weight.dtype
            hidden = ~padding[:, None, None, :]
            given["attention_mask"] = hidden.to(kind).masked_fill(hidden, torch.finfo(kind).min)
        return given
