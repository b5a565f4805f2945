"""Methods: generators that run no model. Each yields the forward pass that it needs and is sent what came of it."""

from collections.abc import Generator

import torch
from torch import Tensor

from ..denoiser import View
from ..errors import ConfigError
from . import fills, guards, scores, selects  # noqa: F401  (register their parts)
from .parts import Forward, methods
from .parts import fills as fill_parts
from .parts import guards as guard_parts
from .parts import orders as order_parts
from .parts import scores as score_parts
from .parts import selects as select_parts
from .schedules import fill_target, in_window
from .state import State


@methods("revise_and_fill")
def revise_and_fill(state: State) -> Generator[Forward, View, None]:
    """MDLM, ReMDM, LLaDA, PRISM and kin: one forward a step, doubted tokens out, masked ones in."""
    config = state.config
    score, select, guard = score_parts[config.score], select_parts[config.select], guard_parts[config.guard]
    fill, order = fill_parts[config.fill], order_parts[config.order]

    def revise(view: View | None) -> None:
        keys, counts = select(score.function(view, state), state)
        state.remask(keys, state.visible, _bounded(guard(counts, state), state))

    while bool(state.active.any()):
        before = config.refill == "fresh"
        if before:
            revise(None)
        view = yield Forward(state)
        waiting = state.masked
        if not before and config.score != "none":
            revise(view)
        allowed = state.masked if config.refill == "stale" else waiting
        order(view, state, allowed, fill(state, allowed))
        state.advance()


def _bounded(counts: Tensor, state: State) -> Tensor:
    """Counts within the window of steps, and few enough that every mask can still be filled."""
    config = state.config
    step, steps, size = state.block_step, state.of_block(state.budget), state.of_block(state.size)
    counts = counts * in_window(step, steps, config.step_on, config.step_off)
    if config.refill in ("wait", "cancel"):
        counts = counts.masked_fill(step + 1 >= steps, 0)  # nothing remasked in the last step could be filled
    if config.refill == "cancel":
        net = (fill_target(step, size, steps, config.fill_share) - state.visible.sum(dim=1)).clamp(min=0)
        counts = torch.minimum(counts, (state.masked.sum(dim=1) - net).clamp(min=0))
    return counts


REFILL = {
    "wait": "a remasked position is filled a step later at the earliest (PRISM on LLaDA)",
    "cancel": "the same, and a remask for which masks run short is cancelled (PRISM's DiT release)",
    "fresh": "the remask comes before the forward, so that its logits are fresh (ReMDM on LLaDA)",
    "stale": "refilled at once, from the logits of the text that still held the token",
}


def check(config: object, has_head: bool) -> None:
    """ConfigError, naming both, where settings clash with each other or with the model."""
    part = score_parts[config.score]  # type: ignore[attr-defined]
    if "head" in part.needs and not has_head:
        raise ConfigError(
            f"sampler.score = {config.score} needs a trained quality head and the model has none: "  # type: ignore[attr-defined]
            "train one (prism train quality …) or choose sampler.score=self_likelihood."
        )
    if config.refill == "fresh" and "view" in part.needs:  # type: ignore[attr-defined]
        raise ConfigError(
            f"sampler.refill = fresh remasks before the forward pass that sampler.score = {config.score} reads: "  # type: ignore[attr-defined]
            "choose refill=wait, or score=written or random."
        )
