"""SCDD's ``diffusion.Diffusion`` (laaaarrywang/Self-Correcting-Discrete-Diffusion) as a ``Denoiser``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import base_model
from prism_plugin.models.noise import Peaked

from ..dit import DiTDenoiser, net_of


class SCDDDenoiser(DiTDenoiser):
    """The host's ``Diffusion`` with parameterization=scdd and whatever weights it holds now.

    A mask stays one until it is written, a written token is drawn anew but never masked. Where the host is trained with
    time_conditioning it is told -log alpha of the sampler's plan. Raises ConfigError for settings that are not read.
    """

    gives = DiTDenoiser.gives | {"level"}

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        diffusion = base_model(model)
        if not self.matches(diffusion):
            raise ConfigError(f"{type(diffusion).__name__} is no model for SCDDDenoiser: parameterization=scdd wanted.")
        if mask_id not in (None, diffusion.mask_index):
            raise ConfigError(f"mask_id = {mask_id}: the mask of the host's vocabulary is {diffusion.mask_index}.")
        for key, found, wanted in (
            ("noise", diffusion.config.noise.type, "loglinear"), ("debug", bool(diffusion.config.debug), False),
        ):  # fmt: skip
            if found != wanted:
                raise ConfigError(f"{key}={found} clashes with PRISM: its noise is read for {key}={wanted}.")
        super().__init__(diffusion.backbone, diffusion.mask_index, tokenizer=tokenizer or diffusion.tokenizer)
        forward = diffusion.config.forward
        self.noise = Peaked(float(forward.ratio), True, True, float(forward.gamma), float(forward.t_peak))
        self.time_conditioning = bool(diffusion.time_conditioning)
        self.max_length = diffusion.config.model.length

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is the host's."""
        host = base_model(model)
        return getattr(host, "parameterization", None) == "scdd" and hasattr(host, "backbone")

    def fits(self) -> bool:
        """See ``HookedDenoiser.fits``."""
        return hasattr(net_of(self.host), "output_layer")

    def time_of(self, tokens: Tensor, level: Tensor | None) -> Tensor:
        """sigma (B,) = -log alpha, or 0 where the host takes none."""
        if level is None or not self.time_conditioning:
            return torch.zeros(len(tokens), device=tokens.device)
        return -level.clamp(min=1e-6).log().float().to(tokens.device)
