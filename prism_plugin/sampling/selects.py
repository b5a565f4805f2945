"""How many to revise and which first: scores (B, L) -> keys (B, L), lowest first, and counts (B,).

A pattern comes before: it gives positions that are to be revised together the same score.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..options import option
from .parts import patterns, selects
from .schedules import Eta, factor, planned, remask_bound, sigma
from .state import State


@patterns("single")
def single(scores: Tensor, state: State) -> Tensor:
    """Every token on its own."""
    return scores


@dataclass
class Together:
    """Of patterns."""

    pattern_size: int = option(3, "positions that are taken together", low=1)


@patterns("neighbours")
def neighbours(scores: Tensor, state: State, options: Together) -> Tensor:
    """Each has the lowest score of ``pattern_size`` positions around it: the worst go with those beside them."""
    size = options.pattern_size
    around = torch.nn.functional.pad(scores, (size // 2, (size - 1) // 2), value=torch.inf)
    return around.unfold(1, size, 1).amin(dim=-1)


@patterns("spans")
def spans(scores: Tensor, state: State, options: Together) -> Tensor:
    """Each has the mean score of its span, ``pattern_size`` positions of the text from its first on."""
    size, length = options.pattern_size, scores.shape[1]
    span = torch.arange(length, device=scores.device) // size
    empty = scores.new_zeros(len(scores), length // size + 1)
    total = empty.index_add(1, span, scores.masked_fill(~state.open, 0.0))
    return (total / empty.index_add(1, span, state.open.to(scores.dtype)))[:, span]


@dataclass
class Number:
    """Of selects that count."""

    num_remask: int = option(4, "tokens revised a step (fixed, drawn, at first: staged) or a block (centred)", low=0)


@selects("fixed")
def fixed(scores: Tensor, state: State, options: Number) -> tuple[Tensor, Tensor]:
    """The ``num_remask`` lowest scores, every step (PRISM on Sudoku)."""
    return scores, torch.full_like(state.step, options.num_remask)


@selects("staged")
def staged(scores: Tensor, state: State, options: Number) -> tuple[Tensor, Tensor]:
    """The ``num_remask`` lowest in 40 to 60% of the steps, half of that in 60 to 80%, a quarter after (2602.02927)."""
    stage = 5 * state.block_step // state.of_block(state.budget)
    return scores, (options.num_remask >> (stage - 2).clamp(min=0)).masked_fill(stage < 2, 0)


@dataclass
class Share:
    """Of select=share."""

    remask_share: float = option(0.25, "share of the tokens that may be revised", low=0, high=1)


@selects("share")
def share(scores: Tensor, state: State, options: Share) -> tuple[Tensor, Tensor]:
    """The share ``remask_share`` of those that may be revised, falling as ``eta_schedule`` says (Tolerator)."""
    open_ = state.open.sum(dim=1)
    kept = (1 - options.remask_share * factor(state)).clamp(min=0)
    return scores, open_ - (open_ * kept).long()


@selects("centred")
def centred(scores: Tensor, state: State, options: Number) -> tuple[Tensor, Tensor]:
    """The lowest, ``num_remask`` a block, shared evenly by its steps, the rest nearest its middle (PRISM on code)."""
    steps, wanted = state.of_block(state.budget), options.num_remask
    twice = 2 * state.block_step - (steps - 1)  # distance from the middle in half steps: 0, then -1, 1, … or -2, 2, …
    rank = twice.abs() - (twice < 0).long()
    return scores, wanted // steps + (rank < wanted % steps)


@dataclass
class Drawn(Number):
    """Of select=drawn."""

    remask_temperature: float = option(1.0, "of the draw, falling to 0; 0 takes the lowest", low=0)


@selects("drawn")
def drawn(scores: Tensor, state: State, options: Drawn) -> tuple[Tensor, Tensor]:
    """``num_remask`` drawn without replacement with weights score^(-1 / T), T falling from ``remask_temperature`` to 0.

    Gumbel noise on -log score / T, taken as -log score + T Gumbel, so that T = 0 takes the lowest.
    """
    heat = options.remask_temperature * (1 - state.block_step / state.of_block(state.budget))
    gumbel = -(-state.uniform(ops.REVISE, draw=1).log()).log()
    keys = scores.double().clamp(min=1e-30).log() - heat[:, None] * gumbel
    return keys, torch.full_like(state.step, options.num_remask)


@dataclass
class Below:
    """Of select=below."""

    tau: float = option(0.1, "a lower score is doubted", low=0)


@selects("below")
def below(scores: Tensor, state: State, options: Below) -> tuple[Tensor, Tensor]:
    """Every score below ``tau``, which changes as ``eta_schedule`` says."""
    bound = options.tau * factor(state)
    return scores, (state.open & (scores < bound[:, None])).sum(dim=1)


@dataclass
class Discoveries:
    """Of select=discoveries."""

    tau: float = option(0.1, "bound on the expected share of right tokens among those found", low=0)


@selects("discoveries")
def discoveries(scores: Tensor, state: State, options: Discoveries) -> tuple[Tensor, Tensor]:
    """The k lowest, the largest k for which the k-th of n scores is at most tau k / n (e-BH, arXiv 2009.02824).

    With score=evidence: 1 / score is an e-value of "the token is right", and among those found the expected share of
    right tokens is at most tau, however many there are and whatever they have to do with each other.
    """
    n = state.open.sum(dim=1, keepdim=True)
    ranked = scores.masked_fill(~state.open, torch.inf).sort(dim=1).values
    rank = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    found = ranked <= options.tau * rank / n.clamp(min=1)
    return scores, (found * rank).amax(dim=1)


@selects("schedule")
def schedule(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """The lowest, down to the number of visible tokens that is planned (P2, RCR)."""
    return scores, (state.visible.sum(dim=1) - planned(state)).clamp(min=0)


@selects("eighth")
def eighth(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """The lowest, an eighth of what was filled in this step, rounded up (Saber)."""
    return scores, (state.filled.sum(dim=1) + 7) // 8


@selects("binomial")
def binomial(scores: Tensor, state: State, options: Eta) -> tuple[Tensor, Tensor]:
    """The lowest Binomial(n, sigma) scores, sigma = min(eta, (1 - alpha_s) / alpha_t) (PRISM on text).

    alpha is the realised share of the block's positions that are filled, now (t) and after this step's plan (s).
    """
    size, steps = state.of_block(state.size).clamp(min=1), state.of_block(state.budget)
    alpha_t = state.visible.sum(dim=1).double() / size
    chance = torch.minimum(remask_bound(alpha_t, (alpha_t + 1 / steps).clamp(max=1)), options.of(factor(state)))
    return scores, (state.open & (state.uniform(ops.REVISE, draw=1) < chance[:, None])).sum(dim=1)


@selects("bernoulli")
def bernoulli(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """The lowest Binomial(n, sigma) scores, sigma the ``rate`` at the planned shares.

    With score=random that is each token with probability sigma (ReMDM cap, rescale, loop; forward-backward).
    """
    return scores, (state.open & (state.uniform(ops.REVISE, draw=1) < sigma(state)[:, None])).sum(dim=1)


@selects("bernoulli_softmax")
def bernoulli_softmax(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Each with probability softmax(-score)_i sigma_max: about one expected remask a step (ReMDM-conf)."""
    bound = remask_bound(*state.levels)
    chance = (-scores.double()).masked_fill(~state.open, -torch.inf).softmax(dim=1).nan_to_num() * bound[:, None]
    u = state.uniform(ops.REVISE, draw=1)
    return u - chance, (state.open & (u < chance)).sum(dim=1)
