"""MDLM's and ReMDM's `diffusion.Diffusion` as a `Denoiser` (kuleshov-group/mdlm, kuleshov-group/remdm)."""

from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import Denoiser, Embedding, Output, share_masked


class MDLMDenoiser(Denoiser):
    """The host's DiT with whatever weights it holds now: in `_sample` the host has put its EMA in place.

    Hidden states are those that enter `backbone.output_layer`, before its norm, with the time vector `c`.
    Raises ConfigError, naming both sides, for a host that PRISM cannot sample from.
    """

    hidden_at = "pre_norm"
    gives = frozenset({"second_forward", "probe"})

    @staticmethod
    def matches(model: object) -> bool:
        """Whether ``enable`` may take a model for the host's `Diffusion`."""
        return all(hasattr(model, name) for name in ("backbone", "noise", "mask_index", "parameterization"))

    def __init__(self, diffusion: Any) -> None:
        super().__init__()
        check_host(diffusion)
        self.backbone: Any = diffusion.backbone
        self.noise: Any = diffusion.noise
        self.vocab_size, self.mask_id = diffusion.vocab_size, diffusion.mask_index
        self.hidden_size = diffusion.config.model.hidden_size
        self.cond_size = diffusion.config.model.cond_dim
        self.max_length = diffusion.config.model.length
        self.time_conditioning = diffusion.time_conditioning

    def train(self, mode: bool = True) -> "MDLMDenoiser":
        """Only a head is trained: the host's dropout stays off."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        """tokens (B, L) int64. The host's attention takes no padding: ConfigError where some is given."""
        if padding is not None and not padding.all():
            raise ConfigError("padding: the host's DiT attends to every position; give rows of one length.")
        sigma = torch.zeros(tokens.shape[0], device=tokens.device)
        if self.time_conditioning:
            sigma = self.noise.total_noise(share_masked(tokens, self.mask_id, None))
        seen: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            seen.extend(inputs)
            return inputs[0][:, :0], inputs[1]  # no row reaches the output layer: project() makes those asked for

        handle = self.backbone.output_layer.register_forward_pre_hook(keep)
        try:
            self.backbone(tokens, sigma)
        finally:
            handle.remove()
        hidden, time = seen
        return Output(hidden, time)

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """Raw logits of the rows in ``index`` (N,), the mask's at -inf: (N, V) f32, in the host's own precision."""
        hidden, time = output.hidden, output.time
        assert time is not None  # forward() always gives it
        rows = index.clamp(min=0)
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=hidden.is_cuda):  # as DIT.forward does
            logits = self.backbone.output_layer(hidden.flatten(0, 1)[rows][:, None], time[rows // hidden.shape[1]])
        mask = torch.tensor([self.mask_id], device=logits.device)
        logits = logits[:, 0].float().index_fill(1, mask, -torch.inf)
        return logits, torch.arange(len(index), device=index.device).masked_fill(index < 0, -1)

    def output_embedding(self) -> Embedding:
        """See ``Denoiser.output_embedding``: behind the norm of the output layer; bf16 on CUDA, as the host has it."""
        linear = self.backbone.output_layer.linear
        weight, bias = linear.weight, linear.bias
        if weight.is_cuda:
            weight, bias = weight.bfloat16(), bias.bfloat16()

        def rows(output: Output, index: Tensor) -> Tensor:
            seen: list[Tensor] = []

            def keep(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
                seen.append(inputs[0])
                return (inputs[0][:0],)

            handle = linear.register_forward_pre_hook(keep)
            try:
                time = output.time[index // output.hidden.shape[1]]  # type: ignore[index]  # forward() always gives it
                self.backbone.output_layer(output.hidden.flatten(0, 1)[index][:, None], time)
            finally:
                handle.remove()
            return seen[0][:, 0].to(weight.dtype)

        return Embedding(rows, weight, bias, never=torch.tensor([self.mask_id], device=weight.device))


def check_host(diffusion: Any) -> None:
    """Refuse what PRISM cannot work with, before anything is sampled; each message names the host's key."""
    config = diffusion.config
    if config.parameterization != "subs":
        raise ConfigError(
            f"parameterization={config.parameterization} clashes with +prism: PRISM samples from the posterior that "
            "parameterization=subs gives."
        )
    if config.backbone != "dit":
        raise ConfigError(f"backbone={config.backbone} clashes with +prism: hidden states are read from backbone=dit.")
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
