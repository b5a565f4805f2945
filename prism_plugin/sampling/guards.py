"""What keeps revision from running wild: counts (B,) -> counts (B,), never more."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..options import option
from .fills import guess
from .parts import guards
from .schedules import filling_steps
from .state import State


@guards("none")
def none(counts: Tensor, state: State) -> Tensor:
    """No bound but the window of steps and the positions there are."""
    return counts


@guards("gate")
def gate(counts: Tensor, state: State) -> Tensor:
    """All or nothing: only while counts < visible < size - counts (PRISM release, prob_path.py)."""
    visible = state.visible.sum(dim=1)
    return counts.masked_fill((visible <= counts) | (visible >= state.of_block(state.size) - counts), 0)


@guards("plan")
def plan(counts: Tensor, state: State) -> Tensor:
    """At most as many as the plan fills in one of its steps."""
    filling = filling_steps(state.of_block(state.budget), state.config.fill_share)
    return torch.minimum(counts, (state.of_block(state.size) / filling).ceil().long())


@dataclass
class Share:
    """Of guard=share."""

    remask_share: float = option(0.25, "share of the block that a step may revise", low=0, high=1)


@guards("share")
def share(counts: Tensor, state: State, options: Share) -> Tensor:
    """At most ``remask_share`` of the block."""
    return torch.minimum(counts, (state.of_block(state.size) * options.remask_share).long())


@dataclass
class Converged:
    """Of guard=converged."""

    calm: int = option(3, "passes for which the likeliest token has not changed and is the visible one", low=1)
    moves: float = option(0.01, "by how much its probability may have changed since the last pass", low=0)


@guards("converged")
def converged(counts: Tensor, state: State, options: Converged) -> Tensor:
    """A position whose posterior has settled is left alone for good (SureLock 2602.06412, Just on Time 2602.11133).

    Told by the likeliest token and its probability; SureLock by KL(p_t || p_t-1) of whole distributions, which no state
    holds here, and it also keeps the position's keys and values.
    """
    guess(state)
    still = (state.calm >= options.calm) & (state.guess_moved <= options.moves) & (state.guess == state.tokens)
    state.settled = state.settled | (state.visible & still)
    return torch.minimum(counts, state.open.sum(dim=1))


@guards("fewer_than_last")
def fewer_than_last(counts: Tensor, state: State) -> Tensor:
    """Fewer than the step before filled, and none where this step filled a single mask (WINO)."""
    return torch.minimum(counts, state.fills_before - 1).masked_fill(state.filled.sum(dim=1) <= 1, 0).clamp(min=0)


@guards("repeat")
def repeat(counts: Tensor, state: State) -> Tensor:
    """None where this very text has stood here before, so that no cycle is gone through again: ``State.cut``."""
    again = state.seen_before()
    state.cut |= again & (counts > 0)
    return counts.masked_fill(again, 0)


@guards("unfinished")
def unfinished(counts: Tensor, state: State) -> Tensor:
    """None once the block has no mask (Saber)."""
    return counts * state.masked.any(dim=1)


@guards("fewer")
def fewer(counts: Tensor, state: State) -> Tensor:
    """Fewer than were filled in this step, so that every step makes headway (Saber, dInfer)."""
    return torch.minimum(counts, (state.filled.sum(dim=1) - 1).clamp(min=0))
