"""Log-likelihoods of an answer under a masked diffusion model, which has no order of its own.

The ``bound`` is the one such a model is trained on: the answer's tokens in a random order, each given the context and
those before it. Over all orders that is

    L = sum over k = 1 … n of the mean, over the sets M of k positions, of (1 / k) sum over i in M of log p(x_i | c, x outside M)

(LLaDA, arXiv 2502.09992, equation 6: k uniform, the sum weighted by n / k). 2^n - 1 forward passes give it exactly. Where
that is more than ``mc_num`` it is estimated from as many draws: k is stratified, and each set is followed by its mirror
image. ``block`` writes blocks from left to right and bounds within each; with blocks of one token that is ``chain``, the
plain left-to-right product. ``chain-confidence`` takes the position of which the model is surest next; it and ``chain``
are probabilities that sum to one over all answers, not bounds.

Every pass holds the rows of one answer alone, so that a figure does not depend on what else is asked for.
"""  # noqa: E501  (a formula)

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, unknown
from ..models.denoiser import Denoiser
from ..ops import philox

KINDS = {
    "bound": "the bound over all orders of the whole answer",
    "block": "blocks from left to right, the bound within each",
    "chain": "token by token from left to right",
    "chain-confidence": "token by token, wherever the model is surest next",
}
HELD = 2**26  # logits that are held at a time


@dataclass
class Scored:
    """A log-likelihood in nats. stderr: of the draws, 0.0 where all is computed, None where there were too few to tell.

    forwards: rows that were passed through the model. draws: (S, P) f64, what the strata's draws say of the whole (each
    stratum's mean, summed over the strata, is their part of it); None where nothing was drawn. fixed: what is exact.
    """

    value: float
    stderr: float | None
    forwards: int
    fixed: float = 0.0
    draws: Tensor | None = None

    def minus(self, other: "Scored") -> tuple[float, float | None]:
        """The difference and its standard error; draws that were made with the same masks are compared one by one."""
        if self.draws is None or other.draws is None or self.draws.shape != other.draws.shape:
            known = self.stderr is not None and other.stderr is not None
            return self.value - other.value, math.hypot(self.stderr, other.stderr) if known else None  # type: ignore[arg-type]
        return self.value - other.value, _stderr(self.draws - other.draws)


@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser, context: Tensor, answer: Tensor, *, kind: str = "bound", mc_num: int = 128,
    block_length: int = 32, batch_size: int = 32, seed: int = 0, key: int = 0,
) -> Scored:  # fmt: skip
    """The log-likelihood of ``answer`` (n,) int64 behind ``context`` (m,) int64, of one of the ``KINDS``.

    mc_num: forwards at the most (of a block, for kind=block); what takes no more is computed exactly. batch_size: rows
    a pass. seed, key: of the draws; the masks of two answers are the same where these and the lengths are, and as alike
    as their lengths allow otherwise. Raises ConfigError.
    """
    if kind not in KINDS:
        raise unknown("likelihood", kind, KINDS)
    if mc_num < 1 or block_length < 1 or batch_size < 1:
        raise ConfigError(f"mc_num = {mc_num}, block_length = {block_length}, batch_size = {batch_size}: allowed >= 1.")
    length = len(answer)
    if not length:
        return Scored(0.0, 0.0, 0)
    text = torch.cat([context, answer]).to(_device(denoiser))
    if kind == "chain-confidence":
        return Scored(_by_confidence(denoiser, text, length)[0], 0.0, length)
    size = {"bound": length, "chain": 1}.get(kind, block_length)
    found = []
    for number, start in enumerate(range(0, length, size)):
        behind = length - start  # of the block and what is still to come, which is masked throughout
        found.append(_bound(denoiser, text, behind, min(size, behind), mc_num, batch_size, seed, key + number))
    drawn = [one.draws for one in found if one.draws is not None]
    known = [one.stderr for one in found]
    return Scored(
        sum(one.value for one in found),
        None if None in known else math.hypot(*known),  # type: ignore[arg-type]
        sum(one.forwards for one in found),
        sum(one.fixed for one in found),
        torch.cat(drawn) if drawn else None,
    )


@torch.no_grad()
def greedy(denoiser: Denoiser, context: Tensor, answer: Tensor) -> tuple[bool, int]:
    """Whether greedy decoding writes this answer (LLaDA, eval_llada.py suffix_greedy_prediction), and in how many
    passes that was known: the likeliest token, one a pass, where the model is surest.
    """
    text = torch.cat([context, answer]).to(_device(denoiser))
    _, same, passes = _by_confidence(denoiser, text, len(answer), stop=True)
    return same, passes


def _bound(
    denoiser: Denoiser, text: Tensor, behind: int, size: int, mc_num: int, batch_size: int, seed: int, key: int
) -> Scored:
    """The bound on ``size`` tokens that ``behind`` before the end begin, all after them masked."""
    exact = 2**size - 1 <= mc_num
    masks, weights = subsets(size) if exact else draw(size, mc_num, seed, key)
    start = len(text) - behind
    rows = text.repeat(len(masks), 1)
    rows[:, start + size :] = denoiser.mask_id
    rows[:, start : start + size][masks.to(text.device)] = denoiser.mask_id
    said = torch.zeros(masks.shape, dtype=torch.float64)
    said[masks] = _log_probability(denoiser, rows, masks, start, text, batch_size)
    each = said.sum(1) / masks.sum(1)  # the mean over the masked
    if exact:
        value = float((each * weights).sum())
        return Scored(value, 0.0, len(masks), value)
    strata = int(weights)
    draws = each.view(strata, -1, 2).mean(2) * (size / strata)  # pairs that mirror each other
    return Scored(float(draws.mean(1).sum()), _stderr(draws), len(masks), 0.0, draws)


def subsets(size: int) -> tuple[Tensor, Tensor]:
    """All sets of positions but the empty one, (2^n - 1, n) bool, and the weight (2^n - 1,) f64 of each one's mean."""
    number = torch.arange(1, 2**size)
    masks = (number[:, None] >> torch.arange(size)) & 1 == 1
    return masks, torch.tensor([1 / math.comb(size, k) for k in masks.sum(1).tolist()], dtype=torch.float64)


def draw(size: int, mc_num: int, seed: int, key: int) -> tuple[Tensor, int]:
    """Sets of positions (N, n) bool, N <= max(2, mc_num), and the number of strata.

    The numbers of positions k come from strata of equal probability, two or three pairs in each. A pair is the k
    positions with the lowest random numbers and the k with the highest.
    """
    pairs = max(1, mc_num // 2)
    strata = max(1, pairs // 2)
    each = pairs // strata
    pair = torch.arange(strata * each)
    request, zero = torch.full_like(pair, key), torch.zeros_like(pair)
    within = philox.uniform(seed, request, zero, pair, philox.PROBE)
    share = (pair // each + within) / strata
    count = (share * size).floor().long().clamp(max=size - 1) + 1
    place = torch.arange(size)
    chance = philox.uniform(seed, request[:, None], place, pair[:, None], philox.PROBE, 1)
    rank = chance.argsort(1).argsort(1)
    low, high = rank < count[:, None], rank >= size - count[:, None]
    return torch.stack([low, high], 1).flatten(0, 1), strata


def _stderr(draws: Tensor) -> float | None:
    """Of the sum of the strata's means; None where a stratum has one draw."""
    return None if draws.shape[1] < 2 else float((draws.var(1) / draws.shape[1]).sum().sqrt())


def _log_probability(
    denoiser: Denoiser, rows: Tensor, masks: Tensor, start: int, text: Tensor, batch_size: int
) -> Tensor:
    """log p of the text's own tokens where ``masks``, from column ``start`` on, are set, in their order, f64 (CPU)."""
    found = []
    for first in range(0, len(rows), batch_size):
        part, masked = rows[first : first + batch_size], masks[first : first + batch_size]
        row, column = masked.nonzero(as_tuple=True)
        index = (row * rows.shape[1] + start + column).to(rows.device)
        wanted = text[start + column.to(text.device)]
        found += [logits.gather(1, ids[:, None])[:, 0] for logits, ids in _each(denoiser, part, index, wanted)]
    return torch.cat(found).double().cpu()


def _each(denoiser: Denoiser, rows: Tensor, index: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """log-softmax (M, V) f32 at flat places ``index``, and what is ``wanted`` there, ``HELD`` logits at a time."""
    output = denoiser(rows, None)
    for places, ids in zip(
        *(table.split(max(1, HELD // denoiser.vocab_size)) for table in (index, wanted)), strict=True
    ):
        logits, chosen = denoiser.project(output, places)
        yield logits[chosen].float().log_softmax(-1), ids


def _by_confidence(denoiser: Denoiser, text: Tensor, length: int, stop: bool = False) -> tuple[float, bool, int]:
    """log p of the last ``length`` tokens where the surest is revealed next, whether each was the likeliest, passes.

    stop: at the first that was not. The order follows from what is visible, so that this is a distribution.
    """
    row, start = text.clone()[None], len(text) - length
    row[:, start:] = denoiser.mask_id
    total, same, left = 0.0, True, torch.arange(start, len(text), device=text.device)
    while len(left) and (same or not stop):
        sure = torch.cat([log for log, _ in _each(denoiser, row, left, text[left])])
        best = int(sure.max(1).values.argmax())
        place = int(left[best])
        total += float(sure[best, text[place]])
        same &= bool(sure[best].argmax() == text[place])
        row[0, place] = text[place]
        left = torch.cat([left[:best], left[best + 1 :]])
    return total, same, length - len(left)


def _device(denoiser: Denoiser) -> torch.device:
    return next((p.device for p in denoiser.parameters()), torch.device("cpu"))
