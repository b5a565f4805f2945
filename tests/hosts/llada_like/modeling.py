"""A small stand-in with the interface of LLaDA's remote code: module names, forward arguments, output fields.

It differs where a test must notice: the output layer records how many rows it was asked for, and the block list ends in
a layer whose output only ``ln_f`` turns into the hidden states a head may read.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def config(**changes: object) -> SimpleNamespace:
    """The fields of LLaDA's config that an adapter may read."""
    fields = {
        "model_type": "llada",
        "d_model": 32,
        "hidden_size": 32,
        "n_heads": 2,
        "n_layers": 2,
        "vocab_size": 126464,
        "embedding_size": 126464,
        "max_sequence_length": 128,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
        "pad_token_id": 126081,
        "weight_tying": False,
        "scale_logits": False,
        "block_group_size": 1,
    }
    return SimpleNamespace(**{**fields, **changes})


class Block(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.heads = config.n_heads
        self.norm = nn.RMSNorm(config.d_model)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, attention_bias: Tensor) -> tuple[Tensor, None]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_bias)
        return x + self.out(mixed.transpose(1, 2).flatten(2)), None


class LLaDAModel(nn.Module):
    """The inner model: ``transformer`` holds wte, blocks, ln_f and, unless the weights are tied, ff_out."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": nn.RMSNorm(config.d_model),
            }
        )
        # As in the host, ``tie_weights`` leaves the *embedding* under the name ff_out.
        tied = config.weight_tying
        self.transformer["ff_out"] = (
            self.transformer["wte"] if tied else nn.Linear(config.d_model, config.embedding_size, bias=False)
        )
        self.logit_rows = 0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        last_logits_only: bool = False,
        output_hidden_states: bool | None = None,
    ) -> SimpleNamespace:
        x = self.transformer["wte"](input_ids)
        distance = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).float()
        bias = torch.stack([-distance.abs() / 4, distance / 8])  # one head looks near, the other to one side
        if attention_mask is not None:
            bias = bias + (1.0 - attention_mask.float())[:, None, None, :] * torch.finfo(torch.float32).min
        else:
            bias = bias[None]
        states = []
        for block in self.transformer["blocks"]:
            states.append(x)
            x, _ = block(x, bias)
        if last_logits_only:
            x = x[:, -1:]
        x = self.transformer["ln_f"](x)
        states.append(x)
        self.logit_rows += x.shape[0] * x.shape[1]
        logits = (
            F.linear(x, self.transformer["wte"].weight) if self.config.weight_tying else self.transformer["ff_out"](x)
        )
        if self.config.scale_logits:
            logits.mul_(1 / math.sqrt(self.config.d_model))
        return SimpleNamespace(logits=logits, hidden_states=tuple(states) if output_hidden_states else None)


class LLaDAModelLM(nn.Module):
    """The outer model, which knows neither ``last_logits_only`` nor a way to ask for hidden states alone."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.model = LLaDAModel(config)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> SimpleNamespace:
        return self.model(input_ids, attention_mask, output_hidden_states=output_hidden_states)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer["wte"]

    def get_output_embeddings(self) -> nn.Module:
        return self.model.transformer["wte" if self.config.weight_tying else "ff_out"]


def build(seed: int = 0, **changes: object) -> LLaDAModelLM:
    """A model with random weights, large enough that confidences differ clearly between positions."""
    torch.manual_seed(seed)
    model = LLaDAModelLM(config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
    return model
