"""``DiffusionGemmaForBlockDiffusion`` of transformers as a ``Denoiser``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Output
from prism_plugin.models.hooked import HookedDenoiser, captured
from prism_plugin.models.noise import Noise


class DiffusionGemmaDenoiser(HookedDenoiser):
    """A text is a prompt, which the encoder reads from left to right, and behind it the canvas, its last
    ``canvas_length`` tokens (of a shorter text all but the first), in which everything sees everything.

    The vocabulary has no mask that it was trained with: the id behind it marks what is to be written, and noise, any
    symbol, takes its place. States of the canvas are those that enter ``lm_head``, of the prompt the encoder's last.
    No self-conditioning is passed: every pass is read as the host reads its first.
    """

    gives = frozenset({"second_forward", "probe"})
    marker = True
    noise = Noise(1.0)
    classes = ("DiffusionGemmaForBlockDiffusion",)
    model_types = ("diffusion_gemma",)
    wants = "no DiffusionGemmaForBlockDiffusion of transformers was found"

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        super().__init__(model, mask_id, tokenizer=tokenizer)
        self.block_length = self.host.config.canvas_length

    @staticmethod
    def from_pretrained(name: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
        """The host's own class; no remote code is needed."""
        from transformers import DiffusionGemmaForBlockDiffusion

        return DiffusionGemmaForBlockDiffusion.from_pretrained(name, **options)

    def output_layer(self) -> Any:
        """See ``HookedDenoiser.output_layer``."""
        return self.host.lm_head

    def longest(self) -> int:
        """See ``HookedDenoiser.longest``."""
        return self.host.config.text_config.max_position_embeddings

    def embedded(self, tokens: Tensor) -> Tensor:
        """See ``Denoiser.embedded``."""
        return self.host.model.decoder.embed_tokens(self.readable(tokens))

    def call(self, tokens: Tensor, padding: Tensor | None, level: Tensor | None = None) -> Any:
        """One forward of the host: prompt and canvas apart."""
        if padding is not None and not padding.all():
            raise ConfigError("padding: prompt and canvas have one border in a batch; give rows of one length.")
        if tokens.shape[1] < 2:
            raise ConfigError("a text of one token: the host needs a prompt before what it writes.")
        start = max(1, tokens.shape[1] - self.block_length)
        return self.host(input_ids=tokens[:, :start], decoder_input_ids=tokens[:, start:])

    def forward(self, tokens: Tensor, padding: Tensor | None = None, level: Tensor | None = None) -> Output:
        """See ``Denoiser.forward``."""
        with captured(self.host.lm_head) as kept:
            made = self.call(self.readable(tokens), padding)
        return Output(torch.cat([made.encoder_last_hidden_state, kept[0]], dim=1))

    def logits(self, hidden: Tensor) -> Tensor:
        """The host's matrix and its cap on the logits, in f32."""
        cap = self.host.final_logit_softcapping
        return (self.host.lm_head(hidden).float() / cap).tanh() * cap
