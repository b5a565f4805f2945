"""Hosts of noise of symbols with the interfaces of Duo, SCDD and GIDD, written for the tests: names, calls and what the
network is told, not the authors' layers.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Final(nn.Module):
    """Norm, a shift and a scale by the time, one matrix."""

    def __init__(self, size: int, rows: int, cond: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(size, bias=False)
        self.linear = nn.Linear(size, rows)
        self.adaLN_modulation = nn.Linear(cond, 2 * size)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class Time(nn.Module):
    """A number to a vector."""

    def __init__(self, cond: int) -> None:
        super().__init__()
        self.mlp = nn.Linear(2, cond)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(torch.stack([t.float().sin(), t.float().cos()], dim=-1))


class Network(nn.Module):
    """Embedding, attention that sees all, the time in between, the output layer."""

    def __init__(self, size: int, cond: int, rows: int, named: bool) -> None:
        super().__init__()
        self.vocab_embed, self.sigma_map = nn.Embedding(rows, size), Time(cond)
        self.mix, self.told = nn.MultiheadAttention(size, 2, batch_first=True), nn.Linear(cond, size)
        self.place = nn.Embedding(64, size)
        self.output_layer, self.named = Final(size, rows, cond), named

    def forward(self, x: Tensor, sigma: Tensor, class_cond: None = None, weights: None = None) -> Tensor:
        x = self.vocab_embed(x) + self.place.weight[: x.shape[1]]
        c = torch.nn.functional.silu(self.sigma_map(sigma))
        x = x + self.mix(x, x, x, need_weights=False)[0] + self.told(c)[:, None]
        return self.output_layer(x, c=c) if self.named else self.output_layer(x, c)


class Duo(nn.Module):
    """As ``algo.DUO_BASE``: every id of the tokenizer is a symbol, there is no mask."""

    class_conditional = False

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer, self.vocab_size = config, tokenizer, len(tokenizer)
        self.num_tokens = config.model.length
        self.backbone = Network(config.model.hidden_size, config.model.cond_dim, self.vocab_size, named=True)

    def forward(self, xt: Tensor, sigma: Tensor) -> Tensor:
        return self.backbone(x=xt, sigma=sigma.mean(-1), class_cond=None, weights=None).log_softmax(dim=-1)

    def prior_sample(self, *dims: int) -> Tensor:
        return torch.randint(0, self.vocab_size, dims)

    def _posterior_from_x0(self) -> None:
        raise NotImplementedError


class SCDD(nn.Module):
    """As SCDD's ``diffusion.Diffusion``: MDLM's, with parameterization=scdd; the mask is the last id."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer, self.parameterization = config, tokenizer, config.parameterization
        self.mask_index, self.vocab_size = tokenizer.vocab_size, tokenizer.vocab_size + 1
        self.time_conditioning, self.noise = config.time_conditioning, nn.Identity()
        self.backbone = Network(config.model.hidden_size, config.model.cond_dim, self.vocab_size, named=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma if self.time_conditioning else torch.zeros_like(sigma)
        logits = self.backbone(x, sigma)
        logits[:, :, self.mask_index] -= 1e6
        return logits.log_softmax(dim=-1)


class GIDD(nn.Module):
    """As ``DIT`` of GIDD's ``modeling_dit.py``: a model with a config, called with ids and t."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.config = type("DITConfig", (), {**sizes, "model_type": "dit"})()
        net = Network(sizes["hidden_size"], sizes["timestep_cond_dim"], sizes["vocab_size"], named=False)
        for name, module in net.named_children():
            self.add_module(name, module)
        self.named = False

    def forward(self, input_ids: Tensor, timesteps: Tensor) -> Tensor:
        return Network.forward(self, input_ids, timesteps)  # type: ignore[arg-type]  # its layers are these
