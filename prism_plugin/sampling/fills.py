"""How masks are filled: how many (``fill``) and which first (``order``)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..models.denoiser import View
from ..options import option
from .parts import fills, orders
from .schedules import planned, sigma
from .state import State


@dataclass
class Least:
    """Of fills that count."""

    fill_least: int = option(0, "masks filled a step at the least", low=0)


@fills("count")
def count(state: State, allowed: Tensor, options: Least) -> Tensor:
    """As many as bring the text to its plan, what was just remasked included (LLaDA, PRISM), and ``fill_least``."""
    return (planned(state) - state.visible.sum(dim=1)).clamp(min=options.fill_least)


@fills("least")
def least(state: State, allowed: Tensor, options: Least) -> Tensor:
    """``fill_least`` masks, all of them in the block's last step: no plan, the order alone says how many."""
    last = state.block_step + 1 >= state.of_block(state.budget)
    return torch.where(last, allowed.sum(dim=1), options.fill_least)


@fills("more")
def more(state: State, allowed: Tensor, options: Least) -> Tensor:
    """``count``, and more than were just doubted, so that every step makes headway (dInfer)."""
    return torch.maximum(count(state, allowed, options), state.doubted.sum(dim=1) + 1)


@fills("all")
def everything(state: State, allowed: Tensor) -> Tensor:
    """Every mask (P2, RCR: what is too much is masked again)."""
    return allowed.sum(dim=1)


@fills("hazard")
def hazard(state: State, allowed: Tensor) -> Tensor:
    """Each allowed mask with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), all in the last step.

    sigma is the ``rate`` at which visible tokens are masked again (ReMDM), 0 for MDLM. The same uniform numbers
    order the masks in ``order=random``, so that the ones filled are those that came up.
    """
    alpha_t, alpha_s = state.levels
    chance = (alpha_s - (1 - sigma(state)) * alpha_t) / (1 - alpha_t)
    return (allowed & (state.uniform(ops.ORDER) <= chance[:, None])).sum(dim=1)


def draw_settings(state: State, index: Tensor) -> dict[str, Any]:
    """How tokens are drawn at flat positions (N,), -1 for none, as ``ops.sample_rows`` wants it."""
    config = state.config
    settings = {
        "seed": config.seed, "temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k,
        "min_p": config.min_p, "confidence_of": config.confidence_of, "top_p_rule": config.top_p_rule,
        "suppress": state.suppress, "logit_bias": state.bias,
    }  # fmt: skip
    if config.repetition_penalty != 1:
        unseen = state.tokens == state.mask_id
        unseen = unseen if state.padding is None else unseen | ~state.padding
        seen = state.tokens.masked_fill(unseen, -1), index.clamp(min=0) // state.tokens.shape[1]
        settings |= {"repetition_penalty": config.repetition_penalty, "seen": seen}
    return settings


def likeliest(
    view: View, state: State, rows: tuple[Tensor, ...], given: Tensor | None = None, margin: bool = False
) -> ops.Sampled:
    """The likeliest token of chosen rows (see ``State.rows``), its untempered probability, and that of ``given``."""
    settings: dict[str, Any] = {"seed": 0, "temperature": 0.0, "confidence_of": "untempered", "stream": ops.PROBE}
    return view.sample(*rows, **settings, suppress=state.suppress, given=given, margin=margin)


def guess(state: State) -> None:
    """The likeliest tokens of the block by this step's pass, asked for once a pass (``State.remember_guess``)."""
    view = state.view
    if view is None or view is state.guessed_by:
        return
    state.guessed_by = view
    rows = state.rows(state.in_block)
    settings: dict[str, Any] = {"seed": 0, "temperature": 0.0, "confidence_of": "untempered", "stream": ops.PROBE}
    seen = view.sample(*rows, **settings, suppress=state.suppress, entropy=True)
    token, prob, entropy = (
        state.spread(rows[0], *each) for each in ((seen.token, -1), (seen.prob, 0), (seen.entropy, 0))
    )
    state.remember_guess(token, prob, entropy)


@orders("random")
def random(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """In random order: only the positions that are filled need logits."""
    rows = state.rows(ops.select_lowest(state.uniform(ops.ORDER), allowed, counts))
    drawn = view.sample(*rows, **draw_settings(state, rows[0]))
    state.write_rows(rows[0], drawn.token, drawn.prob)


@orders("confidence")
def confidence(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """The drawn tokens of highest probability first (LLaDA low_confidence, Dream maskgit_plus)."""
    best_first(view, state, allowed, counts, "prob")


@orders("margin")
def margin(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """Largest distance between the two likeliest tokens first (Dream topk_margin)."""
    best_first(view, state, allowed, counts, "margin")


@orders("entropy")
def entropy(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """Lowest entropy first (Dream entropy)."""
    best_first(view, state, allowed, counts, "entropy")


@dataclass
class Threshold:
    """Of order=threshold."""

    fill_bound: float = option(0.9, "a token of this probability or more is filled", low=0)


@orders("threshold")
def threshold(view: View, state: State, allowed: Tensor, counts: Tensor, options: Threshold) -> None:
    """Every drawn token of probability ``fill_bound`` or more, likeliest first (Fast-dLLM, arXiv 2505.22618)."""
    best_first(view, state, allowed, counts, "prob", lambda ranked: ranked >= options.fill_bound)


@dataclass
class ThresholdCapped:
    """Of order=threshold_capped."""

    fill_bound: float = option(0.6, "a likelier token is filled", low=0)


@orders("threshold_capped")
def threshold_capped(view: View, state: State, allowed: Tensor, counts: Tensor, options: ThresholdCapped) -> None:
    """Likelier than ``fill_bound``, at most 70% of the masks, of these at least 5 and at most 20 (WINO)."""
    cap = (allowed.sum(dim=1) * 0.7).long().clamp(5, 20)[:, None]
    rank = torch.arange(allowed.shape[1], device=allowed.device)
    best_first(view, state, allowed, counts, "prob", lambda ranked: (ranked > options.fill_bound) & (rank < cap))


@dataclass
class Hierarchy:
    """Of order=hierarchy."""

    fill_bound: float = option(0.9, "a likelier token is filled", low=0)
    tau: float = option(0.1, "the likeliest of a run of masks is filled where it is likelier", low=0)


@orders("hierarchy")
def hierarchy(view: View, state: State, allowed: Tensor, counts: Tensor, options: Hierarchy) -> None:
    """The likeliest of every run of masks where it is likelier than ``tau``, and all above ``fill_bound`` (dInfer)."""
    rows = state.rows(allowed)
    drawn = view.sample(*rows, **draw_settings(state, rows[0]))
    table = state.spread(rows[0], drawn.prob, -torch.inf)
    starts = allowed & ~torch.nn.functional.pad(allowed[:, :-1], (1, 0))
    run = starts.cumsum(dim=1)
    best = torch.full_like(table, -torch.inf).scatter_reduce(1, run.clamp(max=table.shape[1] - 1), table, "amax")
    first = (table == best.gather(1, run.clamp(max=table.shape[1] - 1))) & (table > options.tau)
    wanted = allowed & (first | (table > options.fill_bound))
    counts = torch.maximum(counts, wanted.sum(dim=1))
    rank = drawn.prob + wanted.flatten()[rows[0].clamp(min=0)]
    state.write_rows(rows[0], drawn.token, drawn.prob, rank, counts)


@dataclass
class Factor:
    """Of order=factor."""

    fill_bound: float = option(1.0, "f, what the r-th may lack of certainty times r + 1", low=0)


@orders("factor")
def factor(view: View, state: State, allowed: Tensor, counts: Tensor, options: Factor) -> None:
    """The r likeliest while the r-th has probability 1 - f / (r + 1) or more, f the ``fill_bound`` (Fast-dLLM)."""

    def stands(ranked: Tensor) -> Tensor:
        rank = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        return ranked >= 1 - options.fill_bound / (rank + 1)

    best_first(view, state, allowed, counts, "prob", stands)


@dataclass
class EntropyBound:
    """Of order=entropy_bound."""

    fill_bound: float = option(0.1, "nats that the joint distribution may lose", low=0)


@orders("entropy_bound")
def entropy_bound(view: View, state: State, allowed: Tensor, counts: Tensor, options: EntropyBound) -> None:
    """The r of lowest entropy while their entropies less the largest sum to ``fill_bound`` nats or less (EB-Sampler).

    That bounds what the joint distribution of the r loses by drawing them independently (arXiv 2505.24857).
    """
    bound = options.fill_bound
    best_first(view, state, allowed, counts, "entropy", lambda ranked: (-ranked).cumsum(1) + ranked <= bound)


@dataclass
class Commit:
    """Of order=commit: bounds on the mean gap of the two likeliest tokens, in nats, by the steps that are over."""

    gap_early: float = option(7.5, "in the first third of a block's steps, up to .33 of them", low=0)
    gap_middle: float = option(5.0, "in the second", low=0)
    gap_late: float = option(2.5, "in the last", low=0)


@orders("commit")
def commit(view: View, state: State, allowed: Tensor, counts: Tensor, options: Commit) -> None:
    """By confidence, and all masks at once when their logits' mean gap of first to second is large (2508.19982).

    The bounds change at .33 and .67 of the steps, this one counted, as in the released generate_earlyexit.py.
    """
    rows = state.rows(allowed)
    best = likeliest(view, state, rows, margin=True)
    gap = best.prob.log() - (best.prob - best.margin).clamp(min=1e-12).log()  # type: ignore[operator]
    mean = state.spread(rows[0], gap, 0.0).sum(dim=1) / allowed.sum(dim=1).clamp(min=1)
    bounds = torch.tensor([options.gap_early, options.gap_middle, options.gap_late], device=mean.device)
    progress = (state.block_step + 1) / state.of_block(state.budget)
    third = (progress >= 0.33).long() + (progress >= 0.67)
    best_first(view, state, allowed, torch.where(mean >= bounds[third], allowed.sum(dim=1), counts), "prob")


@orders("above_mean")
def above_mean(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """Every drawn token likelier than those of the block were on average when written, remasked ones too (Saber)."""
    had = state.visible | (state.in_block & (state.remasks > 0))
    mean = ((state.written * had).sum(1) / had.sum(1).clamp(min=1)).masked_fill(~had.any(1), torch.inf)
    best_first(view, state, allowed, counts, "prob", lambda ranked: ranked > mean[:, None])


def best_first(view: View, state: State, allowed: Tensor, counts: Tensor, by: str, stands: Any = None) -> None:
    """Fill the ``counts`` best of the allowed, by a figure of ``ops.Sampled`` (entropy: lowest first).

    stands: figures ranked from the best, (B, L), to bool (B, L): more are filled as long as it holds without a gap.
    """
    rows = state.rows(allowed & (counts > 0)[:, None])
    drawn = view.sample(*rows, **draw_settings(state, rows[0]), margin=by == "margin", entropy=by == "entropy")
    rank = -drawn.entropy if by == "entropy" else getattr(drawn, by)  # type: ignore[operator]  # it was asked for
    if stands is not None:
        ranked = state.spread(rows[0], rank, -torch.inf).sort(dim=1, descending=True).values
        there = ranked > -torch.inf
        more = (there & stands(ranked.masked_fill(~there, 0.0))).long().cumprod(dim=1).sum(dim=1)
        counts = torch.maximum(counts, more)
    state.write_rows(rows[0], drawn.token, drawn.prob, rank, counts)
