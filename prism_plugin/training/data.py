"""Texts for the trainer: a task's, or the user's own from files of any usual kind, or a data set of the hub.

A row of the user's own is one of (a string may be a list of token ids instead), or as ``LAYOUTS`` and ShareGPT call it:

{"prompt": "…", "response": "…"}                                     the response is learned
{"messages": [{"role": "user", "content": "…"}, …]}                  the last message, the assistant's, is learned
{"text": "…"}                                                        all of it is learned

Tokens are made by the model's ``text.Codec``, as they are when a text is written; docs/text.md says what is learned.
"""

import bz2
import csv
import gzip
import json
import logging
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..config import ColumnsConfig, DataConfig
from ..errors import ConfigError, DataError
from ..files import hub_answers
from ..models.denoiser import Denoiser
from ..tasks import HELD_OUT, TRAIN
from ..text import Codec, TokenizerCodec, codec_of, kind

log = logging.getLogger(__name__)

Encoded = tuple[list[int], int]
PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TABLES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
KINDS = (".jsonl", ".ndjson", ".json", ".txt", *TABLES)
"""Endings of files that can be read, the first four packed too (``PACKED``); tables are read by ``datasets``."""
SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
SPLITS |= {"dev": "validation", "eval": "test"}
"""Words in the names of a folder's files that say which split they are of; without one a file is of ``train``."""
LAYOUTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("", ("prompt",), "response"),
    ("prompt and completion", ("prompt",), "completion"),
    ("alpaca", ("instruction", "input"), "output"),
    ("dolly", ("instruction", "context"), "response"),
    ("question and answer", ("question",), "answer"),
)
"""What rows of other people are called, their columns of the prompt (the first is always there), and of the answer."""
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
"""What ShareGPT calls who speaks."""


class Source(Protocol):
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
    """The first ``size`` texts of the training stream, each a batch of one; several at once are as few batches as may
    be, which ``collate`` joins.
    """

    def __init__(self, source: Any, size: int) -> None:
        self.source, self.size = source, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return batch(self.source, number, 1, TRAIN)

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        """Batches that together are the texts of these numbers: what is consecutive is made in one call."""
        starts = [n for n, number in enumerate(numbers) if not n or number != numbers[n - 1] + 1]
        ends = [*starts[1:], len(numbers)]
        return [batch(self.source, numbers[a], b - a, TRAIN) for a, b in zip(starts, ends, strict=True)]


class Sieve:
    """Rows that cannot be used: a DataError that names the row, or with ``skip`` left out, and counted by reason."""

    def __init__(self, skip: bool = False) -> None:
        self.skip, self.reasons = skip, Counter[str]()

    def __call__(self, where: str, make: Callable[..., Any], *given: Any) -> Any:
        """What ``make(*given)`` makes of a row, None where that is left out. Whatever goes wrong is of the row."""
        try:
            return make(*given)
        except MemoryError:
            raise
        except Exception as error:
            said = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            if not self.skip:
                hint = "" if said.startswith("too long") else " data.skip_bad=true leaves such rows out."
                raise DataError(f"{where}: {' '.join(said.split()).rstrip('.')}.{hint}") from error
            self.reasons[said.split(":")[0]] += 1
            return None

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())


class Blank:
    """Texts of nothing but masks, for what a head learns without data."""

    def __init__(self, denoiser: Denoiser, length: int) -> None:
        self.mask_id, self.length = denoiser.mask_id, min(length or denoiser.max_length, denoiser.max_length)

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """See ``Source``."""
        return torch.full((count, self.length), self.mask_id)


class Corpus:
    """Texts of the user's own, tokenized: every epoch in an order of its own, the held-out ones always in the same.

    Raises DataError, before a step is made, for a text that the model cannot take, naming where it stands. ``sieve``
    counts those that were left out.
    """

    def __init__(self, config: DataConfig, denoiser: Denoiser, tokenizer: Any, seed: int) -> None:
        codec, self.sieve = codec_of(denoiser, tokenizer), Sieve(config.skip_bad)
        longest = min(config.length or denoiser.max_length, denoiser.max_length)
        rows: list[tuple[Tensor, int]] = []
        layouts = Counter[str]()

        def take(row: Any) -> tuple[list[Encoded], str]:
            if isinstance(row, str):
                return pieces(row, _need(codec), longest), ""
            ids, start, layout = learned(row, codec, config.columns)
            return [(ids, start)], layout

        def check(ids: list[int], start: int) -> Tensor:
            if len(ids) > longest:
                raise DataError(
                    f"too long: {len(ids)} tokens, and {longest} are what "
                    f"{'data.length allows' if config.length else 'the model takes'}; shorten the text, or "
                    "data.drop_long=true leaves such out"
                )
            if start >= len(ids):
                raise DataError("nothing to learn: every position is protected, there is no answer")
            outside = [token for token in ids if not 0 <= token < denoiser.vocab_size or token == denoiser.mask_id]
            if outside:
                raise DataError(
                    f"a token outside the vocabulary: {outside[0]} came, the model knows 0 to "
                    f"{denoiser.vocab_size - 1} without its mask, {denoiser.mask_id}"
                )
            return torch.tensor(ids)

        for where, row in read(config, self.sieve):
            made, layout = self.sieve(where, take, row) or ([], "")
            layouts[layout] += 1
            if layout and layouts[layout] == 1:
                log.warning("data %r is read as %s", config.name, layout)
            for ids, start in made:
                if config.drop_long and len(ids) > longest:
                    self.sieve.reasons["too long"] += 1
                    continue
                text = self.sieve(where, check, ids, start)
                rows += [] if text is None else [(text, start)]
        count = len(rows) + self.sieve.reasons.total()
        if self.sieve.reasons:
            left_out = self.sieve.reasons.total()
            log.warning("data %r: %d of %d texts are left out: %s", config.name, left_out, count, self.sieve)
        if len(rows) < 2:
            raise DataError(
                f"data {config.name!r} is empty: {len(rows)} of {count} texts are left"
                f"{f' ({self.sieve} left out)' if self.sieve.reasons else ''}, and one is wanted to learn from, one to "
                "judge on."
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


# ---- rows


def read(config: DataConfig, sieve: Sieve | None = None) -> Iterator[tuple[str, Any]]:
    """Rows of a data set, each with where it stands; a string is running text. DataError where there is no data set or
    it cannot be read; rows that are none are up to the ``sieve``.
    """
    path, sieve = Path(config.name).expanduser(), sieve or Sieve()
    try:
        if path.is_dir() and not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            for file in _files(path, config):
                yield from _file(file, config.split, sieve)
        elif path.is_file() or _ending(path)[0] in KINDS:
            yield from _file(path, config.split, sieve)
        else:
            yield from _rows(str(path) if path.is_dir() else config.name, config, sieve)
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"data {config.name!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _ending(path: Path) -> tuple[str, Callable[..., Any]]:
    """What a file is by its name, whatever its case, and how it is opened."""
    packed = path.suffix.lower()
    return (path.with_suffix("").suffix.lower(), PACKED[packed]) if packed in PACKED else (packed, open)


def _files(folder: Path, config: DataConfig) -> list[Path]:
    """Files of a folder that are of the split asked for; hidden ones and descriptions of a data set are none."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if not file.is_file() or _ending(file)[0] not in KINDS or file.name.startswith("dataset_info"):
            continue
        if not any(part.startswith(".") for part in name.parts):
            words = [SPLITS[word] for word in re.split(r"[^a-z]+", str(name).lower()) if word in SPLITS]
            found.setdefault(words[-1] if words else "train", []).append(file)
    if not found:
        raise DataError(f"data {config.name!r} is a folder without files that can be read: {', '.join(KINDS)}.")
    if SPLITS.get(config.split, config.split) not in found:
        raise DataError(f"data {config.name!r} has no files of split {config.split!r}: {', '.join(found)} are there.")
    return found[SPLITS.get(config.split, config.split)]


def _file(path: Path, split: str, sieve: Sieve) -> Iterator[tuple[str, Any]]:
    """Rows of one file."""
    ending, opener = _ending(path)
    if ending not in KINDS:
        raise DataError(
            f"data {str(path)!r}: a file's name ends in {', '.join(KINDS)}; of these the first four may be packed, "
            f"with {', '.join(PACKED)} behind."
        )
    if ending in TABLES:
        yield from _table(path, ending, sieve)
        return
    with opener(path, "rb") as file:
        if ending == ".txt":
            yield str(path), file.read().decode("utf-8-sig")
        elif ending == ".json":
            content = file.read()
            try:
                found = json.loads(content.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                if isinstance(error, UnicodeDecodeError) or not _object(content.lstrip().split(b"\n", 1)[0]):
                    raise DataError(f"data {str(path)!r} is not JSON: {error}.") from error
                yield from _lines(path, content.split(b"\n"), sieve)  # a row a line, whatever the name says
                return
            for number, row in enumerate(_listed(path, found, split), 1):
                if sieve(f"{path}, row {number}", _row, row) is not None:
                    yield f"{path}, row {number}", row
        else:
            yield from _lines(path, file, sieve)


def _lines(path: Path, lines: Any, sieve: Sieve) -> Iterator[tuple[str, Any]]:
    """Rows of JSON, one a line. A line ends with a line feed and nothing else."""

    def parsed(line: bytes) -> dict[str, Any]:
        try:
            return _row(json.loads(line.decode("utf-8-sig")))
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON: {error.msg} at character {error.pos + 1}") from error
        except ValueError as error:
            raise error if isinstance(error, DataError) else DataError(f"not JSON: {error}") from error

    for number, line in enumerate(lines, 1):
        if line.strip(b"\xef\xbb\xbf \t\r\n"):
            row = sieve(f"{path}, line {number}", parsed, line)
            if row is not None:
                yield f"{path}, line {number}", row


def _row(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DataError(f"no row: an object is wanted, {kind(found)} came")
    return found


def _object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _listed(path: Path, found: Any, split: str) -> list[Any]:
    """The rows of a JSON file: a list, or in an object the list of the split, or the only one."""
    if isinstance(found, dict):
        lists = {name: value for name, value in found.items() if isinstance(value, list)}
        found = lists.get(split, next(iter(lists.values())) if len(lists) == 1 else None)
    if not isinstance(found, list):
        raise DataError(f"data {str(path)!r} holds no list of rows: [{{…}}, {{…}}] is wanted, or a row a line.")
    return found


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"data {name!r} needs datasets: pip install 'prism-plugin[train]'.") from None
    return datasets


def _table(path: Path, ending: str, sieve: Sieve) -> Iterator[tuple[str, Any]]:
    """Rows of a table; text stays text where it looks like a number."""
    datasets, given, separator = _datasets(str(path)), {}, "\t" if ending == ".tsv" else ","
    if not path.is_file():
        raise FileNotFoundError(2, "No such file or directory")
    if TABLES[ending] == "csv":
        given = {"sep": separator, "encoding": "utf-8-sig", "keep_default_na": False}
        with open(path, encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=separator), [])
        given["features"] = datasets.Features({name: datasets.Value("string") for name in names})
    try:
        rows = datasets.load_dataset(TABLES[ending], data_files=str(path), split="train", streaming=True, **given)
        for number, row in enumerate(rows, 1):
            yield f"{path}, row {number}", row
    except Exception as error:  # of the reader of that kind: each has types of its own
        raise DataError(f"data {str(path)!r} cannot be read: {str(error).split(chr(10))[0]}") from error


def _rows(name: str, config: DataConfig, sieve: Sieve) -> Iterator[tuple[str, Any]]:
    """Rows of what ``datasets`` has saved in a folder, or finds on the hub."""
    if not Path(name).is_dir():
        hub_answers()  # before the import, which looks once at whether it may ask
    datasets = _datasets(name)
    try:
        if Path(name).is_dir():
            found = datasets.load_from_disk(name)
            found = found[config.split] if isinstance(found, datasets.DatasetDict) else found
        else:
            found = datasets.load_dataset(name, split=config.split)
    except Exception as error:  # offline, unknown, private, no such split: each has a type of its own
        said = str(error).split("\n")[0]
        raise DataError(f"no data set {name!r} with a split {config.split!r}: {said}") from error
    for number in range(len(found)):
        row = sieve(f"{config.name}, row {number}", found.__getitem__, number)
        if row is not None:
            yield f"{config.name}, row {number}", row


# ---- what of a row is learned


def encode(row: Any, codec: Any, where: str, columns: ColumnsConfig | None = None) -> Encoded:
    """The tokens of a row and where the part that is learned starts; DataError that says where the row stands.

    codec: a ``Codec``, a tokenizer of transformers, or None where rows are of token ids.
    """
    codec = codec if codec is None or isinstance(codec, Codec) else TokenizerCodec(codec)
    ids, start, _ = Sieve()(where, learned, row, codec, columns or ColumnsConfig())
    return ids, start


def learned(row: Any, codec: Codec | None, columns: ColumnsConfig) -> tuple[list[int], int, str]:
    """The tokens of a row, where the part that is learned starts, and as what the row is read, '' for one of ours."""
    if isinstance(row, str):
        row = {"text": row}
    there = {name: value for name, value in row.items() if value is not None}
    shape, given, layout = _shape(there, columns)
    if shape == "messages":
        before, after = _need(codec).turn(_spoken(given[0], there), _tools(there.get("tools")))
    elif shape == "text":
        text = _text(given[0])
        before, after = ([], text) if isinstance(text, list) else _need(codec).document(text)
    else:
        prompt, answer = map(_text, given)
        texts = [text if isinstance(text, str) else "" for text in (prompt, answer)]
        made = _need(codec).pair(*texts) if isinstance(prompt, str) or isinstance(answer, str) else ([], [])
        before = prompt if isinstance(prompt, list) else made[0]
        after = answer if isinstance(answer, list) else made[1]
    return [*before, *after], len(before), layout


def _shape(row: dict[str, Any], columns: ColumnsConfig) -> tuple[str, list[Any], str]:
    """``messages``, ``pair`` or ``text``, what of the row is that, and as what it is read, '' for a row of ours."""

    def unused(*names: str) -> str:
        rest = sorted(set(row) - {*names, "tools", "system"})
        return f"; not used: {', '.join(rest)}" if rest else ""

    named = {name: [value] for name, value in vars(columns).items() if value}
    named["prompt"] = [c.strip() for c in columns.prompt.split("+") if c.strip()]
    missing = [(name, c) for name, found in named.items() for c in found[:1] if c not in row]
    if missing:
        raise DataError(f"no column {missing[0][1]!r}: data.columns.{missing[0][0]} names it; {_columns(row)} came")
    if bool(columns.prompt) != bool(columns.answer):
        raise DataError("data.columns.prompt and data.columns.answer go together: name both")
    conversation = columns.messages or next((name for name in ("conversations", "conversation") if name in row), "")
    if columns.messages or (not any(named.values()) and ("messages" in row or conversation)):
        name = columns.messages or ("messages" if "messages" in row else conversation)
        called = f"{'columns named' if columns.messages else 'sharegpt'}: {name} -> messages{unused(name)}"
        return "messages", [row[name]], "" if name == "messages" else called
    layouts = [("columns named", tuple(named["prompt"]), columns.answer)] if columns.prompt else LAYOUTS
    for called, prompts, answer in layouts if not columns.text else ():
        if prompts[0] in row and answer in row:
            both = (row[prompts[0]], row[answer])
            if any(isinstance(value, list) and value and isinstance(value[0], Mapping) for value in both):
                asked, said = (
                    value if isinstance(value, list) else [{"role": role, "content": value}]
                    for role, value in zip(("user", "assistant"), both, strict=True)
                )
                return "messages", [[*asked, *said]], ""
            written = f"{called}: {' + '.join(prompts)} -> prompt, {answer} -> answer{unused(*prompts, answer)}"
            return "pair", [_joined([row[c] for c in prompts if c in row]), row[answer]], written if called else ""
    name = columns.text or "text"
    if name in row:
        return "text", [row[name]], f"columns named: {name} -> text{unused(name)}" if columns.text else ""
    known = "prompt and response, messages, or text is wanted"
    raise DataError(f"{known}; {_columns(row)} came, and data.columns can say what they are")


def _columns(row: dict[str, Any]) -> str:
    return str(sorted(map(str, row)))


def _joined(prompts: list[Any]) -> Any:
    """The columns of a prompt as one text, a blank line between those that are not empty."""
    if len(prompts) == 1:
        return prompts[0]
    if not all(isinstance(text, str) for text in prompts):
        raise DataError("columns that make one prompt are text, and something else came")
    return "\n\n".join(text for text in prompts if text)


def _spoken(messages: Any, row: dict[str, Any]) -> Any:
    """A conversation with ShareGPT's words put into ours, and a row's ``system`` before it."""
    if not isinstance(messages, list):
        return messages
    said = [
        {"role": ROLES.get(m["from"], m["from"]), "content": m["value"]}
        if isinstance(m, Mapping) and isinstance(m.get("from"), str) and "value" in m
        else m
        for m in messages
    ]
    system = row.get("system")
    return [{"role": "system", "content": system}, *said] if isinstance(system, str) and system else said


def _tools(tools: Any) -> Any:
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools else tools
    except ValueError as error:
        raise DataError(f"tools: {error}") from error
    if tools and not isinstance(tools, list):
        raise DataError(f"tools: a list of them is wanted, {kind(tools)} came")
    return tools


def _text(text: Any) -> str | list[int]:
    if isinstance(text, str):
        return text
    if isinstance(text, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in text):
        return text
    raise DataError(f"text or a list of token ids is wanted, {kind(text)} came")


def _need(codec: Codec | None) -> Codec:
    if codec is None:
        raise DataError("the model brings no tokenizer: give lists of token ids in place of text")
    return codec


def pieces(text: str, codec: Codec, length: int) -> list[Encoded]:
    """Running text in pieces of one length, each behind what stands before every text; the rest is dropped."""
    before, ids = codec.document("")[0], codec.literal(text, start=False)
    size = length - len(before)
    return [(before + ids[n * size : (n + 1) * size], len(before)) for n in range(len(ids) // size)]
