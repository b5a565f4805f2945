"""What happens to a doubted token: the ``counts`` (B,) lowest ``keys`` (B, L) of the open positions are revised."""

import torch
from torch import Tensor

from .. import ops
from ..models.denoiser import View
from .fills import draw_settings, likeliest
from .parts import acts
from .schedules import shares
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

    Noise keeps a token with probability alpha_t and puts a draw of pi in its place else: a symbol drawn uniformly (a
    share ``uniform_noise``) or the mask. x_0 is drawn as the settings say, then x_s given it and the token x_t:
    q(v) ~ (a [v = x_t] + (1 - a) pi(x_t)) (alpha_s [v = x_0] + (1 - alpha_s) pi(v)), a = alpha_t / alpha_s
    (D3PM, arXiv 2107.03006; Duo's uniform noise, 2506.10892; GIDD's and SCDD's hybrids, 2503.04482, 2603.02230).
    """
    assert view is not None  # check() saw to it
    rows = state.rows(ops.select_lowest(keys, state.open, counts) | state.masked)
    index, row = rows[0], rows[0] // state.tokens.shape[1]
    drawn = view.sample(*rows, **draw_settings(state, index))
    noise, _ = state.noise(draw=2)
    alpha_t, alpha_s = (alpha[row] for alpha in shares(state))
    now, x0, ratio = state.tokens.flatten()[index], drawn.token, alpha_t / alpha_s
    masked = now == state.mask_id
    pi = torch.where(masked, 1 - state.uniform_noise, state.uniform_noise / len(state.symbols)).double()
    clean = alpha_s * ((1 - ratio) * pi + ratio * (now == x0))
    stay, fresh = ratio * (1 - alpha_s) * pi, (1 - ratio) * (1 - alpha_s) * pi
    u = state.uniform(ops.REVISE, draw=4).flatten()[index] * (clean + stay + fresh)
    token = torch.where(u < clean, x0, torch.where(u < clean + stay, now, noise.flatten()[index]))
    state.redraw(state.spread(index, token, -1), state.spread(index, drawn.prob, 0.0))
