"""Texts for the trainer: a task's, or the user's own from JSONL, a text file, or a data set of the Hugging Face hub.

A row of the user's own is one of (a string may be a list of token ids instead):

{"prompt": "…", "response": "…"}                                     the response is learned
{"messages": [{"role": "user", "content": "…"}, …]}                  the last message, the assistant's, is learned
{"text": "…"}                                                        all of it is learned
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..config import DataConfig
from ..errors import ConfigError, DataError
from ..models.denoiser import Denoiser
from ..tasks import HELD_OUT, TRAIN


class Source(Protocol):
    """Numbered texts in two streams that never meet: a ``tasks.Task``, a ``Corpus``, or a host's own data."""

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """Texts ``first`` to ``first + count - 1``, (count, L) int64. One of ragged texts has ``batch`` instead."""
        ...


def batch(source: Any, first: int, count: int, stream: int) -> dict[str, Tensor]:
    """What an objective takes: tokens (count, L) int64, number (count,) int64, and where texts are ragged or have
    prompts maskable and padding, (count, L) bool, True where a token is learned and where it is real.
    """
    made = source.batch(first, count, stream) if hasattr(source, "batch") else {}
    return made or {"tokens": source.texts(first, count, stream)} | {"number": torch.arange(first, first + count)}


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of rows that may differ in length, as one: tokens are padded with 0, which ``padding`` hides."""
    longest = max(row["tokens"].shape[1] for row in rows)
    padded = [
        {name: F.pad(x, (0, longest - x.shape[1])) if x.ndim > 1 else x for name, x in row.items()} for row in rows
    ]
    return {name: torch.cat([row[name] for row in padded]) for name in rows[0]}


class Texts(Dataset):
    """The first ``size`` texts of the training stream, each a batch of one."""

    def __init__(self, source: Any, size: int) -> None:
        self.source, self.size = source, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return batch(self.source, number, 1, TRAIN)


class Corpus:
    """Texts of the user's own, tokenized: every epoch in an order of its own, the held-out ones always in the same.

    Raises DataError, before a step is made, for a text that the model cannot take, naming where it stands.
    """

    def __init__(self, config: DataConfig, denoiser: Denoiser, tokenizer: Any, seed: int) -> None:
        longest = min(config.length or denoiser.max_length, denoiser.max_length)
        found = [(where, encode(row, tokenizer, where)) for where, row in read(config)]
        if len(found) == 1 and Path(config.name).suffix == ".txt":
            found = _pieces(found[0][1][0], longest)
        rows = []
        for where, (ids, start) in found:
            if len(ids) > longest:
                if config.drop_long:
                    continue
                raise DataError(
                    f"{where}: {len(ids)} tokens are more than the {longest} that "
                    f"{'data.length allows' if config.length else 'the model takes'}: shorten the text, or "
                    "data.drop_long=true leaves such out."
                )
            if start >= len(ids):
                raise DataError(f"{where}: every position is protected, there is nothing to learn: no response.")
            outside = [token for token in ids if not 0 <= token < denoiser.vocab_size or token == denoiser.mask_id]
            if outside:
                raise DataError(
                    f"{where}: token {outside[0]} came, the model knows 0 to {denoiser.vocab_size - 1} without its "
                    f"mask, {denoiser.mask_id}."
                )
            rows.append((torch.tensor(ids), start))
        if len(rows) < 2:
            raise DataError(
                f"data {config.name!r} is empty: {len(rows)} of {len(found)} texts are left, and one is wanted to "
                "learn from, one to judge on."
            )
        kept = max(1, round(config.held_out * len(rows)))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        self.streams = {HELD_OUT: [rows[n] for n in order[:kept]], TRAIN: [rows[n] for n in order[kept:]]}
        self.seed, self.order = seed, cache(self._order)
        self.ragged = len({len(ids) for ids, _ in rows}) > 1
        self.learned = max(len(ids) - start for ids, start in rows)
        if self.ragged and "padding" not in denoiser.gives:
            raise DataError(f"{type(denoiser).__name__} takes no padding, and the texts differ in length.")

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(1000003 * self.seed + epoch)
        return torch.randperm(len(self.streams[TRAIN]), generator=generator).tolist()

    def batch(self, first: int, count: int, stream: int) -> dict[str, Tensor]:
        """Texts ``first`` to ``first + count - 1``, each longer than the data set once an epoch; see ``batch``."""
        rows = self.streams[stream]
        made = []
        for number in range(first, first + count):
            epoch, place = divmod(number, len(rows))
            ids, start = rows[self.order(epoch)[place] if stream == TRAIN else place]
            real = torch.ones(1, len(ids), dtype=torch.bool)
            row = {"tokens": ids[None], "number": torch.tensor([number]), "maskable": torch.arange(len(ids)) >= start}
            made.append({**row, "maskable": row["maskable"][None], "padding": real})
        return collate(made)


Encoded = tuple[list[int], int]


def read(config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a data set, each with where it stands; DataError where there is none or it cannot be read."""
    path = Path(config.name)
    try:
        if path.suffix == ".txt":
            yield config.name, {"text": path.read_text()}
        elif path.suffix == ".jsonl":
            for number, line in enumerate(path.read_text().splitlines(), 1):
                where = f"{config.name}, line {number}"
                try:
                    row = json.loads(line) if line.strip() else None
                except ValueError as error:
                    raise DataError(f"{where} is not JSON: {error}.") from error
                if row is not None:
                    yield where, row if isinstance(row, dict) else {}
        elif path.is_file():
            raise DataError(f"data {config.name!r}: a file's name ends in .jsonl, or in .txt for running text.")
        else:
            for number, row in enumerate(_data_set(config)):
                yield f"{config.name}, row {number}", row
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data {config.name!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _data_set(config: DataConfig) -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"data {config.name!r} needs datasets: pip install 'prism-plugin[train]'.") from None
    try:
        if not Path(config.name).is_dir():
            return datasets.load_dataset(config.name, split=config.split)
        found = datasets.load_from_disk(config.name)
        return found[config.split] if isinstance(found, datasets.DatasetDict) else found
    except Exception as error:  # offline, unknown, private, no such split: each has a type of its own
        said = str(error).split("\n")[0]
        raise DataError(f"no data set {config.name!r} with a split {config.split!r}: {said}") from error


def encode(row: dict[str, Any], tokenizer: Any, where: str) -> Encoded:
    """The tokens of a row and where the part that is learned starts; it ends with the tokenizer's end of text."""

    def ids(text: Any) -> list[int]:
        if isinstance(text, list) and all(isinstance(token, int) for token in text):
            return text
        if not isinstance(text, str):
            raise DataError(f"{where}: text or a list of token ids is wanted, a {type(text).__name__} came.")
        if tokenizer is None:
            raise DataError(f"{where}: the model brings no tokenizer: give lists of token ids in place of text.")
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def spoken(messages: list[Any]) -> list[int]:
        return ids(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    chat = getattr(tokenizer, "chat_template", None)
    first = [token for token in [getattr(tokenizer, "bos_token_id", None)] if token is not None]
    last = [token for token in [getattr(tokenizer, "eos_token_id", None)] if token is not None]
    if "messages" in row:
        messages = row["messages"]
        roles = [message.get("role") for message in messages]
        if not chat:
            raise DataError(f"{where}: messages need a tokenizer with a chat template: give prompt and response.")
        if len(roles) < 2 or roles[-1] != "assistant":
            raise DataError(f"{where}: the last of two or more messages is the assistant's; roles {roles} came.")
        prompt, response = spoken(messages[:-1]), messages[-1]["content"]
    elif "prompt" in row and "response" in row:
        prompt, response = row["prompt"], row["response"]
        if isinstance(prompt, str):
            prompt = spoken([{"role": "user", "content": prompt}]) if chat else first + ids(prompt)
    elif "text" in row:
        prompt, response = [], row["text"]
    else:
        raise DataError(f"{where}: prompt and response, messages, or text is wanted; {sorted(row)} came.")
    learned = ids(response)
    if isinstance(response, str):
        learned = [*learned, *last] if "text" not in row else [*first, *learned, *last]
    return [*ids(prompt), *learned], len(prompt)


def _pieces(ids: list[int], length: int) -> list[tuple[str, Encoded]]:
    """Running text in pieces of one length; what is left at the end is dropped."""
    count = len(ids) // length
    return [(f"piece {n}", (ids[n * length : (n + 1) * length], 0)) for n in range(count)]
