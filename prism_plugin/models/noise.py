"""The noise that a model undoes: what stands in a token's place, and what a noisy token was a moment before."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """At the level alpha (1: clean, 0: nothing is known, what ``alpha`` of a sampler plans) a token is kept or gives
    way to the mask or to a symbol drawn evenly.

    uniform: the symbols' share of the noise (0: masked diffusion). absorbing: a mask stays one as noise grows, so that
    on the way back no visible token turns into a mask. tilted: the model's logits leave out what the visible token says
    of itself, as those do that were trained by a bound that multiplies it in (Duo, GIDD, SCDD); a model trained by the
    cross-entropy of all tokens, as ours, has it in them.
    """

    uniform: float = 0.0
    absorbing: bool = False
    tilted: bool = False

    def shares(self, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chances (N,) float64 of a token to be kept, masked, and to give way to a symbol; they sum to 1."""
        return alpha, (1 - alpha) * (1 - self.uniform), (1 - alpha) * self.uniform

    def before(self, masked: Tensor, right: Tensor, symbols: int, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """q(x_s | x_t, x_0) as weights (4, N) float64: x_s is x_0, is x_t, is a symbol drawn evenly, is the mask.

        masked, right (N,) bool: x_t is the mask, is x_0; symbols: how many there are; alpha_s >= alpha_t (N,).
        By Bayes' rule, q(x_t | x_s) q(x_s | x_0), from the chances at s and t alone (D3PM, arXiv 2107.03006).
        """
        (kept_t, masks_t, even_t), (kept_s, masks_s, even_s) = self.shares(alpha_t), self.shares(alpha_s)
        keep = kept_t / kept_s
        if self.absorbing:
            visible = (kept_t + even_t) / (kept_s + even_s)
            of_symbol = torch.where(masked, 1 - visible, (visible - keep) / symbols)
            of_mask = torch.where(masked, 1 - keep, 0.0)
        else:
            of_symbol = torch.where(masked, masks_t - keep * masks_s, (even_t - keep * even_s) / symbols)
            of_mask = of_symbol
        here = torch.where(masked, masks_s, even_s / symbols)
        return torch.stack([kept_s * (of_symbol + keep * right), keep * here, of_symbol * even_s, of_mask * masks_s])

    def itself(self, prob: Tensor | None, masked: Tensor, symbols: int, alpha_t: Tensor) -> Tensor:
        """(N,) float64: the chance that x_0 is x_t for what x_t says of itself, else it is as the logits say.

        prob (N,): what the logits give x_t, None where they are not ``tilted``. q(x_t | x_0) is larger for x_0 = x_t by
        a factor c, so that P(x_0) ~ p(x_0) c^[x_0 = x_t] is p with probability 1 / (1 + (c - 1) p(x_t)), else x_t.
        """
        if prob is None:
            return torch.zeros_like(alpha_t)
        kept, _, even = self.shares(alpha_t)
        says = kept * symbols * prob.double()
        return (says / (says + even)).nan_to_num(nan=0.0).masked_fill(masked, 0.0)


MASKS = Noise()
"""Masked diffusion."""


def pick(weights: Tensor, u: Tensor, x0: Tensor, now: Tensor, fresh: Tensor, mask_id: int) -> Tensor:
    """One of the four tokens (N,) that ``Noise.before`` weighs, by uniform numbers u (N,)."""
    reached = weights.clamp(min=0).cumsum(dim=0)
    which = (u * reached[-1] >= reached).sum(dim=0).clamp(max=3)
    return torch.stack([x0, now, fresh, torch.full_like(now, mask_id)]).gather(0, which[None])[0]


@dataclass(frozen=True)
class Peaked(Noise):
    """GIDD's and SCDD's noise (arXiv 2503.04482, 2603.02230): symbols come and go, masks take all.

    At t = 1 - alpha a token is kept by (1 - t) / C, masked by t / C and a symbol by c / C with C = 1 + c,
    c = B t^(gamma peak) (1 - t)^(gamma (1 - peak)); ``uniform`` is the symbols' share of all tokens at t = ``peak``.
    """

    gamma: float = 1.0
    peak: float = 0.5

    def shares(self, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Noise.shares``."""
        up, down = self.gamma * self.peak, self.gamma * (1 - self.peak)
        most = self.uniform / (1 - self.uniform) / (self.peak**up * (1 - self.peak) ** down)
        c = most * (1 - alpha) ** up * alpha**down
        return alpha / (1 + c), (1 - alpha) / (1 + c), c / (1 + c)
