"""Methods: generators that run no model. Each yields the forward pass that it needs and is sent what came of it."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from ..denoiser import View
from ..errors import ConfigError
from . import acts, fills, guards, parts, scores, selects  # noqa: F401  (they register their parts)
from .parts import Forward, methods
from .schedules import filling_steps, in_window, planned
from .state import State

Passes = Generator[Forward, View, None]


class Parts:
    """The parts that a configuration names, put together: only ``revise`` and ``fill`` change the state."""

    def __init__(self, state: State) -> None:
        config = state.config
        self.state = state
        self.score, self.act = parts.scores[config.score], parts.acts[config.act]
        self.select, self.guard = parts.selects[config.select], parts.guards[config.guard]
        self.count, self.order = parts.fills[config.fill], parts.orders[config.order]

    def revise(self, view: View | None, refilled: bool = False) -> None:
        """Doubt and act. refilled: a mask that is put back here will be filled in this step, even the last."""
        state, config = self.state, self.state.config
        keys, counts = self.select(self.score.function(view, state), state)  # type: ignore[arg-type]  # see check()
        counts = self.guard(counts, state)
        step, steps = state.block_step, state.of_block(state.budget)
        counts = counts * in_window(step, steps, config.step_on, config.step_off)
        if not refilled and config.act == "remask":
            counts = counts.masked_fill(step + 1 >= steps, 0)
        if config.refill == "cancel":
            net = (planned(state) - state.visible.sum(dim=1)).clamp(min=0)
            counts = torch.minimum(counts, (state.masked.sum(dim=1) - net).clamp(min=0))
        self.act(view, state, keys, counts)

    def fill(self, view: View, allowed: Tensor) -> None:
        """Fill as many of the allowed masks (B, L) as the fill says, in its order."""
        self.order(view, self.state, allowed, self.count(self.state, allowed))

    def done(self) -> Tensor:
        """(B,) bool: rows that ``end`` lets go on to the next block before its steps are used."""
        state, end = self.state, self.state.config.end
        full = ~state.masked.any(dim=1)
        if end == "stable":
            return full & ~state.doubted.any(dim=1)
        return full & (end == "filled")


@methods("revise_and_fill")
def revise_and_fill(state: State) -> Passes:
    """MDLM, ReMDM, LLaDA, PRISM and kin: one forward a step, doubted tokens out, masked ones in."""
    config, use = state.config, Parts(state)
    if config.score == "none":
        yield from fill_only(state)
    while bool(state.active.any()):
        if config.refill == "fresh":
            use.revise(None, refilled=True)
        state.forwards += state.active
        view = yield Forward(state)
        allowed = state.masked
        if config.refill != "fresh":
            use.revise(view, refilled=config.refill == "stale")
        if config.refill == "stale":
            allowed = state.masked
        use.fill(view, allowed)
        state.advance(use.done())


def fill_only(state: State) -> Passes:
    """The same without revision: where nothing is filled the posterior stays as it is, and no pass is spent on it."""
    use = Parts(state)
    while bool(state.active.any()):
        counts = torch.minimum(use.count(state, state.masked), state.masked.sum(dim=1))
        if bool(counts.any()):
            state.forwards += counts > 0
            view = yield Forward(state)
            use.order(view, state, state.masked, counts)
        state.advance(done=~state.masked.any(dim=1))


@methods("fill_and_revise")
def fill_and_revise(state: State) -> Passes:
    """P2, RCR, Saber: one forward a step, masks filled first, then the worst of all that is visible out again."""
    use = Parts(state)
    while bool(state.active.any()):
        state.forwards += state.active
        view = yield Forward(state)
        use.fill(view, state.masked)
        use.revise(view)
        state.advance(use.done())


@methods("two_pass")
def two_pass(state: State) -> Passes:
    """Two forwards a step: one to doubt by, one on the text without the doubted to fill by (NAVIRA, Gibbs)."""
    use = Parts(state)
    while bool(state.active.any()):
        state.forwards += state.active
        view = yield Forward(state)
        use.revise(view, refilled=True)
        if bool(state.doubted.any()):
            state.forwards += state.doubted.any(dim=1)
            view = yield Forward(state)
        use.fill(view, state.masked)
        state.advance(use.done())


@methods("revise_then_loop")
def revise_then_loop(state: State) -> Passes:
    """PRISM with loop refinement: ``revise_and_fill`` over the first ``fill_share`` of the steps, then loops.

    A loop masks ``num_remask_loop`` tokens at random before its forward and fills them by it.
    """
    config, use = state.config, Parts(state)
    while bool(state.active.any()):
        looping = state.block_step >= filling_steps(state.of_block(state.budget), config.fill_share)
        state.remask(scores.random(None, state), state.open, config.num_remask_loop * looping)  # type: ignore[arg-type]
        looped = state.doubted
        state.forwards += state.active
        view = yield Forward(state)
        allowed = state.masked
        use.revise(view)
        state.doubted = state.doubted | looped
        use.fill(view, allowed)
        state.advance(use.done())


def check(config: Any, has_head: bool, gives: frozenset[str]) -> None:
    """ConfigError, naming both, where settings (as ``resolve`` gives them) clash with each other or with the model.

    has_head, gives: whether the model has a quality head, and ``Denoiser.gives``.
    """
    if config.method == "two_pass" and "second_forward" not in gives:
        raise ConfigError(
            "sampler.method = two_pass needs a second forward pass within a step, which this host does not give: "
            "choose sampler.method=revise_and_fill."
        )
    needs = parts.scores[config.score].needs
    if "head" in needs and not has_head:
        raise ConfigError(
            f"sampler.score = {config.score} needs a trained quality head and the model has none: "
            "train one (prism train quality …) or choose sampler.score=self_likelihood."
        )
    if config.refill == "fresh" and config.method == "revise_and_fill":
        if "view" in needs:
            raise ConfigError(
                f"sampler.refill = fresh remasks before the forward pass that sampler.score = {config.score} reads: "
                "choose refill=wait, or score=written or random."
            )
        if config.act != "remask":
            raise ConfigError(
                f"sampler.refill = fresh remasks before the forward pass that sampler.act = {config.act} reads: "
                "choose refill=wait."
            )
    if config.refill == "cancel" and config.fill != "count":
        raise ConfigError(
            f"sampler.refill = cancel reads the plan that fill=count follows, sampler.fill = {config.fill} does not: "
            "choose refill=wait, or fill=count."
        )
    if config.alpha != "linear" and config.fill_share != 1:
        raise ConfigError(
            f"sampler.alpha = {config.alpha} plans all steps, sampler.fill_share = {config.fill_share} only some: "
            "choose one of the two."
        )
    if config.score == "none" and config.method != "revise_and_fill":
        raise ConfigError(
            f"sampler.method = {config.method} revises and sampler.score = none doubts nobody: choose a score."
        )
