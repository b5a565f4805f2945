"""Who judges texts that no rule does: a model of n-grams that is not the model under test."""

import math

import numpy as np

from ..tasks import TRAIN
from ..tasks.text import TextTask


class Judge:
    """A 5-gram model with interpolated Kneser-Ney smoothing (Ney, Essen and Kneser, 1994; Chen and Goodman, 1999).

    Grams are numbers in base V, so that counting is sorting.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 5, discount: float = 0.75) -> None:
        self.vocab_size, self.discount = vocab_size, discount
        self.tables: list[tuple[np.ndarray, ...]] = []
        grams, counts = np.unique(self.grams(tokens, order), return_counts=True)
        for size in range(order, 0, -1):
            contexts, place = np.unique(grams // vocab_size, return_inverse=True)
            total, kinds = np.bincount(place, counts), np.bincount(place)
            self.tables.insert(0, (grams, counts, contexts, total, kinds))
            # a shorter gram counts in how many contexts it was seen, not how often
            grams, counts = np.unique(grams % vocab_size ** (size - 1), return_counts=True)

    @classmethod
    def of(cls, task: TextTask) -> "Judge":
        """The one that has read the training texts of a task."""
        return cls(task.stream(TRAIN)[0].numpy(), task.vocab_size)

    def bits(self, task: TextTask, text: str) -> float:
        """Bits a character of a text, on tokens as the task's tokenizer makes them."""
        return self.nll(np.array(task.tokenizer.encode(text).ids)) / math.log(2) / max(1, len(text))

    def grams(self, tokens: np.ndarray, size: int) -> np.ndarray:
        """Every run of ``size`` tokens as a number."""
        windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), size)
        return windows @ self.vocab_size ** np.arange(size - 1, -1, -1, dtype=np.int64)

    def nll(self, tokens: np.ndarray) -> float:
        """Nats of a text (L,), its first tokens with what context they have."""
        p = np.full(len(tokens), 1 / self.vocab_size)
        for size, (grams, counts, contexts, total, kinds) in enumerate(self.tables[: len(tokens)], 1):
            asked = self.grams(tokens, size)
            at, seen = _find(grams, asked)
            context, known = _find(contexts, asked // self.vocab_size)
            kept = np.where(seen, np.maximum(counts[at] - self.discount, 0), 0)
            shorter = p[size - 1 :]
            found = (kept + self.discount * kinds[context] * shorter) / total[context]
            p[size - 1 :] = np.where(known, found, shorter)
        return float(-np.log(p).sum())


def _find(table: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where numbers stand in a sorted table, and whether they do."""
    at = np.searchsorted(table, asked).clip(max=len(table) - 1)
    return at, table[at] == asked
