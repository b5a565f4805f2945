"""How many to revise and which first: scores (B, L) -> keys (B, L), lowest first, and counts (B,)."""

import torch
from torch import Tensor

from .. import ops
from .parts import selects
from .schedules import alpha_linear, remask_bound
from .state import State


@selects("fixed")
def fixed(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """The ``num_remask`` lowest scores, every step (PRISM on Sudoku and LLaDA)."""
    return scores, torch.full_like(state.step, state.config.num_remask)


@selects("below")
def below(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Every score below ``tau``."""
    return scores, (state.visible & (scores < state.config.tau)).sum(dim=1)


@selects("binomial")
def binomial(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """The lowest Binomial(n, sigma) scores, sigma = min(eta, (1 - alpha_s) / alpha_t) (PRISM on text).

    alpha is the realised share of the block's positions that are filled, now (t) and after this step's plan (s).
    """
    size, steps = state.of_block(state.size).clamp(min=1), state.of_block(state.budget)
    alpha_t = state.visible.sum(dim=1) / size
    sigma = remask_bound(alpha_t, (alpha_t + 1 / steps).clamp(max=1)).clamp(max=state.config.eta)
    return scores, (state.visible & (state.uniform(ops.REVISE, draw=1) < sigma[:, None])).sum(dim=1)


@selects("bernoulli_softmax")
def bernoulli_softmax(scores: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Each with probability softmax(-score)_i sigma_max: about one expected remask a step (ReMDM-conf)."""
    steps = state.of_block(state.budget)
    sigma = remask_bound(alpha_linear(state.block_step, steps), alpha_linear(state.block_step + 1, steps))
    chance = (-scores.double()).masked_fill(~state.visible, -torch.inf).softmax(dim=1).nan_to_num() * sigma[:, None]
    u = state.uniform(ops.REVISE, draw=1)
    return u - chance, (state.visible & (u < chance)).sum(dim=1)
