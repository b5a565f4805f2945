"""How masks are filled: how many (``fill``) and which first (``order``)."""

import torch
from torch import Tensor

from .. import ops
from ..denoiser import View
from .parts import fills, orders
from .schedules import alpha_linear, fill_target
from .state import State


@fills("count")
def count(state: State, allowed: Tensor) -> Tensor:
    """As many as bring the text to its plan, what was just remasked included (LLaDA, PRISM)."""
    target = fill_target(
        state.block_step, state.of_block(state.size), state.of_block(state.budget), state.config.fill_share
    )
    return (target - state.visible.sum(dim=1)).clamp(min=0)


@fills("hazard")
def hazard(state: State, allowed: Tensor) -> Tensor:
    """Each allowed mask with probability (alpha_s - alpha_t) / (1 - alpha_t), all in the last step (MDLM, ReMDM).

    The same uniform numbers order the masks in ``order=random``, so that the ones filled are those that came up.
    """
    steps = state.of_block(state.budget)
    alpha_t, alpha_s = alpha_linear(state.block_step, steps), alpha_linear(state.block_step + 1, steps)
    chance = (alpha_s - alpha_t) / (1 - alpha_t)
    return (allowed & (state.uniform(ops.ORDER) <= chance[:, None])).sum(dim=1)


def draw_settings(state: State) -> dict[str, object]:
    """How a token is drawn, as ``ops.sample_rows`` wants it."""
    config = state.config
    return {
        "seed": config.seed, "temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k,
        "confidence_of": config.confidence_of, "top_p_rule": config.top_p_rule, "suppress": state.suppress,
    }  # fmt: skip


@orders("random")
def random(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """In random order: only the positions that are filled need logits."""
    rows = state.rows(ops.select_lowest(state.uniform(ops.ORDER), allowed, counts))
    drawn = view.sample(*rows, **draw_settings(state))
    state.write(rows[0], drawn.token, drawn.prob)


@orders("confidence")
def confidence(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """The drawn tokens of highest probability first (LLaDA low_confidence, Dream maskgit_plus)."""
    _best(view, state, allowed, counts, "prob")


@orders("margin")
def margin(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """Largest distance between the two likeliest tokens first (Dream topk_margin)."""
    _best(view, state, allowed, counts, "margin")


@orders("entropy")
def entropy(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """Lowest entropy first (Dream entropy)."""
    _best(view, state, allowed, counts, "entropy")


def _best(view: View, state: State, allowed: Tensor, counts: Tensor, by: str) -> None:
    rows = state.rows(allowed & (counts > 0)[:, None])
    drawn = view.sample(*rows, **draw_settings(state), margin=by == "margin", entropy=by == "entropy")
    rank = -drawn.entropy if by == "entropy" else drawn.margin if by == "margin" else drawn.prob
    table = torch.zeros_like(state.written).flatten().index_copy(0, rows[0], rank).view_as(state.written)
    chosen = ops.select_highest(table, allowed, counts).flatten()[rows[0]]
    state.write(rows[0][chosen], drawn.token[chosen], drawn.prob[chosen])
