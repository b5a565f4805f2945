"""Methods: generators that run no model. Each yields the forward pass that it needs and is sent what came of it."""

from collections.abc import Generator
from typing import Any

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
        keys, counts = select(score.function(view, state), state)  # type: ignore[arg-type]  # check() saw to it
        state.remask(keys, state.visible, _bounded(guard(counts, state), state))

    while bool(state.active.any()):
        if config.score == "none":
            counts = torch.minimum(fill(state, state.masked), state.masked.sum(dim=1))
            if bool(counts.any()):  # where nothing is filled the posterior stays as it is: no pass is spent
                state.forwards += counts > 0
                view = yield Forward(state)
                order(view, state, state.masked, counts)
            state.advance(done=~state.masked.any(dim=1))
            continue
        if config.refill == "fresh":
            revise(None)
        state.forwards += state.active
        view = yield Forward(state)
        allowed = state.masked
        if config.refill != "fresh":
            revise(view)
        if config.refill == "stale":
            allowed = state.masked
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


def check(config: Any, has_head: bool) -> None:
    """ConfigError, naming both, where settings (as ``resolve`` gives them) clash with each other or with the model."""
    needs = score_parts[config.score].needs
    if "head" in needs and not has_head:
        raise ConfigError(
            f"sampler.score = {config.score} needs a trained quality head and the model has none: "
            "train one (prism train quality …) or choose sampler.score=self_likelihood."
        )
    if config.refill == "fresh" and "view" in needs:
        raise ConfigError(
            f"sampler.refill = fresh remasks before the forward pass that sampler.score = {config.score} reads: "
            "choose refill=wait, or score=written or random."
        )
    if config.refill == "cancel" and config.fill != "count":
        raise ConfigError(
            f"sampler.refill = cancel reads the plan that fill=count follows, sampler.fill = {config.fill} does not: "
            "choose refill=wait, or fill=count."
        )
