"""Dream and models of its shape (DiffuCoder, Open-dLLM's, …) as a ``Denoiser``: logits shifted by one, a full mask."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor

from prism_plugin.models.hooked import HookedDenoiser, base_model
from prism_plugin.models.remote import load


class DreamDenoiser(HookedDenoiser):
    """``DreamModel``, bare or under peft: ``model.model`` and ``lm_head``.

    The logits of position i come from the state of position i - 1, as the host trains them; a head judges token i by
    the state of position i, which has seen it. Padding goes to the host as its own ``diffusion_generate`` passes it: a
    (B, 1, L, L) mask and positions that begin where a text does.
    """

    shift = 1
    wants = "a DreamModel with lm_head was not found"
    from_pretrained = staticmethod(load)

    @staticmethod
    def named(model: Any) -> bool:
        """Whether a model is Dream's, by the name of its class and its face."""
        host = base_model(model)
        named = any(kind.__name__.endswith("DreamModel") for kind in type(host).__mro__)
        return named and hasattr(host, "lm_head") and hasattr(host, "model")

    @staticmethod
    def matches(model: Any) -> bool:
        """The same, but for Fast-dLLM's, whose forward keeps keys and values (``integrations/fast_dllm``)."""
        return DreamDenoiser.named(model) and "replace_position" not in signature(base_model(model).forward).parameters

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        return config["model_type"].lower() == "dream"

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """See ``HookedDenoiser.inputs``."""
        if padding is None:
            return {"input_ids": tokens, "attention_mask": "full"}
        given = super().inputs(tokens, padding)
        return {**given, "attention_mask": padding[:, None, None, :] & padding[:, None, :, None]}
