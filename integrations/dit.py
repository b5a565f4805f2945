"""The network of MDLM, ReMDM, ProSeCo, Duo, GIDD and SCDD, a diffusion transformer, as a ``Denoiser``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Embedding, Output
from prism_plugin.models.hooked import HookedDenoiser, captured
from prism_plugin.ops import live_rows


def net_of(model: Any) -> Any:
    """The module that holds `output_layer`: the model, or what the published one is wrapped around."""
    return model if hasattr(model, "output_layer") else getattr(model, "backbone", None)


class DiTDenoiser(HookedDenoiser):
    """A network with ``output_layer(x, c)`` behind blocks that are told the time. Hidden states are those that enter
    the layer, before its norm, with the time vector ``c``.
    """

    hidden_at = "pre_norm"
    gives = frozenset({"second_forward", "probe"})
    length_key = "model_length"

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        super().__init__(model, mask_id, tokenizer=tokenizer)
        self.cond_size = next(self.net.output_layer.adaLN_modulation.parameters()).shape[1]

    @property
    def net(self) -> Any:
        """The module that holds `output_layer`."""
        return net_of(self.host)

    def output_layer(self) -> Any:
        """See ``HookedDenoiser.output_layer``; its norm stands before it."""
        return self.net.output_layer.linear

    def state_at(self) -> tuple[nn.Module, str]:
        """See ``HookedDenoiser.state_at``."""
        return self.net.output_layer, "input"

    def longest(self) -> int:
        """See ``HookedDenoiser.longest``; 0 where the network does not say, and its owner does."""
        return getattr(getattr(self.host, "config", None), self.length_key, 0)

    def time_of(self, tokens: Tensor, level: Tensor | None) -> Tensor:
        """What the host is told of the time, (B,) f32."""
        raise TypeError(f"{type(self).__name__} defines no time_of(tokens, level).")

    def call(self, tokens: Tensor, padding: Tensor | None, level: Tensor | None = None) -> Any:
        """The host's attention takes no padding: ConfigError where some is given."""
        if padding is not None and not padding.all():
            raise ConfigError("padding: the host's DiT attends to every position; give rows of one length.")
        return self.host(tokens, self.time_of(tokens, level))

    def train(self, mode: bool = True) -> DiTDenoiser:
        """Only a head is trained: the host's dropout stays off."""
        super().train(mode)
        self.host.eval()
        return self

    def embedded(self, tokens: Tensor) -> Tensor:
        """See ``Denoiser.embedded``."""
        return self.net.vocab_embed(self.readable(tokens))

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """Raw logits of the rows in ``index`` (N,), the mask's at -inf: (N, V) f32, in the host's own precision."""
        hidden, time = output.hidden, output.time
        assert time is not None  # forward() always gives it
        rows, which = live_rows(index)
        if not hidden.is_cuda:  # the states of a pass under autocast, in the precision of the layer that takes them
            hidden, time = (states.to(self.output_layer().weight.dtype) for states in (hidden, time))
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=hidden.is_cuda):  # as DIT.forward does
            logits = self.net.output_layer(hidden.flatten(0, 1)[rows][:, None], time[rows // hidden.shape[1]])
        mask = torch.tensor([self.mask_id], device=logits.device)
        return self.widened(logits[:, 0].float()).index_fill(1, mask, -torch.inf), which

    def output_embedding(self) -> Embedding | None:
        """See ``Denoiser.output_embedding``: behind the norm of the output layer; bf16 on CUDA, as the host has it."""
        if self.marker:
            return None
        linear = self.output_layer()
        weight, bias = linear.weight, linear.bias
        if weight.is_cuda:
            weight, bias = weight.bfloat16(), bias.bfloat16()

        def rows(output: Output, index: Tensor) -> Tensor:
            time = output.time[index // output.hidden.shape[1]]  # type: ignore[index]  # forward() always gives it
            with captured(linear) as kept:
                self.net.output_layer(output.hidden.flatten(0, 1)[index][:, None], time)
            return kept[0][:, 0].to(weight.dtype)

        return Embedding(rows, weight, bias, never=torch.tensor([self.mask_id], device=weight.device))

    @classmethod
    def known_mask(cls, config: dict[str, Any]) -> int | None:
        """The last symbol."""
        return config["vocab_size"] - 1
