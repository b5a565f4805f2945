"""Between text and tokens: what a model's prompts are made of, and where an answer ends."""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import ConfigError, DataError
from .tasks import get_task
from .tasks.text import HOLE


class Codec(Protocol):
    """How a model reads and writes text. ends: token sequences after which a text is over; end_id: what follows."""

    ends: list[list[int]]
    end_id: int

    def encode(self, text: str, new_tokens: int) -> Tensor:
        """Tokens (L,) int64 of a text, a mask for a hole ``[MASK]``, n for ``[MASK*n]``, ``new_tokens`` behind it.

        A prompt for a tokenizer (``new_tokens`` > 0) is anybody's text: what looks like a hole there is none.
        """
        ...

    def stop(self, text: str) -> list[int]:
        """A stop string as tokens; empty where it is none that can be watched for while a text is written."""
        ...

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens (L,), up to its end."""
        ...

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """The text of what was ``written`` (L,) bool where a prompt had masks."""
        ...

    def show(self, tokens: Tensor) -> str:
        """A text that is being written (L,), its masks shown."""
        ...


class TaskCodec:
    """The vocabulary of a task of ours."""

    def __init__(self, task: Any) -> None:
        self.ends: list[list[int]] = []
        self.task, self.end_id = task, task.mask_id

    def encode(self, text: str, new_tokens: int) -> Tensor:
        """See ``Codec.encode``."""
        return self.task.prompt(f"{text}[MASK*{new_tokens}]" if new_tokens else text)

    def stop(self, text: str) -> list[int]:
        """None: byte pairs of a text depend on what stands around it."""
        return []

    def decode(self, tokens: Tensor) -> str:
        """See ``Codec.decode``."""
        return self.task.render(tokens)

    show = decode

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """See ``Codec.answer``."""
        return self.decode(tokens[written])


class GridCodec(TaskCodec):
    """A Sudoku grid inside a text: the last lines that hold ``side`` cells each, '.' or 0 where blank."""

    def encode(self, text: str, new_tokens: int) -> Tensor:
        """See ``Codec.encode``; the masks are the blanks. Raises DataError where the text holds no grid."""
        side = self.task.grid**2
        rows = [re.sub(r"\s", "", line).replace(".", "0") for line in text.splitlines()]
        rows = [row for row in rows if re.fullmatch(f"[0-{side}]{{{side}}}", row)][-side:]
        if len(rows) < side:
            raise DataError(
                f"the model {self.task.name!r} reads grids of {side} lines of {side} cells ('.' is blank), and the "
                f"text holds {len(rows)} such lines. For lm-eval that is the task prism_sudoku, or another model by "
                "--model_args model=<folder or hub id>."
            )
        return torch.tensor([int(cell) for cell in "".join(rows)])

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """See ``Codec.answer``; the whole grid, clues too."""
        return self.decode(tokens)


class TokenizerCodec:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any, mask_id: int) -> None:
        self.tokenizer, self.mask_id = tokenizer, mask_id
        self.ends = [] if tokenizer.eos_token_id is None else [[tokenizer.eos_token_id]]
        self.end_id = next(i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id, mask_id) if i is not None)

    def encode(self, text: str, new_tokens: int) -> Tensor:
        """See ``Codec.encode``."""
        ids: list[int] = []
        parts = [text] if new_tokens else HOLE.split(text)  # text and the sizes of the holes in turn
        for number, part in enumerate(parts):
            ids += (
                [self.mask_id] * int(part or 1)
                if number % 2
                else self.tokenizer.encode(part, add_special_tokens=not number)
            )
        return torch.tensor(ids + [self.mask_id] * new_tokens, dtype=torch.long)

    def stop(self, text: str) -> list[int]:
        """See ``Codec.stop``."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Tensor) -> str:
        """See ``Codec.decode``; up to the first special token."""
        special = set(self.tokenizer.all_special_ids)
        return self.tokenizer.decode(list(takewhile(lambda token: token not in special, tokens.tolist())))

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """See ``Codec.answer``."""
        return self.decode(tokens[written])

    def show(self, tokens: Tensor) -> str:
        """See ``Codec.show``."""
        return self.tokenizer.decode(tokens.tolist())


def codec_of(denoiser: Any, tokenizer: Any) -> Codec | None:
    """The codec of a tokenizer, or of the task that a model of ours was trained on; None where there is neither."""
    if tokenizer is not None:
        return TokenizerCodec(tokenizer, denoiser.mask_id)
    if not getattr(denoiser, "task", ""):
        return None
    task = get_task(denoiser.task)
    return GridCodec(task) if task.grid else TaskCodec(task)


def cut(text: str, stop: str | Sequence[str]) -> str:
    """The text before the first of the ``stop`` strings."""
    for end in listed(stop):
        if end:
            text = text.split(end, 1)[0]
    return text


def listed(texts: str | Sequence[str]) -> list[str]:
    """One string or many, as a list."""
    return [texts] if isinstance(texts, str) else list(texts)


def need(codec: Codec | None, denoiser: Any) -> Codec:
    """The codec; ConfigError where the model has none."""
    if codec is None:
        raise ConfigError(
            f"{type(denoiser).__name__} knows tokens only: give enable(…, tokenizer=…), or token ids (B, L)."
        )
    return codec
