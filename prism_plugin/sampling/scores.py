"""Whom to doubt: one short function a score, (B, L) float over the visible tokens, low is doubted."""

import os
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..models.denoiser import View
from ..options import option
from .fills import draw_settings, likeliest
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


@score("critic", "head", "critic", "view")
def critic(view: View, state: State) -> Tensor:
    """Chance that a token of a text filled in one go is the data's (Token-Critic, arXiv 2209.04439)."""
    return view.quality


@score("policy", "head", "remedi", "view")
def policy(view: View, state: State) -> Tensor:
    """Confidence of a policy that judges masks too: that a token is right, or would be (RemeDi, arXiv 2509.23653)."""
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
    rows = state.rows(state.open)
    seen = likeliest(view, state, rows, given=state.tokens.flatten()[rows[0]])
    return _spread(seen.given_prob, rows, state)  # type: ignore[arg-type]  # it was asked for


@score("self_likelihood_mean", "view", watches=self_likelihood)
def self_likelihood_mean(view: View, state: State) -> Tensor:
    """The mean of that probability over all passes since the token was written (arXiv 2602.02927)."""
    mean = state.watched_sum / state.watched_passes.clamp(min=1)
    return mean.masked_fill(~state.open, torch.inf)


@score("drop", "view")
def drop(view: View, state: State) -> Tensor:
    """By how much that probability has grown since the token was written: low where it dropped."""
    return self_likelihood(view, state) - state.written


@score("confidence", "view")
def confidence(view: View, state: State) -> Tensor:
    """Largest probability at the position, whichever token stands there (hierarchical decoding of dInfer)."""
    rows = state.rows(state.open)
    return _spread(likeliest(view, state, rows).prob, rows, state)


def _confidence_anywhere(view: View, state: State) -> Tensor:
    """Largest probability at every position of the block, masks included, (B, L) f32."""
    rows = state.rows(state.in_block)
    return _spread(likeliest(view, state, rows).prob, rows, state)


@score("confidence_drop", "view", watches=_confidence_anywhere)
def confidence_drop(view: View, state: State) -> Tensor:
    """By how much the largest probability has grown since the pass before: low where it dropped (Saber on LLaDA)."""
    return (state.watched - state.watched_before).masked_fill(~state.open, torch.inf)


@score("margin", "view")
def margin(view: View, state: State) -> Tensor:
    """Distance of the two largest probabilities at the position: small is brittle (CoRe's shortlist)."""
    rows = state.rows(state.open)
    seen = likeliest(view, state, rows, margin=True)
    return _spread(seen.margin, rows, state)  # type: ignore[arg-type]  # it was asked for


@score("shadow", "view", "shadow")
def shadow(view: View, state: State) -> Tensor:
    """Probability of a visible token at its shadow, a mask in its place that sees all but it (WINO, 2507.18578).

    Tokens written in this very step stood there as masks: they have none yet.
    """
    length, place = state.tokens.shape[1], state.places
    scored = state.open & ~state.filled
    there = (place >= 0) & scored.gather(1, place.clamp(min=0))
    index, _, where, _ = rows = state.rows(there, place)
    row, shown = index // place.shape[1], view.columns(length)
    seen = likeliest(shown, state, rows, given=state.tokens[row, where])
    view.logit_rows += shown.logit_rows
    scored_at = torch.where(index >= 0, row * length + where, -1)
    return _spread(seen.given_prob, (scored_at,), state)  # type: ignore[arg-type]  # it was asked for


@score("shadow_evidence", "view", "shadow")
def shadow_evidence(view: View, state: State) -> Tensor:
    """That probability / w_i: the evidence without a head, nearly, in one pass over text and shadow."""
    return shadow(view, state) / state.written


@score("support", "view", "probe")
def support(view: View, state: State) -> Tensor:
    """Probability of the tokens that were hidden from the pass, all at once (CoRe's joint probe, arXiv 2602.04096)."""
    rows = state.rows(state.hidden & state.open)
    seen = likeliest(view, state, rows, given=state.tokens.flatten()[rows[0]])
    return _spread(seen.given_prob, rows, state)  # type: ignore[arg-type]  # it was asked for


@dataclass
class Groups:
    """Of scores that judge a token by its absence."""

    cavity_groups: int = option(
        8, "groups that the visible tokens are hidden in, a forward pass each; 0 hides every token alone", low=0
    )


@score("cavity", "view", "cavity")
def cavity(view: View, state: State, options: Groups) -> Tensor:
    """Posterior of a visible token with its group hidden, in ``cavity_groups`` passes: g of the backbone itself."""
    return state.cavity


@score("cavity_evidence", "view", "cavity")
def cavity_evidence(view: View, state: State, options: Groups) -> Tensor:
    """That posterior / w_i: the evidence without a head, at the price of ``cavity_groups`` passes more a step."""
    return state.cavity / state.written


def resolved(given: Any, key: str) -> Callable[..., Tensor]:
    """A function, or the one of the name MODULE:NAME, of a module in the working directory too; ConfigError, naming
    ``key``, where there is none.
    """
    if callable(given):
        return given
    here = os.getcwd()
    sys.path.append(here)  # where `python` looks and a console script does not
    try:
        return pkgutil.resolve_name(str(given))
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"sampler.{key} = {given}: no such function ({error}).") from error
    finally:
        sys.path.remove(here)


@dataclass
class Judge:
    """Of score=verifier."""

    verifier: Any = option(None, "function of tokens (B, L): how good each text is; or MODULE:NAME")  # noqa: RUF009
    passing: float = option(1.0, "a text that is as good is left alone")

    def __post_init__(self) -> None:
        if self.verifier is None:
            raise ConfigError("sampler.score.verifier is not set: a function of tokens (B, L), or MODULE:NAME of one.")
        self.judge()

    def judge(self) -> Callable[[Tensor], Tensor]:
        """The function itself; ConfigError where there is none of that name."""
        return resolved(self.verifier, "score.verifier")


@score("verifier", "view")
def verifier(view: View, state: State, options: Judge) -> Tensor:
    """Self-likelihood where a text whose block is full does not pass; of one that does nobody is doubted."""
    good = options.judge()(state.tokens)
    if good.shape != state.step.shape:
        raise ConfigError(f"sampler.score.verifier gave {tuple(good.shape)}: wanted one number for each text.")
    failed = (good < options.passing) & ~state.masked.any(dim=1)
    return self_likelihood(view, state).masked_fill(~failed[:, None], torch.inf)


@score("disagreement", "view")
def disagreement(view: View, state: State) -> Tensor:
    """1 less the probability of the likeliest token, where that is another than the visible one (LLaDA 2.1)."""
    rows = state.rows(state.open)
    best = likeliest(view, state, rows)
    other = best.token != state.tokens.flatten()[rows[0]]
    return _spread(torch.where(other, 1 - best.prob, torch.inf), rows, state)


@score("redraw", "view")
def redraw(view: View, state: State) -> Tensor:
    """1 less the probability of a token drawn anew, where that is another than the visible one (GIDD's correction)."""
    rows = state.rows(state.open)
    drawn = view.sample(*rows, **draw_settings(state, rows[0]))
    other = drawn.token != state.tokens.flatten()[rows[0]]
    return _spread(torch.where(other, 1 - drawn.prob, torch.inf), rows, state)


def _spread(values: Tensor, rows: tuple[Tensor, ...], state: State) -> Tensor:
    """Values (N,) of chosen rows as a table (B, L), inf elsewhere."""
    return state.spread(rows[0], values, torch.inf)


@score("random")
def random(view: View, state: State) -> Tensor:
    """The control: anybody."""
    return state.uniform(ops.REVISE).float()
