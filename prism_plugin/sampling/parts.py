"""The registries of parts. A part is a short pure function of (view, state); a method is a generator over them."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.denoiser import Denoiser, Layout, View
from ..registry import Registry
from .state import State


@dataclass(frozen=True)
class Forward:
    """What a method asks for: a forward pass over ``state.tokens``, or over other tokens (B, N) int64 in their place.

    layout: positions and attention of the method's own; only hosts that give it are asked. real (B, N) bool then tells
    the text from what was added to it.
    """

    state: State
    other: Tensor | None = None
    real: Tensor | None = None
    layout: Layout | None = None

    @property
    def tokens(self) -> Tensor:
        """(B, N) int64, what the pass goes over."""
        return self.state.tokens if self.other is None else self.other

    @property
    def padding(self) -> Tensor | None:
        """(B, N) bool or None, True where a token is real."""
        return self.state.padding if self.real is None else self.real

    def by(self, denoiser: Denoiser) -> View:
        """The pass itself, its ``share`` that of the text's length."""
        laid_out = () if self.layout is None else (self.layout,)
        output = denoiser(self.tokens, self.padding, *laid_out)
        if self.other is not None:
            output = output._replace(share=output.share * self.tokens.shape[1] / self.state.tokens.shape[1])
        return View(denoiser, output, self.padding)


@dataclass(frozen=True)
class Score:
    """Whom to doubt: ``function(view, state)`` -> (B, L) float, low is doubted.

    needs: of ``head`` (a learned quality), ``view`` (anything of the forward pass), ``shadow`` (a pass laid out with a
    shadow block), ``probe`` (a pass from which tokens were hidden) and ``cavity`` (passes that hide every open token
    once). watches: a figure that the state is to remember
    of every pass before the function is asked (``State.remember``).
    """

    function: Callable[[View, State], Tensor]
    needs: frozenset[str]
    watches: Callable[[View, State], Tensor] | None = None


Pattern = Callable[[Tensor, State], Tensor]  # scores (B, L), inf where not open -> scores of those doubted together
Select = Callable[[Tensor, State], tuple[Tensor, Tensor]]  # scores -> (keys (B, L), counts (B,)): lowest keys first
Guard = Callable[[Tensor, State], Tensor]  # counts (B,) -> counts
Act = Callable[[View | None, State, Tensor, Tensor], None]  # revises the counts (B,) lowest keys (B, L)
Fill = Callable[[State, Tensor], Tensor]  # -> how many of the allowed masks (B, L) to fill (B,)
Order = Callable[[View, State, Tensor, Tensor], None]  # fills counts (B,) of the allowed (B, L)
Method = Callable[[State], Generator[Forward, View, None]]
Alpha = Callable[[Tensor, Tensor, Any], Tensor]  # step, steps (B,), config -> share visible (B,)
Rate = Callable[[Tensor, Tensor, Tensor], Tensor]  # alpha_t, alpha_s, eta (B,) -> chance to be masked again (B,)
EtaSchedule = Callable[[Tensor, Tensor], Tensor]  # share of steps over, steps (B,) -> factor of eta (B,)

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

PARTS: dict[str, Registry] = {
    "score": scores, "pattern": patterns, "select": selects, "guard": guards, "act": acts, "fill": fills,
    "order": orders, "method": methods, "alpha": alphas, "rate": rates, "eta_schedule": eta_schedules,
}  # fmt: skip


def score(
    name: str, *needs: str, watches: Callable[[View, State], Tensor] | None = None
) -> Callable[[Callable[[View, State], Tensor]], Callable[[View, State], Tensor]]:
    """Decorator that registers a score, what it needs and what it watches."""

    def register(function: Callable[[View, State], Tensor]) -> Callable[[View, State], Tensor]:
        scores(name)(Score(function, frozenset(needs), watches))
        return function

    return register
