"""Tasks with data that every machine can make: what a text is, where it comes from, when it is right."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..registry import Registry

TRAIN, HELD_OUT = 0, 1
"""Streams of texts that never meet: models are trained on the first and judged on the second."""


class Task(Protocol):
    """Fixed-length texts over a small vocabulary, numbered, so that text i is the same on every machine.

    A task whose texts people can write also has ``prompt(text)``, tokens with holes where the text says so.
    """

    name: str
    vocab_size: int
    mask_id: int
    length: int
    grid: int  # side of a box where positions form a Sudoku grid, 0 where they form a line

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """Clean texts ``first`` to ``first + count - 1`` of a stream, (count, length) int64."""
        ...

    def prompts(self, count: int, clues: int, stream: int = HELD_OUT, first: int = 0) -> Tensor:
        """Texts with all but ``clues`` random positions masked, (count, length) int64."""
        ...

    def accuracy(self, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) bool solved and (B,) float share of right positions, for (B, length) tokens."""
        ...

    def verdict(self, tokens: Tensor, prompts: Tensor) -> list[str]:
        """What to tell people of each text (B, L), '' where there is nothing to tell."""
        ...

    def render(self, tokens: Tensor) -> str:
        """A text of shape (length,) for people."""
        ...


tasks: Registry[Callable[[], Task]] = Registry("task")


def get_task(name: str) -> Task:
    """The task of that name; ConfigError with the nearest name otherwise."""
    return tasks[name]()


def hide(tokens: Tensor, keep: Tensor, mask_id: int) -> Tensor:
    """Tokens where ``keep`` is true, the mask elsewhere."""
    return torch.where(keep, tokens, mask_id)


from . import sudoku as _sudoku_tasks  # noqa: E402, F401  (they register their tasks)
from . import text as _text_tasks  # noqa: E402, F401
