"""Python code and English prose that come with every Python: texts of 128 tokens, split by module and by topic.

``code``: functions and methods of the standard library, without comments and docstrings, as ``ast.unparse`` writes
them, one after another. ``prose``: paragraphs of the language reference (``pydoc_data.topics``) and of the standard
library's docstrings, one a line. Both are under the PSF licence. The texts follow the Python that runs; the
vocabularies are fixed, learned on the training texts of Python 3.11 by ``learn``. Token 0 is the mask.
"""

import ast
import codeop
import copy
import hashlib
import platform
import re
import sysconfig
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from ..errors import DataError
from ..files import write_atomic
from ..ops import philox
from . import HELD_OUT, TRAIN, hide, tasks

SEED = 20251124  # of the order of texts and of the positions given in prompts
MODULES = {"argparse", "http", "json", "queue", "shlex", "statistics", "tarfile", "textwrap"}
"""Held-out modules: nothing of theirs is in the training texts."""
SKIPPED = {
    "test", "tests", "idlelib", "idle_test", "lib2to3", "site-packages", "dist-packages", "pydoc_data", "encodings",
    "turtledemo", "ensurepip", "__pycache__",
}  # fmt: skip
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
ALPHABET_ONLY = re.compile(r"[\n -~]+")
MASK, HOLE, MEANT = "[MASK]", re.compile(r"\[MASK(?:\*(\d+))?\]"), re.compile(r"\[ *MASK\b[^\]\n]*\]?", re.IGNORECASE)
MOST = 2**20
"""Tokens in a hole."""
Units = Callable[[int], Iterator[str]]
Fault = Callable[[str], tuple[int, str] | None]


def parts(text: str) -> list[str | int]:
    """Stretches of a text and the sizes of the holes between them, in turn: ``[MASK]`` is a hole of one token,
    ``[MASK*20]`` of twenty. DataError for what is meant as one and is none.
    """
    found = HOLE.split(text)
    texts, sizes = found[::2], [int(size or 1) for size in found[1::2]]
    for stretch in texts:
        meant = MEANT.search(stretch)
        if meant and (not sizes or meant[0].startswith(MASK[:-1])):  # code beside holes may have a [mask] of its own
            raise DataError(f"{meant[0]!r} is no hole: [MASK] is one of one token, [MASK*20] of twenty")
    if not all(0 < size <= MOST for size in sizes):
        raise DataError(f"a hole of {min(sizes) or max(sizes)} tokens: [MASK] is one of one token, [MASK*20] of twenty")
    return [part for pair in zip(texts, [*sizes, 0], strict=True) for part in pair][:-1]


class TextTask:
    """Windows of ``length`` tokens, each from the start of a unit (a function, a paragraph) on.

    ``units(stream)`` yields the units in order; ``fault(text)`` says at which character a text goes wrong, and how.
    """

    mask_id, grid, length = 0, 0, 128

    def __init__(self, name: str, units: Units, fault: Fault) -> None:
        self.name, self.units, self.fault = name, units, fault
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.stream: Callable[[int], tuple[Tensor, Tensor, str]] = cache(self._stream)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Byte pairs over printable ASCII and the line feed."""
        return Tokenizer.from_file(str(_vocabulary(self.name)))

    def _stream(self, stream: int) -> tuple[Tensor, Tensor, str]:
        """Tokens (N,) of all units, where the texts start (S,), in an order drawn once, and a hash of the tokens."""
        lines = list(self.units(stream))
        encoded = self.tokenizer.encode_batch([f"{line}\n" for line in lines])
        tokens = torch.tensor([token for line in encoded for token in line.ids])
        ends = torch.tensor([len(line.ids) for line in encoded]).cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
        starts = starts[starts <= len(tokens) - self.length]
        if not len(starts):
            raise DataError(
                f"task {self.name!r}: no sources of the standard library in {sysconfig.get_path('stdlib')}."
            )
        zero = torch.zeros(1, dtype=torch.long)
        order = philox.uniform(SEED, torch.arange(len(starts)), zero, zero, stream).argsort()
        return tokens, starts[order], hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16]

    def texts(self, first: int, count: int, stream: int) -> Tensor:
        """Windows of the stream, (count, length) int64; after the last text comes the first again."""
        tokens, starts, _ = self.stream(stream)
        chosen = starts[torch.arange(first, first + count) % len(starts)]
        return tokens[chosen[:, None] + torch.arange(self.length)]

    @property
    def held_out(self) -> int:
        """How many held-out texts there are."""
        return len(self.stream(HELD_OUT)[1])

    def of_texts(self, texts: Tensor) -> "TextTask":
        """The same task with texts (N, length) int64 of one's own, in their order, in place of every stream's."""
        own = copy.copy(self)
        tokens, starts = texts.flatten(), torch.arange(len(texts)) * self.length
        digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16]
        own.stream = lambda stream: (tokens, starts, digest)
        return own

    def prompts(self, count: int, clues: int, stream: int = HELD_OUT, first: int = 0) -> Tensor:
        """Texts with ``clues`` random tokens given (0: nothing is)."""
        if not 0 <= clues <= self.length:
            raise DataError(f"clues = {clues}: a text of {self.length} tokens allows 0 to {self.length}.")
        number = torch.arange(first, first + count)[:, None]
        order = philox.uniform(SEED, number, torch.arange(self.length), torch.ones(1, dtype=torch.long), stream)
        keep = order.argsort(dim=-1).argsort(dim=-1) < clues
        return hide(self.texts(first, count, stream), keep, self.mask_id)

    def prompt(self, text: str) -> Tensor:
        """A text of the user's own as tokens (at most ``length``,): ``[MASK]`` is a hole of one token, ``[MASK*20]`` of
        twenty; without a hole, all that can follow is one. DataError where it is too long or not of the vocabulary.
        """
        ids: list[int] = []
        for part in parts(text):
            ids += self.encode(part) if isinstance(part, str) else [self.mask_id] * part
        if self.mask_id not in ids:
            ids += [self.mask_id] * max(1, self.length - len(ids))
        if len(ids) > self.length:
            raise DataError(f"the prompt and its holes are {len(ids)} tokens: task {self.name!r} has {self.length}.")
        return torch.tensor(ids)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text that is nothing but text, ``[MASK]`` in it too; DataError where it is not of the
        vocabulary.
        """
        vocabulary = self.tokenizer.get_vocab()
        for character in text:
            if character not in vocabulary:
                raise DataError(
                    f"{character!r} is not known to task {self.name!r}: printable ASCII and line feeds are."
                )
        pieces = text.replace(MASK, MASK[0] + "\0" + MASK[1:]).split("\0")
        return [token for piece in pieces for token in self.tokenizer.encode(piece).ids]

    def accuracy(self, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Solved: written whole, the prompt stands, and there is no fault. The share is of the text before the first
        fault: what the true tokens were is not known here.
        """
        stands = ((prompts == self.mask_id) | (tokens == prompts)) & (tokens != self.mask_id)
        texts = [self.render(row) for row in tokens]
        faults = [self.fault(text) for text in texts]
        sound = torch.tensor([fault is None for fault in faults], device=tokens.device)
        share = [fault[0] / len(text) if fault else 1.0 for fault, text in zip(faults, texts, strict=True)]
        return stands.all(dim=1) & sound, torch.tensor(share, device=tokens.device)

    def verdict(self, tokens: Tensor, prompts: Tensor) -> list[str]:
        """What there is to tell people of each text (B, L)."""
        found = [self.fault(self.render(row)) for row in tokens]
        return [f"not valid, {fault[1]}" if fault else "valid" if self.name == "code" else "" for fault in found]

    def render(self, tokens: Tensor) -> str:
        """The text; a run of n masks is ``[MASK*n]``."""
        text = "".join(str(self.tokenizer.id_to_token(token)) for token in tokens.tolist())
        return re.sub(r"(?:\[MASK\]){2,}", lambda run: f"[MASK*{len(run[0]) // 6}]", text)

    def made_of(self) -> dict[str, str]:
        """Which Python the texts are of, and hashes of both streams: equal hashes, equal texts."""
        streams = {"train": self.stream(TRAIN)[2], "held_out": self.stream(HELD_OUT)[2]}
        return {"python": platform.python_version(), **streams}


def _vocabulary(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.json")


def learn(name: str, vocab_size: int = 1024) -> None:
    """Learn the vocabulary of a task on its training texts and write it beside this file."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\n *| ?[A-Za-z]+| ?[0-9]| +| ?[^\sA-Za-z0-9]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["[MASK]"], initial_alphabet=list(ALPHABET), show_progress=False
    )
    tokenizer.train_from_iterator((f"{unit}\n" for unit in UNITS[name](TRAIN)), trainer)
    with write_atomic(_vocabulary(name)) as temporary:
        tokenizer.save(str(temporary), pretty=False)


# ---- where the texts come from


def _modules(stream: int) -> Iterator[ast.Module]:
    """Syntax trees of the standard library's modules, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        if SKIPPED & set(parts) or parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        if (parts[0].removesuffix(".py") in MODULES) == (stream == HELD_OUT):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in old modules
                yield ast.parse(path.read_bytes())


def _functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body)


def functions(module: ast.Module) -> Iterator[str]:
    """Functions and methods of a module, without comments and docstrings."""
    for function in _functions(module.body):
        if ast.get_docstring(function, clean=False) is not None:
            function.body = function.body[1:] or [ast.Pass()]
        yield ast.unparse(function)


def paragraphs(module: ast.Module) -> Iterator[str]:
    """Paragraphs of a module's docstrings."""
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from prose_of(ast.get_docstring(node) or "")


def _code(stream: int) -> Iterator[str]:
    for module in _modules(stream):
        yield from functions(module)


def _prose(stream: int) -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        if (zlib.crc32(name.encode()) % 8 == 0) == (stream == HELD_OUT):
            yield from prose_of(topics[name])
    for module in _modules(stream):
        yield from paragraphs(module)


def prose_of(text: str) -> Iterator[str]:
    """Paragraphs of sentences, each on one line; not headings, tables, grammars and examples."""
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        letters = sum(c.isalpha() or c == " " for c in line)
        if len(line) >= 40 and line[0].isalpha() and line[-1] in ".:;!?" and letters > 0.8 * len(line):
            yield line


def _units(source: Units) -> Units:
    """Printable units, each once, and none of the held-out ones in the training texts."""

    def units(stream: int) -> Iterator[str]:
        seen = set(source(HELD_OUT)) if stream == TRAIN else set()
        for unit in source(stream):
            if unit not in seen and ALPHABET_ONLY.fullmatch(unit):
                seen.add(unit)
                yield unit

    return units


def code_fault(text: str) -> tuple[int, str] | None:
    """Where whole lines of code cannot be the beginning of a Python program, and why; the last line may be cut off."""
    whole, _, _ = text.rpartition("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codeop.compile_command(whole or text, symbol="exec")
    except (SyntaxError, ValueError, OverflowError) as error:
        line = getattr(error, "lineno", None) or 1
        start = sum(len(before) + 1 for before in text.split("\n")[: line - 1])
        return min(start, len(text)), f"line {line}: {getattr(error, 'msg', error)}"
    return None


def no_fault(text: str) -> tuple[int, str] | None:
    """Nothing is looked for."""
    return None


UNITS = {"code": _units(_code), "prose": _units(_prose)}


@tasks("code")
def code() -> TextTask:
    """Python functions of the standard library, 128 tokens."""
    return TextTask("code", UNITS["code"], code_fault)


@tasks("prose")
def prose() -> TextTask:
    """English of Python's documentation, 128 tokens."""
    return TextTask("prose", UNITS["prose"], no_fault)
