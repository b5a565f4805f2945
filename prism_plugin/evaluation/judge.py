"""Who judges texts that no rule does: models of text that are not the model under test."""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError
from ..models.checkpoint import ASSETS
from ..tasks import TRAIN
from ..tasks.text import TextTask

JUDGES = ASSETS / "judges"


class Reader(ABC):
    """A model of text; ``name`` is what a table calls it."""

    name: str

    @abstractmethod
    def nll(self, tokens: np.ndarray) -> float:
        """Nats of a text (L,), its first tokens with what context they have."""

    def bits(self, task: TextTask, text: str) -> float:
        """Bits a character of a text, on tokens as the task's tokenizer makes them."""
        return self.nll(np.array(task.tokenizer.encode(text).ids)) / math.log(2) / max(1, len(text))


class Judge(Reader):
    """A 5-gram model with interpolated Kneser-Ney smoothing (Ney, Essen and Kneser, 1994; Chen and Goodman, 1999).

    Grams are numbers in base V, so that counting is sorting.
    """

    name = "5-gram"

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

    @staticmethod
    def knows(task: TextTask) -> bool:
        """Whether there is one for a task."""
        return True

    @classmethod
    def of(cls, task: TextTask) -> "Judge":
        """The one that has read the training texts of a task."""
        return cls(task.stream(TRAIN)[0].numpy(), task.vocab_size)

    def grams(self, tokens: np.ndarray, size: int) -> np.ndarray:
        """Every run of ``size`` tokens as a number."""
        windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), size)
        return windows @ self.vocab_size ** np.arange(size - 1, -1, -1, dtype=np.int64)

    def nll(self, tokens: np.ndarray) -> float:
        """See ``Reader.nll``."""
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


class Causal(Reader):
    """A small causal transformer that learned texts of its own, neither those of the models nor the held-out ones
    (benchmarks/judge.py). Every text begins with a mask.
    """

    name = "causal"

    def __init__(self, folder: str | Path, mask_id: int) -> None:
        from transformers import LlamaForCausalLM
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # a bar for a file of 3 MB
        try:
            self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        finally:
            if shown:
                logging.enable_progress_bar()
        self.mask_id = mask_id

    @staticmethod
    def knows(task: TextTask) -> bool:
        """Whether one is shipped for a task."""
        return (JUDGES / task.name / "config.json").exists()

    @classmethod
    def of(cls, task: TextTask) -> "Causal":
        """The one that is shipped for a task; ConfigError where there is none."""
        if not cls.knows(task):
            raise ConfigError(
                f"no causal judge of {task.name!r} is there: benchmarks/judge.py trains one; metric=judge needs none."
            )
        return cls(JUDGES / task.name, task.mask_id)

    @torch.no_grad()
    def nll(self, tokens: np.ndarray) -> float:
        """See ``Reader.nll``."""
        text = torch.from_numpy(tokens)
        before = torch.cat([text.new_tensor([self.mask_id]), text[:-1]])
        return float(torch.nn.functional.cross_entropy(self.model(before[None]).logits[0], text, reduction="sum"))
