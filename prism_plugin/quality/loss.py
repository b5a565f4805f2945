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
from ..models.denoiser import Denoiser

TIME_EPS = 1e-3
_GOLDEN = 0.6180339887498949

TIME, CONTEXT, NOISE = 16, 17, 24  # Philox streams of training, away from the sampler's
WRONG, SMOOTH = 0.1, 0.05
"""RemeDi's: the largest share of visible tokens that are wrong, at t = 1/2, and by how much its labels are smoothed."""

WORDS = {
    "objective": ("prism", "critic", "remedi", "cavity"),
    "labels": ("truth", "posterior"),
    "fills": ("fresh", "stale"),
    "positions": ("random", "confidence", "semi_autoregressive"),
    "quality_over": ("revealed", "slots", "positions"),
    "mdm_over": ("positions", "window"),
}


@dataclass
class QualityConfig:
    """How the PRISM loss makes its labels, and what its terms are averaged over; docs/loss.md says what each does.

    objective: ``prism``, or ``critic``: every mask is filled and judged, weighted by 1 / t (Token-Critic,
    arXiv 2209.04439, as PRISM's release has it), or ``remedi``: the text itself is shown with wrong tokens among the
    true ones, and masks are judged too (arXiv 2509.23653); of the words below it takes ``mdm_weight`` only; or
    ``cavity``: the head learns what the frozen model itself says of a visible token that is hidden from it, on states
    of the sampler; of the words below it takes ``groups`` only.
    groups: of the tokens hidden at once for a cavity target, a forward pass each. reuse: steps for each batch of such
    states, which cost more than a step on them. labels: ``posterior`` in place of
    ``truth``: what the model says of the fill where it is hidden among what is shown (at the price of a pass).
    fills: ``fresh`` judges a fill in the context it was drawn in (published); ``stale`` shows more true tokens in
    between, as happens in sampling.
    k: tokens filled and judged a text (published: 4 for Sudoku, 8 for text and code; 1 alone has g* as its minimiser).
    fills_per_text: fills of one context, which share its forward pass (published: 1, for text 4).
    positions: which masks are filled: ``random`` (published for Sudoku and text), those of the most confident fills
    (``confidence``), or those among the leftmost ``window`` masks (``semi_autoregressive``; published for code, 512).
    temperature, top_p: of the fills (published: 1 and 1, for text top_p .9, for code temperature 0).
    reweight: judged tokens weigh 1 / (1 - t) (in the release, off).
    quality_over: the BCE is averaged over the ``revealed`` tokens of the batch (published for Sudoku and text), over
    B k ``slots`` (code), or over all B L ``positions`` (with ``reweight`` and for the critic, as in the release).
    mdm_over: the cross-entropy / t over B L ``positions`` (Sudoku, text) or B ``window`` (code). mdm_weight: lambda
    (published: 5 for Sudoku, .5 for text and code).
    """

    objective: str = "prism"
    groups: int = 4
    reuse: int = 8
    labels: str = "truth"
    fills: str = "stale"
    k: int = 4
    fills_per_text: int = 1
    positions: str = "random"
    window: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    reweight: bool = False
    quality_over: str = "revealed"
    mdm_over: str = "positions"
    mdm_weight: float = 5.0

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                raise unknown(f"quality.{name}", getattr(self, name), words)
        for name in ("k", "fills_per_text", "window", "groups", "reuse"):
            if getattr(self, name) < 1:
                raise ConfigError(f"quality.{name} = {getattr(self, name)}: allowed {name} >= 1.")
        if not self.temperature >= 0:
            raise ConfigError(f"quality.temperature = {self.temperature}: allowed temperature >= 0 (0 is argmax).")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"quality.top_p = {self.top_p}: allowed 0 < top_p <= 1.")
        if not self.mdm_weight >= 0:
            raise ConfigError(f"quality.mdm_weight = {self.mdm_weight}: allowed mdm_weight >= 0.")


@dataclass
class CorrectorConfig:
    """A second term for the model itself: it is shown its own fills as text, and told the true tokens.

    weight: of the term, 0 is none (ProSeCo, arXiv 2602.11590: 1 beside a weight of 1 for the masks). over: all
    ``positions`` (ProSeCo), or those ``filled`` (self-generated token-to-token editing, arXiv 2606.17175). reweight:
    1 / t, as the masks have (ProSeCo). upweight: where the fill is right, minus the probability in place of its
    logarithm, so that errors weigh more (ProSeCo on text).
    """

    weight: float = 0.0
    over: str = "positions"
    reweight: bool = True
    upweight: bool = False

    def __post_init__(self) -> None:
        if self.over not in ("positions", "filled"):
            raise unknown("corrector.over", self.over, ("positions", "filled"))
        if not self.weight >= 0:
            raise ConfigError(f"corrector.weight = {self.weight}: allowed weight >= 0 (0 is no such term).")


def noise_level(seed: int, number: Tensor) -> Tensor:
    """Share of masks t in [eps, 1], (B,) f32: a golden-ratio sequence over the texts' numbers, evenly spread."""
    t = (number.double() * _GOLDEN + (seed % 9973) / 9973) % 1.0
    return (TIME_EPS + (1 - TIME_EPS) * t).float()


def ranks(seed: int, number: Tensor, length: int, stream: int) -> Tensor:
    """A uniform number for every position of every text, (B, L) float64."""
    position = torch.arange(length, device=number.device)
    return ops.uniform(seed, number[:, None], position, torch.zeros_like(position), stream)


def noised(x: Tensor, number: Tensor, seed: int, denoiser: Denoiser, where: Tensor | None = None) -> Tensor:
    """Texts (B, L) with the model's own noise of the level t = ``noise_level`` in place of some tokens.

    where (B, L) bool: tokens that it may take, all by default.
    """
    kept, masks, even = denoiser.noise.shares(1 - noise_level(seed, number).double())
    taken = ranks(seed, number, x.shape[1], CONTEXT) < (1 - kept)[:, None]
    masked = ranks(seed, number, x.shape[1], NOISE + 1) * (masks + even)[:, None] >= even[:, None]
    noise = any_symbol(x, number, seed, denoiser).masked_fill(masked, denoiser.mask_id)
    return torch.where(taken if where is None else taken & where, noise, x)


def any_symbol(x: Tensor, number: Tensor, seed: int, denoiser: Denoiser, stream: int = NOISE) -> Tensor:
    """A symbol for every position, drawn evenly, never the mask, (B, L) int64."""
    symbol = (ranks(seed, number, x.shape[1], stream) * (denoiser.vocab_size - 1)).long()
    return symbol + (symbol >= denoiser.mask_id)


def mdm_loss(logits: Tensor, x: Tensor, t: Tensor, over: int) -> Tensor:
    """Cross-entropy at masked positions weighted by 1 / t (MDLM, arXiv 2406.07524).

    logits (N, V), x (N,) int64 and t (N,) of the masked positions; ``over``: what the sum is divided by, B L for the
    mean over all positions. Returns a scalar.
    """
    return (F.cross_entropy(logits, x, reduction="none") / t).sum() / over


def corrector_loss(logits: Tensor, x: Tensor, draft: Tensor, t: Tensor, over: int, upweight: bool) -> Tensor:
    """Cross-entropy / t of the true tokens where a draft is read as text (ProSeCo, arXiv 2602.11590 and its
    ``diffusion.py``); with ``upweight``, minus the probability where the draft is right.

    logits (N, V), x, draft (N,) int64, t (N,). Returns a scalar, the sum divided by ``over``.
    """
    terms = F.cross_entropy(logits, x, reduction="none")
    if upweight:
        terms = torch.where(draft == x, -(-terms).exp(), terms)
    return (terms / t).sum() / over


@dataclass
class Sample:
    """Training samples of the PRISM loss: B contexts (B, L) and n = ``fills_per_text`` ways to go on from each.

    context: the text that fills are drawn in. masked: its masks. t (B,). later (n B, L): what is still masked, of
    what is not filled, in the text that the head sees. chosen (n B, L): the positions that are filled in between, or
    of which the k most confident are.
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

    Positions masked in the later context are among those masked in the earlier one. Nothing looks at x. A text with
    fewer than k masks has all of them filled, one with none has none. maskable (B, L) bool: positions that may be
    masked, all by default: prompts and padding are kept out by it.
    """
    u = ranks(seed, number, x.shape[1], CONTEXT)
    if maskable is not None:
        u = u.masked_fill(~maskable, 2.0)
    t = noise_level(seed, number)
    masked = u < t[:, None]
    context = x.masked_fill(masked, mask_id)
    copies = config.fills_per_text
    copy = torch.arange(copies, device=x.device).repeat_interleave(len(x))
    number, u, mask = number.repeat(copies), u.repeat(copies, 1), masked.repeat(copies, 1)
    if config.objective == "critic":
        return Sample(context, masked, t, torch.zeros_like(mask), mask)
    later, zero = mask, torch.zeros_like(number)
    if config.fills == "stale":
        later = u < (t.repeat(copies) * ops.uniform(seed, number, zero, copy, TIME))[:, None]
    if config.positions == "random":
        place = torch.arange(x.shape[1], device=x.device)
        order = ops.uniform(seed, number[:, None], place, copy[:, None], ops.ORDER)
        chosen = ops.select_lowest(order, mask, torch.full_like(number, config.k))
    else:
        window = config.window if config.positions == "semi_autoregressive" else x.shape[1]
        chosen = mask & (mask.cumsum(1) <= window)
    return Sample(context, masked, t, later, chosen)


def reveal(sample: Sample, x: Tensor, index: Tensor, drawn: Tensor, mask_id: int) -> Tensor:
    """The texts that the head sees, y (n B, L) int64: ``drawn`` (N,) at the flat positions ``index`` of ``chosen``."""
    y = x.repeat(len(sample.later) // len(x), 1)
    return y.masked_fill(sample.later & ~sample.chosen, mask_id).flatten().index_copy(0, index, drawn).view_as(y)


def quality_loss(
    scores: Tensor, right: Tensor, chosen: Tensor, weight: Tensor | None = None, over: int | None = None
) -> Tensor:
    """Binary cross-entropy of head logits (B, L) at revealed tokens against ``right`` (B, L): whether the token is the
    true one (arXiv 2510.01384), or how likely that is.

    The sum, each text weighted by ``weight`` (B,), divided by ``over``: by default the mean over the revealed tokens
    of the batch; 0 where there is none.
    """
    labels = right[chosen].to(scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores[chosen], labels, reduction="none")
    if weight is not None:
        losses = losses * weight[:, None].expand_as(scores)[chosen]
    return losses.sum() / max(labels.numel() if over is None else over, 1)


def cavity_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Huber loss of log g, of head logits (N,), against log probabilities (N,): its mean, in nats.

    A target is a number and no draw, so that any loss with its minimum at equality will do; this one weighs a factor of
    two alike wherever it stands, as evidence does, and a far one not by its square.
    """
    return F.huber_loss(F.logsigmoid(scores), target) if len(target) else scores.sum()
