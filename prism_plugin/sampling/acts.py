"""What happens to a doubted token: the ``counts`` (B,) lowest ``keys`` (B, L) of the open positions are revised."""

import torch
from torch import Tensor

from .. import ops
from ..models.denoiser import View
from ..models.noise import pick
from .fills import draw_settings, likeliest
from .parts import acts
from .schedules import CLEAN_TAIL, sigma
from .state import State


@acts("remask")
def remask(view: View | None, state: State, keys: Tensor, counts: Tensor) -> None:
    """The mask comes back."""
    state.remask(keys, state.open, counts)


@acts("overwrite")
def overwrite(view: View | None, state: State, keys: Tensor, counts: Tensor) -> None:
    """The likeliest token of the same forward pass takes its place (token-to-token editing, LLaDA 2.1)."""
    rows = state.rows(ops.select_lowest(keys, state.open, counts))
    best = likeliest(view, state, rows)  # type: ignore[arg-type]  # check() saw to it
    state.replace(rows[0], best.token, best.prob)


@acts("reset")
def reset(view: View | None, state: State, keys: Tensor, counts: Tensor) -> None:
    """A symbol drawn uniformly takes its place, as models of uniform noise were trained (DiffusionGemma)."""
    index, *_ = state.rows(ops.select_lowest(keys, state.open, counts))
    drawn, prob = state.any_symbol(draw=2)
    state.replace(index, drawn.flatten()[index], prob.flatten()[index])


@acts("posterior")
def posterior(view: View | None, state: State, keys: Tensor, counts: Tensor) -> None:
    """It and every mask are drawn anew from the exact posterior of the noise that the model was trained with.

    x_0 is drawn as the settings say, then x_s given it and the token x_t: ``models.noise.Noise`` (D3PM, arXiv
    2107.03006; Duo, 2506.10892; GIDD and SCDD, 2503.04482, 2603.02230). With a ``rate`` some tokens, sigma / (1 -
    alpha_s) of them, are x_0 noised afresh to alpha_s instead, whatever stood there (Psi-samplers, 2602.21185). Where
    the plan has no noise left the likeliest tokens stand (Duo's and SCDD's noise removal).
    """
    assert view is not None  # check() saw to it
    rows = state.rows(ops.select_lowest(keys, state.open, counts) | state.masked)
    index, row = rows[0], rows[0] // state.tokens.shape[1]
    noise, symbols, now = state.noise, len(state.symbols), state.tokens.flatten()[index]
    drawn = view.sample(*rows, **draw_settings(state, index), given=now if noise.tilted else None)
    alpha_t, alpha_s = (alpha[row] for alpha in state.levels)
    masked, u = now == state.mask_id, [state.uniform(ops.REVISE, draw).flatten()[index] for draw in (3, 4, 7)]
    itself = u[0] < noise.itself(drawn.given_prob, masked, symbols, alpha_t)
    x0 = torch.where(itself, now, drawn.token)
    weights = noise.before(masked, now == x0, symbols, alpha_t, alpha_s)
    if state.config.rate != "none":
        kept, masks, even = noise.shares(alpha_s)
        afresh = u[2] * (1 - alpha_s) < sigma(state)[row]
        weights = torch.where(afresh, torch.stack([kept, torch.zeros_like(kept), even, masks]), weights)
    token = pick(weights, u[1], x0, now, state.any_symbol(draw=2)[0].flatten()[index], state.mask_id)
    if state.config.alpha == CLEAN_TAIL:
        token = torch.where(alpha_t < 1, token, likeliest(view, state, rows).token)
    state.redraw(state.spread(index, token, -1), state.spread(index, drawn.prob, 0.0))


@acts("redraw")
def redraw(view: View | None, state: State, keys: Tensor, counts: Tensor) -> None:
    """A token drawn from the same forward pass takes its place, the one that score=redraw has seen (GIDD)."""
    rows = state.rows(ops.select_lowest(keys, state.open, counts))
    drawn = view.sample(*rows, **draw_settings(state, rows[0]))
    state.redraw(state.spread(rows[0], drawn.token, -1), state.spread(rows[0], drawn.prob, 0.0))
