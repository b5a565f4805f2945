"""Whom to doubt: one short function a score, (B, L) float over the visible tokens, low is doubted."""

import torch
from torch import Tensor

from .. import ops
from ..denoiser import View
from .fills import likeliest
from .parts import score
from .state import State


@score("none")
def nobody(view: View, state: State) -> Tensor:
    """No token is doubted: methods that only fill."""
    return torch.full_like(state.written, torch.inf)


@score("quality", "head", "view")
def quality(view: View, state: State) -> Tensor:
    """Learned quality g(y)_i = P(x_i = y_i | the rest) (PRISM, arXiv 2510.01384)."""
    return view.quality


@score("evidence", "head", "view")
def evidence(view: View, state: State) -> Tensor:
    """g(y)_i / w_i: the likelihood ratio of all that was written since, given this token against without it.

    Under exact sampling P(it ever falls below tau) <= tau for a right token (Ville's inequality). w is the
    probability that ``confidence_of`` names: the bound needs that of the distribution drawn from.
    """
    return view.quality / state.written


@score("written")
def written(view: View, state: State) -> Tensor:
    """Probability w_i of the token when it was written (ReMDM-conf, arXiv 2503.00307)."""
    return state.written


@score("self_likelihood", "view")
def self_likelihood(view: View, state: State) -> Tensor:
    """Probability of the visible token under the posterior of the same forward pass (arXiv 2602.02927)."""
    rows = state.rows(state.visible)
    seen = likeliest(view, state, rows, given=state.tokens.flatten()[rows[0]])
    return _spread(seen.given_prob, rows, state)  # type: ignore[arg-type]  # it was asked for


@score("drop", "view")
def drop(view: View, state: State) -> Tensor:
    """By how much that probability has grown since the token was written: low where it dropped (Saber for LLaDA)."""
    return self_likelihood(view, state) - state.written


@score("disagreement", "view")
def disagreement(view: View, state: State) -> Tensor:
    """1 less the probability of the likeliest token, where that is another than the visible one (LLaDA 2.1)."""
    rows = state.rows(state.visible)
    best = likeliest(view, state, rows)
    other = best.token != state.tokens.flatten()[rows[0]]
    return _spread(torch.where(other, 1 - best.prob, torch.inf), rows, state)


def _spread(values: Tensor, rows: tuple[Tensor, ...], state: State) -> Tensor:
    """Values (N,) of chosen rows as a table (B, L), inf elsewhere."""
    return torch.full_like(state.written, torch.inf).flatten().index_copy(0, rows[0], values).view_as(state.written)


@score("random")
def random(view: View, state: State) -> Tensor:
    """The control: anybody."""
    return state.uniform(ops.REVISE).float()
