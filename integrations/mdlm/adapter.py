"""MDLM's and ReMDM's `diffusion.Diffusion` as a `Denoiser` (kuleshov-group/mdlm, kuleshov-group/remdm), and their
published weights, and those of ProSeCo (kuleshov-group/proseco), as transformers loads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import share_masked
from prism_plugin.models.hooked import base_model

from ..dit import DiTDenoiser, net_of


class MDLMDenoiser(DiTDenoiser):
    """The host's `diffusion.Diffusion` with whatever weights it holds now (in `_sample` it has put its EMA in place),
    or a published model of the family, remote code of transformers (kuleshov-group/mdlm-owt, the ProSeCo models).

    mask_id of a published model: the last row of the vocabulary where it is not given.
    Raises ConfigError, naming both sides, for a host that PRISM cannot sample from.
    """

    model_types = ("mdlm", "proseco")
    wants = "output_layer(x, c) was not found"

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        diffusion = model if _is_diffusion(model) else None
        if diffusion is not None:
            check_host(diffusion)
            if mask_id not in (None, diffusion.mask_index):
                raise ConfigError(f"mask_id = {mask_id}: the mask of the host's vocabulary is {diffusion.mask_index}.")
            model, mask_id = diffusion.backbone, diffusion.mask_index
        super().__init__(model, mask_id, tokenizer=tokenizer)
        if diffusion is None:
            self.schedule, self.time_conditioning = None, bool(self.host.config.time_conditioning)
        else:
            self.schedule, self.time_conditioning = diffusion.noise, diffusion.time_conditioning
            self.max_length = diffusion.config.model.length

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is the host's `Diffusion`, its network, or a published model."""
        if _is_diffusion(model):
            return model.parameterization != "scdd"
        host = base_model(model)
        net = net_of(host)
        own = hasattr(net, "sigma_map") and hasattr(net, "output_layer")
        return own and not hasattr(host, "prior_sample") and not hasattr(getattr(host, "config", None), "p_uniform")

    def time_of(self, tokens: Tensor, level: Tensor | None = None) -> Tensor:
        """sigma (B,): of the realised share of masks, since a remask turns time back; 0 where the host takes none."""
        if not self.time_conditioning:
            return torch.zeros(tokens.shape[0], device=tokens.device)
        share = share_masked(tokens, self.mask_id, None)
        return -torch.log1p(-0.999 * share) if self.schedule is None else self.schedule.total_noise(share)


def _is_diffusion(model: Any) -> bool:
    return all(hasattr(model, name) for name in ("backbone", "noise", "mask_index", "parameterization"))


def check_host(diffusion: Any) -> None:
    """Refuse what PRISM cannot work with, before anything is sampled; each message names the host's key."""
    config, sampling = diffusion.config, diffusion.config.sampling
    for key, found, allowed, why in (
        ("parameterization", config.parameterization, ("subs",),
         "PRISM samples from the posterior that parameterization=subs gives"),
        ("backbone", config.backbone, ("dit", "hf_dit"), "hidden states are read from backbone=dit or hf_dit"),
        ("noise", config.noise.type, ("loglinear",), "the schedules assume noise=loglinear"),
        ("sampling.semi_ar", sampling.semi_ar, (False,), "it bypasses the sampler that PRISM replaces"),
        ("sampling.dfm", sampling.get("dfm", False), (False,), "both replace the host's sampler; turn one off"),
        ("sampling.predictor", sampling.get("predictor", "ddpm_cache"), ("ddpm_cache",),
         "both choose the sampler; leave out one"),
        ("sampling.sampler", sampling.get("sampler", "mdlm"), ("mdlm",), "both choose the sampler; leave out one"),
    ):  # fmt: skip
        if found not in allowed:
            raise ConfigError(f"{key}={found} clashes with +prism: {why}.")
