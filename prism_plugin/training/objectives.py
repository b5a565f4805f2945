"""What a step of training computes: modules that map numbered texts to a loss, for the HF Trainer to drive."""

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..model import PrismModel
from ..quality import loss as losses


class MDMObjective(nn.Module):
    """The loss of a masked diffusion model (MDLM)."""

    def __init__(self, model: PrismModel, seed: int) -> None:
        super().__init__()
        self.model, self.seed = model, seed

    def forward(self, tokens: Tensor, number: Tensor) -> dict[str, Tensor]:
        """tokens (B, L) int64 clean texts, number (B,) int64 -> the terms of the loss, ``loss`` their sum."""
        t = losses.noise_level(self.seed, number)
        masked = losses.ranks(self.seed, number, tokens.shape[1], losses.CONTEXT) < t[:, None]
        hidden, time, _ = self.model(tokens.masked_fill(masked, self.model.mask_id))
        return {"loss": losses.mdm_loss(self.model.backbone.logits(hidden, time), tokens, masked, t)}


class QualityObjective(nn.Module):
    """The PRISM loss: BCE of the head on revealed tokens, plus lambda times the loss of the model itself.

    ``model`` is any Denoiser with a ``backbone`` and a fresh ``head``: ours, or a host's.
    """

    def __init__(self, model: Denoiser, seed: int, config: losses.QualityConfig) -> None:
        super().__init__()
        self.model, self.seed, self.settings = model, seed, config
        model.backbone.requires_grad_(config.tune_backbone)

    def forward(self, tokens: Tensor, number: Tensor) -> dict[str, Tensor]:
        """As ``MDMObjective.forward``, with the terms ``quality`` and ``mdm``."""
        model, config = self.model, self.settings
        sample = losses.draw_sample(tokens, number, model.mask_id, self.seed, config)
        with torch.set_grad_enabled(config.tune_backbone):
            output = model(sample.context)
            every = torch.arange(tokens.numel(), device=tokens.device)
            logits = model.project(output, every)[0].unflatten(0, tokens.shape)
            y = losses.reveal(sample, tokens, logits, number, model.mask_id, self.seed, config)
            hidden, time, *_ = model(y)
        scores = model.head(hidden, time).float()
        quality = losses.quality_loss(scores, y, tokens, sample.chosen)
        terms = {"loss": quality, "quality": quality.detach()}
        if config.tune_backbone:
            mdm = losses.mdm_loss(logits, tokens, sample.masked, sample.t)
            terms |= {"loss": quality + config.mdm_weight * mdm, "mdm": mdm.detach()}
        if not self.training:
            terms |= {"scores": scores[sample.chosen], "labels": (y == tokens)[sample.chosen]}
        return terms
