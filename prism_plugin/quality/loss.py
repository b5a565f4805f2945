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
TIME, CONTEXT = 16, 17  # Philox streams of training, away from the sampler's


@dataclass
class QualityConfig:
    """How the PRISM loss makes its labels.

    fills: ``fresh`` judges a fill in the context it was drawn in (as published); ``stale`` shows more true tokens
    in between, as happens in sampling. mdm_weight is lambda of the paper: BCE is averaged over revealed tokens,
    cross-entropy / t over all positions of the batch.
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


def noise_level(seed: int, number: Tensor) -> Tensor:
    """Share of masks t in [eps, 1], (B,) f32: a golden-ratio sequence over the texts' numbers, evenly spread."""
    t = (number.double() * _GOLDEN + (seed % 9973) / 9973) % 1.0
    return (TIME_EPS + (1 - TIME_EPS) * t).float()


def ranks(seed: int, number: Tensor, length: int, stream: int) -> Tensor:
    """A uniform number for every position of every text, (B, L) float64."""
    position = torch.arange(length, device=number.device)
    return ops.uniform(seed, number[:, None], position, torch.zeros_like(position), stream)


def mdm_loss(logits: Tensor, x: Tensor, masked: Tensor, t: Tensor) -> Tensor:
    """Cross-entropy at masked positions weighted by 1 / t, over all positions (MDLM, arXiv 2406.07524, eq. 8).

    logits (B, L, V), x (B, L) int64, masked (B, L) bool, t (B,). Returns a scalar.
    """
    entropy = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view_as(x)
    return (entropy * masked / t[:, None]).sum() / x.numel()


@dataclass
class Sample:
    """One training sample of the PRISM loss.

    context (B, L): what the fills are drawn in, with its mask and t; y (B, L): what the head sees; revealed (B, L).
    """

    context: Tensor
    masked: Tensor
    t: Tensor
    later: Tensor
    chosen: Tensor


def draw_sample(x: Tensor, number: Tensor, mask_id: int, seed: int, config: QualityConfig) -> Sample:
    """Choose what is masked when the fill is drawn, which positions are filled, and what is masked when it is judged.

    Positions masked in the later context are among those masked in the earlier one. Neither looks at x.
    """
    u = ranks(seed, number, x.shape[1], CONTEXT)
    t = noise_level(seed, number)
    masked = u < t[:, None]
    masked |= u == u.amin(dim=1, keepdim=True)  # at least one, or there is nothing to learn from
    later = masked
    if config.fills == "stale":
        shrink = ops.uniform(seed, number, torch.zeros_like(number), torch.zeros_like(number), TIME)
        later = u < t[:, None] * shrink[:, None]
    order = ranks(seed, number, x.shape[1], ops.ORDER)
    chosen = ops.select_lowest(order, masked, torch.full_like(number, config.k))
    return Sample(x.masked_fill(masked, mask_id), masked, t, later & ~chosen, chosen)


def reveal(sample: Sample, x: Tensor, logits: Tensor, number: Tensor, mask_id: int, seed: int, config: QualityConfig) -> Tensor:
    """Fill the chosen positions from the posterior of the earlier context: y, (B, L) int64. No gradient."""
    rows = sample.chosen.flatten().nonzero().squeeze(1)
    request, position = number[rows // x.shape[1]], rows % x.shape[1]
    drawn = ops.sample_rows(
        logits.detach().flatten(0, 1), rows, request, position, torch.zeros_like(rows),
        seed=seed, temperature=config.temperature, top_p=config.top_p,
    )  # fmt: skip
    y = x.masked_fill(sample.later, mask_id)
    return y.flatten().index_copy(0, rows, drawn.token).view_as(x)


def quality_loss(scores: Tensor, y: Tensor, x: Tensor, chosen: Tensor) -> Tensor:
    """Binary cross-entropy of head logits (B, L) at revealed tokens against 'it is the true one' (arXiv 2510.01384)."""
    return F.binary_cross_entropy_with_logits(scores[chosen], (x == y)[chosen].to(scores.dtype))
