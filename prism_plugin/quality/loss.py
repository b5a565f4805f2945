"""What a masked diffusion model and its quality head are trained on.

Every random number is a function of (seed, number of the text), so a loss does not depend on the batch a text
came in, nor on how many processes share the work.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import ConfigError, unknown

TIME_EPS = 1e-3
_GOLDEN = 0.6180339887498949
NORMALISERS = {"quality_over": "revealed tokens of the batch", "mdm_over": "all positions of the batch"}
"""What the two terms are averaged over: without it mdm_weight means nothing, so it is saved with every head."""

TIME, CONTEXT = 16, 17  # Philox streams of training, away from the sampler's


@dataclass
class QualityConfig:
    """How the PRISM loss makes its labels.

    fills: ``fresh`` judges a fill in the context it was drawn in (as published); ``stale`` shows more true tokens
    in between, as happens in sampling. k: tokens filled and judged a text. mdm_weight is lambda of the paper: BCE is
    averaged over the revealed tokens of the batch, cross-entropy / t over all its positions.
    """

    fills: str = "stale"
    k: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    mdm_weight: float = 5.0
    tune_backbone: bool = True

    def __post_init__(self) -> None:
        if self.fills not in ("fresh", "stale"):
            raise unknown("quality.fills", self.fills, ("fresh", "stale"))
        if self.k < 1:
            raise ConfigError(f"quality.k = {self.k}: allowed k >= 1 revealed tokens a text.")
        if not self.temperature >= 0:
            raise ConfigError(f"quality.temperature = {self.temperature}: allowed temperature >= 0 (0 is argmax).")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"quality.top_p = {self.top_p}: allowed 0 < top_p <= 1.")
        if not self.mdm_weight >= 0:
            raise ConfigError(f"quality.mdm_weight = {self.mdm_weight}: allowed mdm_weight >= 0.")


def noise_level(seed: int, number: Tensor) -> Tensor:
    """Share of masks t in [eps, 1], (B,) f32: a golden-ratio sequence over the texts' numbers, evenly spread."""
    t = (number.double() * _GOLDEN + (seed % 9973) / 9973) % 1.0
    return (TIME_EPS + (1 - TIME_EPS) * t).float()


def ranks(seed: int, number: Tensor, length: int, stream: int) -> Tensor:
    """A uniform number for every position of every text, (B, L) float64."""
    position = torch.arange(length, device=number.device)
    return ops.uniform(seed, number[:, None], position, torch.zeros_like(position), stream)


def mdm_loss(logits: Tensor, x: Tensor, t: Tensor, positions: int) -> Tensor:
    """Cross-entropy at masked positions weighted by 1 / t, over all positions (MDLM, arXiv 2406.07524).

    logits (N, V), x (N,) int64 and t (N,) of the masked positions; ``positions`` in all, B L. Returns a scalar.
    """
    return (F.cross_entropy(logits, x, reduction="none") / t).sum() / positions


@dataclass
class Sample:
    """One training sample of the PRISM loss, (B, L) each but t (B,).

    context: the text that fills are drawn in. masked: its masks. later: masks of the text that the head sees.
    chosen: the positions that are filled in between.
    """

    context: Tensor
    masked: Tensor
    t: Tensor
    later: Tensor
    chosen: Tensor


def draw_sample(
    x: Tensor, number: Tensor, mask_id: int, seed: int, config: QualityConfig, maskable: Tensor | None = None
) -> Sample:
    """Choose what is masked when the fill is drawn, which positions are filled, and what is masked when it is judged.

    Positions masked in the later context are among those masked in the earlier one. Neither looks at x. A text with
    fewer than k masks has all of them filled, one with none has none. maskable (B, L) bool: positions that may be
    masked, all by default.
    """
    u = ranks(seed, number, x.shape[1], CONTEXT)
    if maskable is not None:
        u = u.masked_fill(~maskable, 2.0)
    t = noise_level(seed, number)
    masked = u < t[:, None]
    later = masked
    if config.fills == "stale":
        shrink = ops.uniform(seed, number, torch.zeros_like(number), torch.zeros_like(number), TIME)
        later = u < t[:, None] * shrink[:, None]
    order = ranks(seed, number, x.shape[1], ops.ORDER)
    chosen = ops.select_lowest(order, masked, torch.full_like(number, config.k))
    return Sample(x.masked_fill(masked, mask_id), masked, t, later & ~chosen, chosen)


def reveal(sample: Sample, x: Tensor, index: Tensor, drawn: Tensor, mask_id: int) -> Tensor:
    """The text that the head sees, y (B, L) int64: ``drawn`` (N,) at the flat positions ``index`` of ``chosen``."""
    return x.masked_fill(sample.later, mask_id).flatten().index_copy(0, index, drawn).view_as(x)


def quality_loss(scores: Tensor, y: Tensor, x: Tensor, chosen: Tensor) -> Tensor:
    """Binary cross-entropy of head logits (B, L) at revealed tokens against 'it is the true one' (arXiv 2510.01384).

    The mean over the revealed tokens of the batch; 0 where there is none.
    """
    labels = (x == y)[chosen].to(scores.dtype)
    return F.binary_cross_entropy_with_logits(scores[chosen], labels, reduction="sum") / max(labels.numel(), 1)
