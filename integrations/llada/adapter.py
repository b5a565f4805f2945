"""LLaDA as a ``Denoiser``: hidden states after ``ln_f`` without logits, and logits for the rows asked for."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from prism_plugin.models.denoiser import Embedding, Output
from prism_plugin.models.hooked import HookedDenoiser, base_model

MASK, EOS, EOT = 126336, 126081, 126348


class LLaDADenoiser(HookedDenoiser):
    """A model with the interface of GSAI-ML/LLaDA's remote code, bare or under peft.

    ``model.model.transformer`` holds wte, blocks (or block_groups), ln_f and ff_out.

    all_logits computes the logits of every row at once, as the host does: the same numbers to the last bit.
    """

    model_types = ("llada",)
    length_key = "max_sequence_length"
    own_mask = MASK
    wants = "model.model.transformer with wte and ln_f was not found"

    def __init__(self, model: nn.Module, mask_id: int | None = None, *, all_logits: bool = False, **given: Any) -> None:
        super().__init__(model, mask_id, **given)
        self.all_logits = all_logits

    @staticmethod
    def matches(model: object) -> bool:
        """Whether a model has the module tree of LLaDA's remote code."""
        transformer = getattr(getattr(base_model(model), "model", None), "transformer", None)
        return isinstance(transformer, nn.ModuleDict) and "wte" in transformer and "ln_f" in transformer

    def output_layer(self) -> Any:
        """With tied weights the host calls the *embedding* ff_out: the config decides, not the attribute."""
        return self.host.model.transformer["wte" if self.host.config.weight_tying else "ff_out"]

    def state_at(self) -> tuple[nn.Module, str]:
        """With tied weights no module makes the logits."""
        return self.host.model.transformer["ln_f"], "output"

    def forward(self, tokens: Tensor, padding: Tensor | None = None, level: Tensor | None = None) -> Output:
        """See ``HookedDenoiser.forward``; padding goes to the host as its attention mask."""
        output = super().forward(tokens, padding, level)
        if not self.all_logits:
            return output
        logits = self.logits(output.hidden)
        if output.unguided is not None:
            logits = self.guided(logits, self.logits(output.unguided))
        return output._replace(logits=logits)

    def output_embedding(self) -> Embedding | None:
        """See ``HookedDenoiser.output_embedding``, with the scale that the config asks for."""
        embedding = super().output_embedding()
        return None if embedding is None else embedding._replace(scale=self._scale)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        layer = self.output_layer()
        logits = F.linear(hidden, layer.weight) if self.host.config.weight_tying else layer(hidden)
        return logits if self._scale == 1 else logits * self._scale

    @property
    def _scale(self) -> float:
        config = self.host.config
        return 1 / math.sqrt(config.d_model) if config.scale_logits else 1.0


class LLaDAMoEDenoiser(HookedDenoiser):
    """``LLaDAMoEModelLM`` (LLaDA-MoE), bare or under peft: it looks everywhere, and ``lm_head`` makes its logits."""

    classes = ("LLaDAMoEModelLM",)
    own_mask = 156895
    wants = "a LLaDAMoEModelLM was not found"
