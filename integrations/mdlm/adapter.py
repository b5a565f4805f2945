"""MDLM's and ReMDM's `diffusion.Diffusion` as a `Denoiser` (kuleshov-group/mdlm, kuleshov-group/remdm), and their
published weights, and those of ProSeCo (kuleshov-group/proseco), as transformers loads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Embedding, Output, rows_of, share_masked
from prism_plugin.models.hooked import HookedDenoiser, base_model, captured
from prism_plugin.models.remote import load


class DiTDenoiser(HookedDenoiser):
    """A network of MDLM's shape, ``output_layer(x, c)`` behind blocks that are told the time; Duo, GIDD and SCDD have
    one too. Hidden states are those that enter the layer, before its norm, with the time vector ``c``.
    """

    hidden_at = "pre_norm"
    gives = frozenset({"second_forward", "probe"})
    wants = "output_layer(x, c) was not found"

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
        """See ``HookedDenoiser.longest``."""
        return getattr(getattr(self.host, "config", None), "model_length", 0)

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
        rows, which = rows_of(index)
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

    def _named_mask_id(self) -> int:
        return self.vocab_size - 1


class MDLMDenoiser(DiTDenoiser):
    """The host's `diffusion.Diffusion` with whatever weights it holds now (in `_sample` it has put its EMA in place),
    or a published model of the family, remote code of transformers (kuleshov-group/mdlm-owt, the ProSeCo models).

    mask_id of a published model: the last row of the vocabulary where it is not given.
    Raises ConfigError, naming both sides, for a host that PRISM cannot sample from.
    """

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

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        return config["model_type"] in ("mdlm", "proseco")

    @staticmethod
    def known_mask(config: dict[str, Any]) -> int | None:
        """The last symbol, as in the host."""
        return config["vocab_size"] - 1

    from_pretrained = staticmethod(load)

    def time_of(self, tokens: Tensor, level: Tensor | None = None) -> Tensor:
        """sigma (B,): of the realised share of masks, since a remask turns time back; 0 where the host takes none."""
        if not self.time_conditioning:
            return torch.zeros(tokens.shape[0], device=tokens.device)
        share = share_masked(tokens, self.mask_id, None)
        return -torch.log1p(-0.999 * share) if self.schedule is None else self.schedule.total_noise(share)


def _is_diffusion(model: Any) -> bool:
    return all(hasattr(model, name) for name in ("backbone", "noise", "mask_index", "parameterization"))


def net_of(model: Any) -> Any:
    """The module that holds `output_layer`: the model, or what the published one is wrapped around."""
    return model if hasattr(model, "output_layer") else getattr(model, "backbone", None)


def check_host(diffusion: Any) -> None:
    """Refuse what PRISM cannot work with, before anything is sampled; each message names the host's key."""
    config = diffusion.config
    if config.parameterization != "subs":
        raise ConfigError(
            f"parameterization={config.parameterization} clashes with +prism: PRISM samples from the posterior that "
            "parameterization=subs gives."
        )
    if config.backbone not in ("dit", "hf_dit"):
        raise ConfigError(
            f"backbone={config.backbone} clashes with +prism: hidden states are read from backbone=dit or hf_dit."
        )
    if config.noise.type != "loglinear":
        raise ConfigError(f"noise={config.noise.type} clashes with +prism: the schedules assume noise=loglinear.")
    if config.sampling.semi_ar:
        raise ConfigError("sampling.semi_ar=True clashes with +prism: it bypasses the sampler that PRISM replaces.")
    if config.sampling.get("dfm", False):
        raise ConfigError("sampling.dfm=True clashes with +prism: both replace the host's sampler; turn one off.")
    for key, own in (("predictor", "ddpm_cache"), ("sampler", "mdlm")):
        asked = config.sampling.get(key, own)
        if asked != own:
            raise ConfigError(f"sampling.{key}={asked} clashes with +prism: both choose the sampler; leave out one.")
