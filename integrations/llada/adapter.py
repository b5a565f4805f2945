"""LLaDA as a ``Denoiser``: hidden states after ``ln_f`` without logits, and logits for the rows asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Denoiser, Embedding, Output

MASK, EOS, EOT = 126336, 126081, 126348


class Guided(Output):
    """An ``Output`` that also holds ``unguided``, the hidden states (B, L, D) of the pass that saw no prompt."""

    unguided: Tensor | None = None


class LLaDADenoiser(Denoiser):
    """A model with the interface of GSAI-ML/LLaDA's remote code, bare or under peft.

    ``model.model.transformer`` holds wte, blocks (or block_groups), ln_f and ff_out. The host has no call that gives
    hidden states alone: its inner model runs with ``last_logits_only`` (one row of logits a text instead of L) and a
    hook on the last block keeps the states that this option would cut. One thread at a time.

    cfg_scale > 0 adds the pass in which the first ``prompt_length`` tokens are masked (LLaDA generate.py).
    all_logits computes the logits of every row at once, as the host does: the same numbers to the last bit.
    """

    hidden_at = "post_norm"
    model_type = "llada"
    host: Any

    def __init__(
        self,
        model: nn.Module,
        mask_id: int | None = None,
        *,
        cfg_scale: float = 0.0,
        prompt_length: int = 0,
        all_logits: bool = False,
    ) -> None:
        super().__init__()
        if not self.matches(model):
            raise ConfigError(
                f"{type(model).__name__} is no LLaDA: model.model.transformer with wte and ln_f was not found."
            )
        self.host = base_model(model)
        config = self.host.config
        self.vocab_size = config.embedding_size or config.vocab_size
        self.mask_id = mask_id if mask_id is not None else getattr(config, "mask_token_id", MASK)
        if not 0 <= self.mask_id < self.vocab_size:
            raise ConfigError(
                f"mask_id = {self.mask_id} is outside the model's vocabulary: allowed 0 to {self.vocab_size - 1}."
            )
        if cfg_scale < 0:
            raise ConfigError(f"cfg_scale = {cfg_scale}: allowed cfg_scale >= 0 (0 is no guidance).")
        self.hidden_size, self.max_length = config.d_model, config.max_sequence_length
        self.cfg_scale, self.prompt_length, self.all_logits = cfg_scale, prompt_length, all_logits

    @classmethod
    def load(cls, name: str, *, mask_id: int | None = None, **options: Any) -> LLaDADenoiser:
        """The checkpoint of that name; see ``load.load``."""
        from .load import load

        return cls(load(name, **options), mask_id)

    @staticmethod
    def matches(model: object) -> bool:
        """Whether a model has the module tree of LLaDA's remote code."""
        transformer = getattr(getattr(base_model(model), "model", None), "transformer", None)
        return isinstance(transformer, nn.ModuleDict) and "wte" in transformer and "ln_f" in transformer

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        """See ``Denoiser.forward``; padding goes to the host as its attention mask."""
        if not self.cfg_scale:
            hidden = self._hidden(tokens, padding)
            return Output(hidden, logits=self._logits(hidden) if self.all_logits else None)
        blind = tokens.clone()
        blind[:, : self.prompt_length] = self.mask_id
        both = self._hidden(torch.cat([tokens, blind]), None if padding is None else padding.repeat(2, 1))
        hidden, unguided = both.chunk(2)
        output = Guided(hidden, logits=self._guide(*self._logits(both).chunk(2)) if self.all_logits else None)
        output.unguided = unguided
        return output

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, V) of the rows of ``index``, in the host's dtype; guided where cfg_scale is set."""
        if output.logits is not None:
            return super().project(output, index)
        rows = index.clamp(min=0)
        logits = self._logits(output.hidden.flatten(0, 1)[rows])
        if isinstance(output, Guided) and output.unguided is not None:
            logits = self._guide(logits, self._logits(output.unguided.flatten(0, 1)[rows]))
        return logits, torch.arange(index.numel(), device=index.device).masked_fill(index < 0, -1)

    def output_embedding(self) -> Embedding | None:
        """See ``Denoiser.output_embedding``; None where guidance mixes two passes."""
        transformer, config = self.host.model.transformer, self.host.config
        layer = transformer["wte"] if config.weight_tying else transformer["ff_out"]
        if self.cfg_scale:
            return None
        scale = 1 / math.sqrt(config.d_model) if config.scale_logits else 1.0
        bias = getattr(layer, "bias", None)
        return Embedding(lambda output, index: output.hidden.flatten(0, 1)[index], layer.weight, bias, scale)

    def _guide(self, logits: Tensor, unguided: Tensor) -> Tensor:
        return unguided + (self.cfg_scale + 1) * (logits - unguided)

    def _hidden(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """(B, L) -> (B, L, D), after ln_f."""
        kept: list[Tensor] = []
        transformer = self.host.model.transformer
        blocks = transformer["blocks"] if "blocks" in transformer else transformer["block_groups"]
        hook = blocks[-1].register_forward_hook(lambda module, given, result: kept.append(result[0]))
        attended = None if padding is None else padding.long()
        try:
            self.host.model(input_ids=tokens, attention_mask=attended, last_logits_only=True)
        finally:
            hook.remove()
        return transformer["ln_f"](kept[0])

    def _logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        transformer, config = self.host.model.transformer, self.host.config
        # With tied weights the host calls the *embedding* ff_out: the config decides, not the attribute.
        logits = F.linear(hidden, transformer["wte"].weight) if config.weight_tying else transformer["ff_out"](hidden)
        return logits * (1 / math.sqrt(config.d_model)) if config.scale_logits else logits


def base_model(model: Any) -> Any:
    """The host's own model under a peft wrapper (whose layers stay in place), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
