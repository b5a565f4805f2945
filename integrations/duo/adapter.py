"""Duo's algorithms of uniform-state diffusion (s-sahoo/duo) as a ``Denoiser``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import base_model
from prism_plugin.models.noise import Noise

from ..dit import DiTDenoiser, net_of

FINISHED = 0.99
"""The alpha of a text that nobody has noised, where the host wants to be told one."""


class DuoDenoiser(DiTDenoiser):
    """``algo.DUO`` or ``algo.DUO_BASE`` with whatever weights it holds now (its sampler puts the EMA in place first).

    Its vocabulary has no mask: the id behind it marks what is to be written, and noise, any symbol, takes its place.
    The host is told -log alpha of the sampler's plan. Raises ConfigError for a network or settings that are not read.
    """

    gives = DiTDenoiser.gives | {"level"}
    marker = True
    noise = Noise(1.0, tilted=True)
    wants = "a DIT with output_layer(x, c) was not found (algo.backbone=dit, algo.causal_attention=False)"

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        algorithm = base_model(model)
        if not self.matches(algorithm):
            raise ConfigError(f"{type(algorithm).__name__} is no model for DuoDenoiser: prior_sample was not found.")
        if algorithm.class_conditional:
            raise ConfigError("data.num_classes: classes are not passed on; PRISM writes texts.")
        super().__init__(algorithm.backbone, mask_id, tokenizer=tokenizer or algorithm.tokenizer)
        self.max_length = algorithm.num_tokens

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is one of the host's whose prior is all symbols."""
        host = base_model(model)
        own = all(hasattr(host, name) for name in ("backbone", "prior_sample", "_posterior_from_x0"))
        return own and not hasattr(host, "mask_index")

    def fits(self) -> bool:
        """See ``HookedDenoiser.fits``."""
        net = net_of(self.host)
        return hasattr(net, "output_layer") and hasattr(net, "sigma_map")

    def time_of(self, tokens: Tensor, level: Tensor | None) -> Tensor:
        """sigma (B,) = -log alpha."""
        if level is None:
            level = torch.full((len(tokens),), FINISHED, device=tokens.device)
        return -level.clamp(min=1e-6).log().float().to(tokens.device)
