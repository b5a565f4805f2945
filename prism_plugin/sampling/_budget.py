# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the host knows of a batch of ragged rows: their blocks and steps, where each stands, which text has which slot.

Pure-Python mode of Cython: compiled where there is a compiler, run as it is where there is none, with the same numbers
either way. Tables are numpy int64 unless said otherwise.
"""

import cython
import numpy as np


def number_blocks(editable: cython.uchar[:, :], block_length: cython.longlong, block_of: cython.longlong[:, :]) -> int:
    """Write into ``block_of`` (B, L) the block of each editable position, -1 elsewhere; returns the most of a row.

    Blocks are stretches of ``block_length`` positions from the first editable one on; a stretch with nothing to write
    is no block. 0 is one block.
    """
    rows: cython.Py_ssize_t = editable.shape[0]
    length: cython.Py_ssize_t = editable.shape[1]
    b: cython.Py_ssize_t
    i: cython.Py_ssize_t
    first: cython.Py_ssize_t
    stretch: cython.longlong
    last: cython.longlong
    block: cython.longlong
    most: cython.longlong = 0
    for b in range(rows):
        first, last, block = -1, -1, -1
        for i in range(length):
            block_of[b, i] = -1
            if not editable[b, i]:
                continue
            if first < 0:
                first = i
            stretch = (i - first) // block_length if block_length > 0 else 0
            if stretch != last:
                block += 1
                last = stretch
            block_of[b, i] = block
        if block + 1 > most:
            most = block + 1
    return most


@cython.cclass
class Ledger:
    """Where every row stands, without asking the device.

    blocks (B,), how many a row has; size (B, K), positions of each; budget (B, K), its steps: ``steps`` shared evenly,
    the extra first. block, block_step (B,): the block being written, and the steps taken in it.
    """

    blocks: cython.longlong[:]
    size: cython.longlong[:, :]
    budget: cython.longlong[:, :]
    block: cython.longlong[:]
    block_step: cython.longlong[:]

    def __init__(self, block_of: cython.longlong[:, :], most: cython.Py_ssize_t, steps: cython.longlong) -> None:
        """block_of (B, L) as ``number_blocks`` made it."""
        rows: cython.Py_ssize_t = block_of.shape[0]
        b: cython.Py_ssize_t
        i: cython.Py_ssize_t
        share: cython.longlong
        self.blocks, self.block, self.block_step = (np.zeros(rows, np.int64) for _ in range(3))
        self.size, self.budget = (np.zeros((rows, most), np.int64) for _ in range(2))
        for b in range(rows):
            for i in range(block_of.shape[1]):
                if block_of[b, i] >= 0:
                    self.size[b, block_of[b, i]] += 1
                    if block_of[b, i] >= self.blocks[b]:
                        self.blocks[b] = block_of[b, i] + 1
            share = self.blocks[b] if self.blocks[b] > 0 else 1
            for i in range(most):
                self.budget[b, i] = steps // share + (1 if i < steps % share else 0)

    def tables(self) -> tuple:
        """(blocks, size, budget) as arrays that share this memory."""
        return np.asarray(self.blocks), np.asarray(self.size), np.asarray(self.budget)

    def turns(self) -> tuple:
        """(N,) each, of the rows that are not finished: steps taken in the block being written, and all that it has."""
        rows = self.running()
        block = np.asarray(self.block)[rows]
        return np.asarray(self.block_step)[rows], np.asarray(self.budget)[rows, block]

    def advance(self) -> None:
        """A step of every row, whose blocks end by their budgets alone."""
        b: cython.Py_ssize_t
        for b in range(self.blocks.shape[0]):
            if self.block[b] < self.blocks[b]:
                self.block_step[b] += 1
                if self.block_step[b] >= self.budget[b, self.block[b]]:
                    self.block[b] += 1
                    self.block_step[b] = 0

    def read(self, block, block_step) -> None:
        """Take over B numbers each, as the device has them."""
        b: cython.Py_ssize_t
        for b in range(self.blocks.shape[0]):
            self.block[b] = block[b]
            self.block_step[b] = block_step[b]

    def admit(self, rows: list, other) -> None:
        """Put the rows of another, new, in the place of ``rows``."""
        blocks, wide, steps = other.tables()
        size, budget = np.asarray(self.size), np.asarray(self.budget)
        more: cython.Py_ssize_t = max(0, wide.shape[1] - size.shape[1])
        size, budget = np.pad(size, ((0, 0), (0, more))), np.pad(budget, ((0, 0), (0, more)))
        size[rows], budget[rows] = 0, 0
        size[rows, : wide.shape[1]], budget[rows, : wide.shape[1]] = wide, steps
        self.size, self.budget = size, budget
        np.asarray(self.blocks)[rows] = blocks
        np.asarray(self.block)[rows] = 0
        np.asarray(self.block_step)[rows] = 0

    def keep(self, rows: list) -> None:
        """Only these rows go on."""
        self.blocks, self.block = np.asarray(self.blocks)[rows], np.asarray(self.block)[rows]
        self.block_step = np.asarray(self.block_step)[rows]
        self.size, self.budget = np.asarray(self.size)[rows], np.asarray(self.budget)[rows]

    def running(self) -> list:
        """Rows that are not finished, in order."""
        return [b for b in range(self.blocks.shape[0]) if self.block[b] < self.blocks[b]]

    def room(self, whole: cython.bint) -> int:
        """Positions of all blocks that are being written, or of all texts that are."""
        b: cython.Py_ssize_t
        k: cython.Py_ssize_t
        total: cython.longlong = 0
        for b in range(self.blocks.shape[0]):
            if self.block[b] < self.blocks[b]:
                for k in range(self.size.shape[1]):
                    if whole or k == self.block[b]:
                        total += self.size[b, k]
        return total


@cython.cclass
class Slots:
    """Which of ``texts`` texts stands in which of ``slots`` slots; they are begun in order."""

    texts: cython.Py_ssize_t
    begun: cython.Py_ssize_t
    holder: list

    def __init__(self, texts: cython.Py_ssize_t, slots: cython.Py_ssize_t) -> None:
        self.texts = texts
        self.begun = min(texts, slots)
        self.holder = list(range(self.begun))

    def turn(self, running: list) -> tuple:
        """Told the slots whose texts are not finished: (slots that ended, their texts, slots that begin, their texts).

        Where no text is left to begin, a slot that ended is gone: those that run on are numbered anew, in order.
        """
        slot: cython.Py_ssize_t
        alive: set = set(running)
        ended: list = [slot for slot in range(len(self.holder)) if slot not in alive]
        done: list = [self.holder[slot] for slot in ended]
        begin: list = ended[: self.texts - self.begun]
        new: list = list(range(self.begun, self.begun + len(begin)))
        self.begun += len(begin)
        for slot, text in zip(begin, new, strict=True):
            self.holder[slot] = text
        gone: set = set(ended[len(begin) :])
        self.holder = [self.holder[slot] for slot in range(len(self.holder)) if slot not in gone]
        return ended, done, begin, new
