"""The registries of parts. A part is a short pure function of (view, state); a method is a generator over them.

A part with options of its own takes them as a last parameter ``options``, annotated with their dataclass:

@selects("below")
def below(scores: Tensor, state: State, options: Below) -> tuple[Tensor, Tensor]:
"""

import functools
import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ..models.denoiser import Denoiser, Layout, View
from ..registry import Registry
from .config import SamplerConfig

if TYPE_CHECKING:
    from .state import State


@dataclass(frozen=True)
class Forward:
    """What a method asks for: a forward pass over ``state.tokens``, or over other tokens (B, N) int64 in their place.

    rows (B,) bool: those that have need of it, by default all that are not finished. judged: whether the head, if the
    score needs one, is asked of this pass, (B,) bool where rows differ. layout: positions and attention of the method's
    own; only hosts that give it are asked. real (B, N) bool then tells the text from what was added to it.
    """

    state: "State"
    other: Tensor | None = None
    rows: Tensor | None = None
    real: Tensor | None = None
    layout: Layout | None = None
    judged: Tensor | bool = True

    @property
    def tokens(self) -> Tensor:
        """(B, N) int64, what the pass goes over."""
        return self.state.tokens if self.other is None else self.other

    @property
    def padding(self) -> Tensor | None:
        """(B, N) bool or None, True where a token is real."""
        return self.state.padding if self.real is None else self.real

    def by(self, denoiser: Denoiser) -> View:
        """The pass itself, its ``share`` that of the text's length; the state counts it."""
        laid_out = () if self.layout is None else (self.layout,)
        judged = "head" in self.state.parts.score.needs
        if denoiser.cache is not None:
            whole = judged and any(getattr(denoiser.head, name, False) for name in ("attends", "reads_text"))
            denoiser.cache.needed = None if whole else self.state.reached()
        told = denoiser.told(self.state.levels[0]) if "level" in denoiser.gives else {}
        output = denoiser(self.tokens, self.padding, *laid_out, **told)
        if self.layout is not None:  # what is real, or was added for a row, looks at itself
            padding = self.state.padding
            own = self.state.tokens.shape[1] if padding is None else padding.sum(dim=1).clamp(min=1)
            over = self.layout.attend.diagonal(dim1=1, dim2=2).sum(dim=1).double()
            output = output._replace(share=output.share * over / own)
        if judged:
            output = output._replace(share=output.share + getattr(denoiser.head, "share", 0.0) * self.judged)
        self.state.count(self.state.active if self.rows is None else self.rows, output.share)
        return View(denoiser, output, self.padding, self.tokens)


TRAINED = {"critic": "token-critic", "remedi": "remedi"}
"""Objectives of a head (``quality.objective``) that a score needs by that word, and the preset of that score."""


@dataclass(frozen=True)
class Score:
    """Whom to doubt: ``function(view, state)`` -> (B, L) float, low is doubted.

    needs: of ``head`` (a learned quality; a word of ``TRAINED`` says of which objective), ``view`` (anything of the
    forward pass), ``shadow`` (a pass laid out with a shadow block), ``probe`` (a pass from which tokens were hidden)
    and ``cavity`` (passes that hide every open token once). watches: a figure that the state is to remember of every
    pass before the function is asked (``State.remember``). options: the dataclass of its options, once it is bound.
    """

    function: Callable[..., Tensor]
    needs: frozenset[str]
    watches: Callable[..., Tensor] | None = None
    options: Any = None


Pattern = Callable[..., Tensor]  # scores (B, L), inf where not open, state -> scores of those doubted together
Select = Callable[..., tuple[Tensor, Tensor]]  # scores, state -> (keys (B, L), counts (B,)): lowest keys first
Guard = Callable[..., Tensor]  # counts (B,), state -> counts
Act = Callable[..., None]  # view or None, state, keys (B, L), counts (B,): revises the counts lowest keys
Fill = Callable[..., Tensor]  # state, allowed (B, L) -> how many of the allowed masks to fill (B,)
Order = Callable[..., None]  # view, state, allowed (B, L), counts (B,): fills counts of the allowed
Method = Callable[..., Generator[Forward, View, None]]  # state -> the passes that it needs
Alpha = Callable[..., Tensor]  # step (B,) or (2, B), steps (B,) -> share visible, as step
Rate = Callable[..., Tensor]  # alpha_t, alpha_s, factor of eta (B,) -> chance to be masked again (B,)
EtaSchedule = Callable[..., Tensor]  # share of steps over, steps (B,) -> factor of eta (B,)
End = Callable[..., Tensor | Literal[False]]  # state -> rows (B,) bool whose block may end before its steps are used

scores: Registry[Score] = Registry("score")
patterns: Registry[Pattern] = Registry("pattern")
selects: Registry[Select] = Registry("select")
guards: Registry[Guard] = Registry("guard")
acts: Registry[Act] = Registry("act")
fills: Registry[Fill] = Registry("fill")
orders: Registry[Order] = Registry("order")
methods: Registry[Method] = Registry("method")
alphas: Registry[Alpha] = Registry("alpha")
rates: Registry[Rate] = Registry("rate")
eta_schedules: Registry[EtaSchedule] = Registry("eta_schedule")
ends: Registry[End] = Registry("end")


def trained_for(name: str) -> str:
    """The objective that a head was trained by which a score can read."""
    return next((word for word in TRAINED if word in scores[name].needs), "prism")


registries: dict[str, Registry] = {
    "score": scores, "pattern": patterns, "select": selects, "guard": guards, "act": acts, "fill": fills,
    "order": orders, "method": methods, "alpha": alphas, "rate": rates, "eta_schedule": eta_schedules,
    "end": ends,
}  # fmt: skip


def score(
    name: str, *needs: str, watches: Callable[..., Tensor] | None = None
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that registers a score, what it needs and what it watches."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        scores(name)(Score(function, frozenset(needs), watches))
        return function

    return register


@dataclass
class NoOptions:
    """Of a part that has none."""


def options_of(part: Any) -> type:
    """The dataclass of a part's options, by the annotation of its parameter ``options``."""
    return _annotated(part.function if isinstance(part, Score) else part)


@functools.cache
def _annotated(function: Callable[..., Any]) -> type:
    taken = inspect.signature(function, eval_str=True).parameters.get("options")
    return NoOptions if taken is None else taken.annotation


@dataclass(frozen=True)
class Bound:
    """The parts that a resolved configuration names, with their options in them: called without any."""

    score: Score
    pattern: Pattern
    select: Select
    guards: tuple[Guard, ...]
    act: Act
    fill: Fill
    order: Order
    method: Method
    alpha: Alpha
    rate: Rate
    eta_schedule: EtaSchedule
    end: End


def bind(config: SamplerConfig) -> Bound:
    """Parts and their options, looked up once; config as ``resolve`` gives it."""

    def one(kind: str, name: str) -> Any:
        part = registries[kind][name]
        schema = options_of(part)
        if schema is NoOptions:
            return part
        options = schema(**{item.name: config.options[f"{kind}.{item.name}"] for item in fields(schema)})
        if isinstance(part, Score):
            return replace(part, function=functools.partial(part.function, options=options), options=options)
        return functools.partial(part, options=options)

    chosen = {kind: one(kind, getattr(config, kind)) for kind in registries if kind != "guard"}
    return Bound(guards=tuple(one("guard", name) for name in config.guard.split("+")), **chosen)
