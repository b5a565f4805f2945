"""The text while it is written: fixed-shape tensors with one entry a row or a position, changed only by methods here.

Rows (texts) move through their blocks and end independently: step, block and budget are tensors, not counters.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..models.noise import MASKS, Noise
from ._budget import Ledger, number_blocks
from .parts import Bound, bind

NEVER, MANY = -(2**31), 2**31
TRAIL = 4096
"""Texts of a block that ``guard=repeat`` remembers: an older one that comes back is new to it."""


@dataclass
class State:
    """tokens (B, L) int64; editable (B, L) bool, what the sampler may write; config, a ``SamplerConfig`` resolved.

    request (B,) int64 keys the random numbers of a row, so that its result does not depend on its neighbours.
    padding (B, L) bool or None, True where a token is real. suppress (S,) int64 lists ids that are never drawn.
    """

    tokens: Tensor
    editable: Tensor
    mask_id: int
    config: Any
    request: Tensor
    padding: Tensor | None = None
    suppress: Tensor | None = None
    truth: Tensor | None = None  # (B, L) int64, where it is known: right and wrong revisions are told apart
    stop: tuple[Tensor, ...] = ()  # token sequences (n,) int64 that end a text
    pad_id: int = 0  # what follows the end of a text
    vocab_size: int = 0
    noise: Noise = MASKS  # see ``Denoiser``
    # Called between steps with the rows that run; True where it has put other texts in their places (``admit``).
    refill: Callable[["State", list[int]], bool] | None = None

    parts: Bound = field(init=False)  # what config names
    bias: tuple[Tensor, Tensor] | None = field(init=False)  # ids (S,) int64, what is added to their logits (S,) f32
    place: Tensor = field(init=False)  # (B, L) int64, position in the text: padding on the left does not count
    block_of: Tensor = field(init=False)  # (B, L) int64, -1 where not editable
    blocks: Tensor = field(init=False)  # (B,) int64, how many blocks a row has
    size: Tensor = field(init=False)  # (B, K) int64, editable positions of each block
    budget: Tensor = field(init=False)  # (B, K) int64, steps of each block
    block: Tensor = field(init=False)  # (B,) int64, the one being written
    step: Tensor = field(init=False)  # (B,) int64, steps taken in all
    forwards: Tensor = field(init=False)  # (B,) int64, forward passes that a row had need of
    cost: Tensor = field(init=False)  # (B,) float64, the same weighted by the share of the row that a pass went over
    block_step: Tensor = field(init=False)  # (B,) int64, steps taken in this block
    written: Tensor = field(init=False)  # (B, L) f32, probability of the token when it was written
    former: Tensor = field(init=False)  # (B, L) int64, the token that was last remasked here, -1 for none
    doubted: Tensor = field(init=False)  # (B, L) bool, revised in this step
    filled: Tensor = field(init=False)  # (B, L) bool, written in this step
    hidden: Tensor = field(init=False)  # (B, L) bool, visible tokens that the last pass did not see (a joint probe)
    cavity: Tensor = field(init=False)  # (B, L) f32, posterior of the visible tokens that passes hid in this step
    remasks: Tensor = field(init=False)  # (B, L) int64, how often a position was revised
    revised_at: Tensor = field(init=False)  # (B, L) int64, the step in which that last was, NEVER before
    streak: Tensor = field(init=False)  # (B, L) int64, redraws in a row that wrote the same token
    watched: Tensor = field(init=False)  # (B, L) f32, the figure that a score with a memory watches, in this pass
    watched_before: Tensor = field(init=False)  # (B, L) f32, in the pass before
    watched_sum: Tensor = field(init=False)  # (B, L) f32, over the passes since the token was written
    watched_passes: Tensor = field(init=False)  # (B, L) int64, how many these are
    view: Any = field(init=False, default=None)  # the pass of this step, a ``View``
    guessed_by: Any = field(init=False, default=None)  # the pass that the five below are of
    guess: Tensor = field(init=False)  # (B, L) int64, likeliest token, of masks too; see ``remember_guess``
    guess_prob: Tensor = field(init=False)  # (B, L) f32, its probability
    guess_moved: Tensor = field(init=False)  # (B, L) f32, by how much that has changed since the pass before
    guess_entropy: Tensor = field(init=False)  # (B, L) f32, entropy of the distribution in nats
    calm: Tensor = field(init=False)  # (B, L) int64, passes in a row in which the guess stayed
    settled: Tensor = field(init=False)  # (B, L) bool, left alone for good (guard=converged)
    fills_before: Tensor = field(init=False)  # (B,) int64, tokens written in the step before, MANY where there is none
    trail: Tensor = field(init=False)  # (B, T) int64, hashes of the last texts that guard=repeat has seen, T <= TRAIL
    cut: Tensor = field(init=False)  # (B,) bool, a block was ended by its budget or a guard before it came to rest
    fills: Tensor = field(init=False)  # (B,) int64, tokens written in all
    overwritten: Tensor = field(init=False)  # (B,) int64, revisions that put a token in place of another at once
    wasted: Tensor = field(init=False)  # (B,) int64, revisions that brought the same token back
    wrong_to_right: Tensor = field(init=False)  # (B,) int64, by the ``truth``
    right_to_wrong: Tensor = field(init=False)  # (B,) int64

    def __post_init__(self) -> None:
        self.parts = bind(self.config)
        rows, device = self.tokens.shape[0], self.tokens.device
        biased = self.config.logit_bias
        ids, added = [int(key) for key in biased], [float(value) for value in biased.values()]
        self.bias = (torch.tensor(ids, device=device), torch.tensor(added, device=device)) if biased else None
        self.place = torch.arange(self.tokens.shape[1], device=device).expand_as(self.tokens)
        if self.padding is not None:
            self.place = self.place - (self.padding.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        counter = torch.zeros(rows, dtype=torch.long, device=device)
        self.step, self.block, self.block_step = counter, counter.clone(), counter.clone()
        self.forwards, self.fills, self.overwritten, self.wasted = (counter.clone() for _ in range(4))
        self.wrong_to_right, self.right_to_wrong = counter.clone(), counter.clone()
        self.cost = counter.double()
        self.written = torch.ones(self.tokens.shape, device=device)
        self.cavity = torch.ones_like(self.written)
        self.remasks = torch.zeros_like(self.tokens)
        self.former = torch.full_like(self.tokens, -1)
        self.doubted = torch.zeros_like(self.editable)
        self.filled = torch.zeros_like(self.editable)
        self.hidden = torch.zeros_like(self.editable)
        self.revised_at = torch.full_like(self.tokens, NEVER)
        self.streak, self.watched_passes = torch.zeros_like(self.tokens), torch.zeros_like(self.tokens)
        self.watched, self.watched_before, self.watched_sum = (torch.zeros_like(self.written) for _ in range(3))
        self.guess, self.calm = torch.full_like(self.tokens, -1), torch.zeros_like(self.tokens)
        self.guess_prob, self.guess_moved, self.guess_entropy = (torch.zeros_like(self.written) for _ in range(3))
        self.settled = torch.zeros_like(self.editable)
        self.fills_before = torch.full_like(counter, MANY)
        kept = min(self.config.steps, TRAIL) if "repeat" in self.config.guard else 0
        self.trail = torch.zeros(rows, kept, dtype=torch.long, device=device)
        self.cut = torch.zeros_like(counter, dtype=torch.bool)
        block_of, self.ledger = lay_out(self.editable.cpu(), self.config)
        self.block_of = block_of.to(device)
        self.blocks, self.size, self.budget = (torch.from_numpy(t).to(device) for t in self.ledger.tables())
        self.room = self.ledger.room(True)  # the most positions that a list can have
        self.static = device.type != "cpu"  # row lists have a fixed length, so that the host need not wait for theirs
        self._certain, self._ahead = True, 0  # the ledger tells where every row stands, and how many steps it is behind
        self._looked = False  # the host has waited for the device in this step
        self._written_now: tuple[Any, ...] = (None, None, None)  # ``in_block``, made once a step, after what it is of
        self._levels_now: tuple[Any, ...] = (None, None, None)  # ``levels``, in the same way
        if self.config.method == "redraw" or self.config.act == "reset":
            _ = self.symbols  # found now, because a list of unknown length waits for the device
        self.asked: list[int] = []

    def running(self, ask: Callable[[], tuple[Tensor, ...]] | None = None) -> bool:
        """Whether a row is left to write, between two steps. Rows that have ended may make room for others.

        The host waits for the device only where a block can end by something else than its budget, or where a method
        has something to ``ask``: figures (B,) int64, of which ``asked`` then holds the totals.
        """
        ended = True
        while ended:
            self._looked = not self._certain or ask is not None
            for _ in range(self._ahead):
                self.ledger.advance()
            if self._looked:
                asked = () if ask is None else ask()
                block, block_step, *figures = _read(torch.stack([self.block, self.block_step, *asked])).tolist()
                self.ledger.read(block, block_step)
                self.asked = [sum(figure) for figure in figures]
            self._certain, self._ahead = True, 0
            ended = self.refill is not None and self.refill(self, self.ledger.running())
        self.room = self.ledger.room(self.config.reach == "text")
        return self.room > 0

    def admit(self, slots: list[int], texts: "State") -> None:
        """Put other texts (a state as new, of one length with this) in the places of rows that have ended."""
        index = torch.tensor(slots, device=self.tokens.device)
        most = max(self.budget.shape[1], texts.budget.shape[1])
        for state in (self, texts):
            wider = (0, most - state.budget.shape[1])
            state.size, state.budget = (torch.nn.functional.pad(table, wider) for table in (state.size, state.budget))
        self._each_row(lambda name, table: table.index_copy(0, index, getattr(texts, name)))
        self.ledger.admit(slots, texts.ledger)

    def keep(self, rows: list[int]) -> None:
        """Only these rows go on."""
        index = torch.tensor(rows, device=self.tokens.device)
        self._each_row(lambda name, table: table.index_select(0, index))
        self.ledger.keep(rows)

    def _each_row(self, change: Callable[[str, Tensor], Tensor]) -> None:
        names = [f.name for f in fields(self) if not f.init]
        for name in ("tokens", "editable", "request", "padding", "truth", *names):
            if isinstance(getattr(self, name), Tensor):
                setattr(self, name, change(name, getattr(self, name)))

    @classmethod
    def gathered(cls, rows: "Sequence[tuple[State, int]]") -> "State":
        """A state of rows of others, between two steps; these have one config, one length, one table of blocks.

        For a host in which texts come and go at any step and may come back.
        """
        first, device = rows[0][0], rows[0][0].tokens.device
        parts = [
            (some[0][0], torch.tensor([row for _, row in some], device=device))
            for some in (list(group) for _, group in groupby(rows, key=lambda each: id(each[0])))
        ]
        found = copy.copy(first)
        found._each_row(lambda name, table: torch.cat([getattr(s, name).index_select(0, index) for s, index in parts]))
        found.ledger = Ledger(found.block_of.cpu().numpy(), first.budget.shape[1], first.config.steps)
        found.ledger.read(*_read(torch.stack([found.block, found.block_step])).tolist())
        found._certain, found._ahead = True, 0
        return found

    def reached(self) -> slice:
        """Columns from the first that is being written in any row to the last that has been or is being written."""
        active = self.active[:, None]
        if not bool(active.any()):
            return slice(0, self.tokens.shape[1])
        begun = ((self.block_of >= 0) & (self.block_of <= self.block[:, None]) & active).any(dim=0)
        now = (self.in_block & active).any(dim=0)
        return slice(int(now.nonzero().min()), int(begun.nonzero().max()) + 1)

    def count(self, rows: Tensor, share: float | Tensor) -> None:
        """A forward pass that rows (B,) bool had need of, over a ``share`` of the text, (B,) where rows differ."""
        self.forwards = self.forwards + rows
        self.cost = torch.where(rows, self.cost + share, self.cost)

    @property
    def active(self) -> Tensor:
        """(B,) bool: rows that are not finished."""
        return self.block < self.blocks

    @property
    def in_block(self) -> Tensor:
        """(B, L) bool: editable positions of the block being written; not to be changed in place."""
        editable, block, found = self._written_now
        if editable is not self.editable or block is not self.block:
            found = self.editable & (self.block_of == self.block[:, None])
            self._written_now = (self.editable, self.block, found)
        return found

    @property
    def masked(self) -> Tensor:
        """(B, L) bool: masks of the block."""
        return self.in_block & (self.tokens == self.mask_id)

    @property
    def visible(self) -> Tensor:
        """(B, L) bool: written tokens of the block."""
        return self.in_block & (self.tokens != self.mask_id)

    @property
    def open(self) -> Tensor:
        """(B, L) bool: written tokens that may be revised (once more), of the block or, with reach=text, up to it."""
        config, where = self.config, self.visible
        if config.reach == "text":
            written = self.editable & (self.tokens != self.mask_id) & (self.block_of <= self.block[:, None])
            where = written & self.active[:, None]
        if config.max_remasks:
            where = where & (self.remasks < config.max_remasks)
        if config.cooldown:
            where = where & (self.step[:, None] - self.revised_at > config.cooldown)
        if config.lock_after:
            where = where & (self.streak < config.lock_after)
        if "converged" in config.guard:
            where = where & ~self.settled
        if config.protect_end:
            where = where & ~self._ends(self.editable, whole=True)
        return where

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """alpha_t, alpha_s (B,) float64: planned share of visible tokens now and after this step."""
        block, step, found = self._levels_now
        if block is not self.block or step is not self.block_step:
            block, step = self.block, self.block_step
            found = self.parts.alpha(torch.stack([step, step + 1]), self.of_block(self.budget)).unbind()
            self._levels_now = block, step, found
        return found

    @property
    def places(self) -> Tensor:
        """(B, S) int64: positions of the block being written, -1 where it has fewer than S.

        S is the most that a row of the batch has; on a device, where the host would have to wait to learn it, the most
        that any block has.
        """
        length = self.tokens.shape[1]
        size = int(self.ledger.tables()[1].max()) if self.static else int(self.in_block.sum(dim=1).amax())
        place = torch.arange(length, device=self.tokens.device)
        first = torch.where(self.in_block, place, length).sort(dim=1).values[:, :size]
        return first.masked_fill(first == length, -1)

    def of_block(self, table: Tensor) -> Tensor:
        """The column of a (B, K) table that belongs to the block being written, (B,)."""
        if table.shape[1] == 1:
            return table[:, 0]
        return table.gather(1, self.block.clamp(max=table.shape[1] - 1)[:, None])[:, 0]

    def uniform(self, stream: int, draw: int = 0) -> Tensor:
        """A uniform number for every position at this step, (B, L) float64."""
        return ops.uniform(self.config.seed, self.request[:, None], self.place, self.step[:, None], stream, draw)

    def rows(self, where: Tensor, place: Tensor | None = None) -> ops.Rows:
        """Chosen positions (B, W) as (index, request, position, step), (N,) int64 each; see ``View.sample``.

        place (B, W) int64: where each stands in the text, for W = L that is known. On a CPU nothing is padded. On a
        device the host has to wait to learn N, and does so once a step at most: other lists are ``room`` long, the
        number of positions in the blocks that are being written.
        """
        size = self.room if self.static else None
        if self.static and not self._looked:
            self._looked, size = True, int(_read(where.sum()))
        return ops.list_rows(where, self.request, self.place if place is None else place, self.step, size)

    def spread(self, index: Tensor, values: Tensor, fill: float) -> Tensor:
        """Values (N,) at flat indices (N,), -1 for none, as a table (B, L), ``fill`` elsewhere."""
        return ops.spread(index, values, fill, self.tokens.shape)

    def remask(self, scores: Tensor, eligible: Tensor, counts: Tensor) -> None:
        """Put the mask back where the ``counts`` (B,) lowest scores (B, L) of the eligible are."""
        before = self.tokens.clone()
        self.doubted = ops.remask_scatter_(self.tokens, scores, eligible, counts, self.mask_id)
        self._count_revised(before)

    def go_back(self, rows: Tensor, scores: Tensor, eligible: Tensor) -> None:
        """Rows (B,) bool are taken to the block before theirs, ``eligible`` (B, L) are masked again; it begins anew."""
        self.remask(scores, eligible, eligible.sum(dim=1) * rows)
        self.block = self.block - rows.long()
        self.block_step = self.block_step.masked_fill(rows, -1)  # the step that ends now is none of it
        self._certain = False

    def replace(self, index: Tensor, token: Tensor, prob: Tensor) -> None:
        """Revise and write at once: tokens (N,) with probabilities (N,) at the visible flat positions (N,)."""
        token = self.spread(index, token, -1)
        self.doubted = token >= 0
        self._count_revised(self.tokens)
        self.overwritten += self.doubted.sum(dim=1)
        self._put(token, self.spread(index, prob, 0.0), self.doubted)

    def redraw(self, token: Tensor, prob: Tensor) -> None:
        """Let tokens (B, L), the mask among them and -1 for none, stand here; what changes is revised, or filled."""
        changed, was_mask = (token >= 0) & (token != self.tokens), self.tokens == self.mask_id
        self.doubted, self.filled = changed & ~was_mask, changed & was_mask
        self._count_revised(self.tokens)
        back = self.doubted & (token == self.mask_id)
        self.overwritten += (self.doubted & ~back).sum(dim=1)
        self.tokens = self.tokens.masked_fill(back, self.mask_id)
        self._put(token, prob, changed & ~back)

    @functools.cached_property
    def symbols(self) -> Tensor:
        """(S,) int64: all that may be written."""
        real = torch.ones(self.vocab_size, dtype=torch.bool, device=self.tokens.device)
        if self.suppress is not None:
            real[self.suppress] = False
        return real.nonzero().squeeze(1)

    def any_symbol(self, draw: int) -> tuple[Tensor, Tensor]:
        """One of the ``symbols`` for every position, drawn uniformly, and its probability, (B, L) each."""
        symbol = self.symbols[(self.uniform(ops.REVISE, draw) * len(self.symbols)).long()]
        return symbol, torch.full_like(self.written, 1 / len(self.symbols))

    def begin_as_noise(self, alpha: Tensor) -> None:
        """Before a row's first step noise of the level ``alpha`` (B,) stands where its masks were: nobody wrote it, it
        counts as no fill.
        """
        fresh = self.editable & (self.tokens == self.mask_id) & (self.step == 0)[:, None]
        _, masks, even = self.noise.shares(alpha)
        symbol, prob = self.any_symbol(draw=5)
        fresh = fresh & (self.uniform(ops.REVISE, draw=6) * (masks + even)[:, None] < even[:, None])
        self.tokens, self.written = torch.where(fresh, symbol, self.tokens), torch.where(fresh, prob, self.written)

    def _count_revised(self, before: Tensor) -> None:
        self.former = torch.where(self.doubted, before, self.former)
        self.remasks += self.doubted
        self.revised_at = torch.where(self.doubted, self.step[:, None], self.revised_at)

    def write_rows(
        self, index: Tensor, token: Tensor, prob: Tensor, rank: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        """Write what was drawn at flat places (N,) of masks: all, or the ``counts`` (B,) of each row highest in rank.

        token (N,) int64, prob and rank, where one is given, (N,) f32; see ``ops.fill_rows``.
        """
        self.tokens, self.written, self.filled = ops.fill_rows(
            self.tokens, self.written, index, token, prob, rank, counts
        )
        self._note(self.filled)

    def _put(self, token: Tensor, prob: Tensor, where: Tensor) -> None:
        self.tokens, self.written = torch.where(where, token, self.tokens), torch.where(where, prob, self.written)
        self._note(where)

    def _note(self, where: Tensor) -> None:
        """Keep account of the tokens that have just come to stand ``where`` (B, L)."""
        self.fills = self.fills + where.sum(dim=1)
        if self.config.score == "none":  # nobody is ever revised
            return
        self.wasted += (where & (self.tokens == self.former)).sum(dim=1)
        if self.truth is not None:
            redone = where & (self.former >= 0)
            was, now = self.former == self.truth, self.tokens == self.truth
            self.wrong_to_right += (redone & ~was & now).sum(dim=1)
            self.right_to_wrong += (redone & was & ~now).sum(dim=1)
        if self.config.lock_after:
            redrawn = where & (self.former >= 0)
            again = torch.where(self.tokens == self.former, self.streak + 1, 1)
            self.streak = torch.where(redrawn, again, self.streak.masked_fill(where, 0))
        if self.parts.score.watches is not None:
            self.watched_sum = self.watched_sum.masked_fill(where, 0.0)
            self.watched_passes = self.watched_passes.masked_fill(where, 0)
        self.former = self.former.masked_fill(where, -1)

    def remember(self, figure: Tensor) -> None:
        """Note a pass's figure (B, L) f32 of every position, inf where there is none."""
        there = figure.isfinite()
        self.watched_before = self.watched
        self.watched = torch.where(there, figure, self.watched)
        self.watched_sum = self.watched_sum + figure.masked_fill(~there, 0.0)
        self.watched_passes = self.watched_passes + there

    def remember_guess(self, token: Tensor, prob: Tensor, entropy: Tensor) -> None:
        """Note a pass's likeliest tokens (B, L), -1 where none was asked for, and how long they have been the same."""
        there = token >= 0
        self.calm = torch.where(there, (self.calm + 1) * (token == self.guess), self.calm)
        self.guess_moved = torch.where(there, (prob - self.guess_prob).abs(), self.guess_moved)
        self.guess, self.guess_prob = torch.where(there, token, self.guess), torch.where(there, prob, self.guess_prob)
        self.guess_entropy = torch.where(there, entropy, self.guess_entropy)

    def seen_before(self) -> Tensor:
        """(B,) bool: this very text stood here at an earlier call; the text joins the trail."""
        # multiplication mod 2^64, then spread by shifts; a token and its place enter apart: 2 at 3 is not 3 at 2
        mixed = self.tokens * -7046029254386353131 + (self.place + 1) * -4265267296055464877
        mixed = (mixed ^ (mixed >> 29)) * -4658895280553007687
        now = (mixed ^ (mixed >> 32)).sum(dim=1)
        column = torch.arange(self.trail.shape[1], device=self.tokens.device)
        again = ((self.trail == now[:, None]) & (column < self.block_step[:, None])).any(dim=1) & self.active
        here = (self.block_step % self.trail.shape[1])[:, None]
        self.trail = self.trail.scatter(1, here, now[:, None])
        return again

    def advance(self, done: Tensor | Literal[False] = False) -> None:
        """End a step: rows whose block is ``done`` (B,), or has used its steps, go on to the next block."""
        before, certain = self.block, done is False
        over = None if done is False else done
        self.step, self.block, self.block_step = ops.end_step(
            self.step, before, self.block_step, self.blocks, self.of_block(self.budget), over
        )
        if self.config.end == "stable":
            self.cut |= (self.block > before) if over is None else (self.block > before) & ~over
        if "fewer_than_last" in self.config.guard:
            self.fills_before = self.filled.sum(dim=1).masked_fill(self.block > before, MANY)
        self._ahead += 1
        self._certain = self._certain and certain and not self.stop
        self._looked = False
        if self.stop:
            self._end_texts()

    def _end_texts(self) -> None:
        """Rows that have written a stop sequence, in their finished blocks, are finished: ``pad_id`` follows it."""
        finished = self.editable & (self.block_of < self.block[:, None])
        ends = self._ends(finished)
        ended = ends.any(dim=1)
        after = (ends.cumsum(dim=1) - ends.long() > 0) & self.editable
        self.tokens.masked_fill_(after & ended[:, None], self.pad_id)
        self.block = torch.where(ended, self.blocks, self.block)

    def _ends(self, where: Tensor, whole: bool = False) -> Tensor:
        """(B, L) bool: where a stop sequence ends, or its ``whole``, all of it in ``where`` (B, L)."""
        single = [sequence for sequence in self.stop if len(sequence) == 1]
        found = where & torch.isin(self.tokens, torch.cat(single)) if single else torch.zeros_like(where)
        for sequence in self.stop:
            if len(sequence) < 2:
                continue
            match = where
            for back, token in enumerate(sequence.flip(0)):
                match = match & (where & (self.tokens == token)).roll(back, dims=1)
                match[:, :back] = False
            for back in range(len(sequence) if whole else 1):
                found |= match.roll(-back, dims=1)
        return found


def lay_out(editable: Tensor, config: Any) -> tuple[Tensor, Ledger]:
    """The block of every position (B, L) int64, -1 where not editable, and what the host knows of the blocks.

    Blocks are ``block_length`` positions long from the first editable one; steps are shared evenly, the extra first. A
    stretch with nothing to write is no block and takes no steps. ConfigError where there are more blocks than steps.
    """
    allowed = np.ascontiguousarray(editable.numpy()).view(np.uint8)
    block_of = np.empty(allowed.shape, np.int64)
    most = max(1, number_blocks(allowed, config.block_length, block_of))
    if config.steps < most:
        raise ConfigError(
            f"sampler.steps = {config.steps} is fewer than the {most} blocks that "
            f"sampler.block_length = {config.block_length} makes of this text: every block needs a step."
        )
    return torch.from_numpy(block_of), Ledger(block_of, most, config.steps)


def _read(table: Tensor) -> Tensor:
    """The one place where a step waits for the device."""
    return table.cpu()
