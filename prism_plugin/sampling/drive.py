"""Our own loop over a method, and ``generate``: texts with masks in, texts without out."""

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .. import ops
from ..denoiser import Denoiser, View
from ..errors import ConfigError
from . import methods as _methods
from .config import SamplerConfig, resolve
from .parts import Forward, methods
from .state import State

Callback = Callable[[State, View | None], None]


@dataclass
class Result:
    """Texts and an honest account of what they cost; counts are (B,) int64.

    forwards: passes a row took part in. fills: tokens written. remasked: tokens revised. wasted: revisions that
    brought the same token back. settings: all that made the result.
    """

    tokens: Tensor
    forwards: Tensor
    fills: Tensor
    remasked: Tensor
    wasted: Tensor
    seconds: float
    settings: dict[str, object]


def drive(method: Generator[Forward, View, None], denoiser: Denoiser, callback: Callback | None = None) -> None:
    """Run the forward passes that a method asks for until it ends; ``callback(state, view)`` after every step."""
    view: View | None = None
    with suppress(StopIteration):
        while True:
            asked = next(method) if view is None else method.send(view)
            if callback is not None:
                callback(asked.state, view)
            view = View(denoiser, denoiser(asked.state.tokens, asked.state.padding))


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    tokens: Tensor,
    config: SamplerConfig,
    *,
    request: Tensor | None = None,
    padding: Tensor | None = None,
    suppress_ids: Tensor | None = None,
    callback: Callback | None = None,
) -> Result:
    """Fill every mask of ``tokens`` (B, L) int64 with the sampler that ``config`` describes.

    Tokens that are not masks are the prompt and never change. request (B,) int64 keys a row's random numbers
    (default: its row number); padding (B, L) bool is True where a token is real; ``suppress_ids`` (S,) int64 are never
    drawn, nor is the mask itself.

    Raises ConfigError where a setting is out of range or asks for what the model cannot give.
    """
    config = resolve(config)
    _methods.check(config, denoiser.head is not None, denoiser.gives)
    if padding is not None and "padding" not in denoiser.gives:
        raise ConfigError(f"{type(denoiser).__name__} cannot take padding: give it texts of one length at a time.")
    if tokens.shape[1] > denoiser.max_length:
        raise ConfigError(f"a text of {tokens.shape[1]} tokens is longer than the model's {denoiser.max_length}.")
    editable = (tokens == denoiser.mask_id) if padding is None else (tokens == denoiser.mask_id) & padding
    request = torch.arange(len(tokens), device=tokens.device) if request is None else request
    never = torch.tensor([denoiser.mask_id], device=tokens.device)
    never = never if suppress_ids is None else torch.cat([never, suppress_ids])
    state = State(tokens.clone(), editable, denoiser.mask_id, config, request, padding, never)
    started = time.perf_counter()
    drive(methods[str(config.method)](state), denoiser, callback)
    if callback is not None:
        callback(state, None)
    return Result(
        state.tokens, state.forwards, state.fills, state.remasks.sum(dim=1), state.wasted,
        time.perf_counter() - started, {**asdict(config), "numerics": "exact", "ops_compiled": ops.compiled()},
    )  # fmt: skip
