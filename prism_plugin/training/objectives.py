"""What a step of training computes: modules that map numbered texts to a loss, for the HF Trainer to drive."""

import torch
from torch import Tensor, nn

from .. import ops
from ..denoiser import Denoiser, Output
from ..quality import loss as losses


def _logits(denoiser: Denoiser, output: Output, where: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the positions that are true in ``where`` (B, L), and their flat indices (N,)."""
    index = where.flatten().nonzero().squeeze(1)
    values, rows = denoiser.project(output, index)
    return values[rows], index


class MDMObjective(nn.Module):
    """The loss of a masked diffusion model (MDLM)."""

    def __init__(self, denoiser: Denoiser, seed: int) -> None:
        super().__init__()
        self.denoiser, self.seed = denoiser, seed

    def forward(self, tokens: Tensor, number: Tensor) -> dict[str, Tensor]:
        """tokens (B, L) int64 clean texts, number (B,) int64 -> the terms of the loss, ``loss`` their sum."""
        t = losses.noise_level(self.seed, number)
        masked = losses.ranks(self.seed, number, tokens.shape[1], losses.CONTEXT) < t[:, None]
        output = self.denoiser(tokens.masked_fill(masked, self.denoiser.mask_id))
        logits, index = _logits(self.denoiser, output, masked)
        level = t[index // tokens.shape[1]]
        return {"loss": losses.mdm_loss(logits, tokens.flatten()[index], level, tokens.numel())}


class QualityObjective(nn.Module):
    """The PRISM loss: BCE of the head on revealed tokens, plus lambda times the loss of the model itself.

    maskable (B, L) bool in ``forward`` keeps prompts and padding out; they are neither masked nor judged.
    """

    def __init__(self, denoiser: Denoiser, seed: int, config: losses.QualityConfig) -> None:
        super().__init__()
        self.denoiser, self.seed, self.settings = denoiser, seed, config
        if not config.tune_backbone:
            denoiser.requires_grad_(False)
            denoiser.head.requires_grad_(True)

    def forward(self, tokens: Tensor, number: Tensor, maskable: Tensor | None = None) -> dict[str, Tensor]:
        """As ``MDMObjective.forward``, with the terms ``quality`` and ``mdm``; in eval mode also the revealed tokens'
        ``scores`` (N,) and whether each is right, ``labels`` (N,).
        """
        denoiser, config, length = self.denoiser, self.settings, tokens.shape[1]
        sample = losses.draw_sample(tokens, number, denoiser.mask_id, self.seed, config, maskable)
        with torch.set_grad_enabled(config.tune_backbone and torch.is_grad_enabled()):
            output = denoiser(sample.context)
            logits, index = _logits(denoiser, output, sample.masked if config.tune_backbone else sample.chosen)
        rows = sample.chosen.flatten()[index].nonzero().squeeze(1)
        revealed = index[rows]
        drawn = ops.sample_rows(
            logits.detach(), rows, number[revealed // length], revealed % length, torch.zeros_like(rows),
            seed=self.seed, temperature=config.temperature, top_p=config.top_p,
        )  # fmt: skip
        y = losses.reveal(sample, tokens, revealed, drawn.token, denoiser.mask_id)
        output = denoiser(y)
        scores = denoiser.head(output.hidden, output.time).float()
        quality = losses.quality_loss(scores, y, tokens, sample.chosen)
        terms = {"loss": quality, "quality": quality.detach()}
        if config.tune_backbone:
            mdm = losses.mdm_loss(logits, tokens.flatten()[index], sample.t[index // length], tokens.numel())
            terms |= {"loss": quality + config.mdm_weight * mdm, "mdm": mdm.detach()}
        if not self.training:
            terms |= {"scores": scores[sample.chosen], "labels": (y == tokens)[sample.chosen]}
        return terms
