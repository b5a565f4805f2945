"""What happens to a doubted token: the ``counts`` (B,) lowest ``keys`` (B, L) of the open positions are revised."""

import torch
from torch import Tensor

from .. import ops
from ..models.denoiser import View
from .fills import likeliest
from .parts import acts
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
    assert view is not None  # check() saw to it
    index, *_ = state.rows(ops.select_lowest(keys, state.open, counts))
    real = torch.ones(view.denoiser.vocab_size, dtype=torch.bool, device=keys.device)
    if state.suppress is not None:
        real[state.suppress] = False
    symbols = real.nonzero().squeeze(1)
    drawn = symbols[(state.uniform(ops.REVISE, draw=2).flatten()[index] * len(symbols)).long()]
    state.replace(index, drawn, torch.full_like(index, 1 / len(symbols), dtype=state.written.dtype))
