"""Between text and tokens: one encoder for training, sampling and evaluation. docs/text.md has its rules in a table."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, DataError
from .models.lora import network
from .tasks import get_task
from .tasks.text import MASK, parts

Messages = Sequence[Mapping[str, Any]]

HEADS = ("\n", "|", "a")
"""What a text is put behind where a tokenizer begins every text with a space of its own."""
PROBE = "prism7probe"
"""What an assistant says where the chat template is asked how it ends a turn."""


class Codec:
    """How a model reads and writes text.

    ends: token sequences after which an answer is over. end_id: what follows one in a batch.
    """

    mask_id: int
    ends: Sequence[list[int]] = ()
    end_id: int

    def literal(self, text: str, start: bool = True) -> list[int]:
        """Tokens of a text that is nothing but text, a mask or hole typed in it too; DataError where it has none.

        start: the text begins here, with what the tokenizer writes before every text; else it goes on with another.
        """
        raise NotImplementedError

    def show(self, tokens: Tensor, written: Tensor | None = None) -> str:
        """All of a text (L,), nothing cut, n masks as ``[MASK*n]``; without special tokens that were ``written``
        (L,) bool, and without what ``literal`` puts before it.
        """
        raise NotImplementedError

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens (L,), up to its end."""
        return self.show(tokens)

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """The text of what was ``written`` (L,) bool where a prompt had masks, up to its end."""
        return self.decode(tokens[written])

    def encode(self, text: str, new_tokens: int) -> Tensor:
        """Tokens (L,) int64: a prompt with ``new_tokens`` masks behind it, or for 0 a text with holes: a mask for
        ``[MASK]``, n for ``[MASK*n]``. A prompt is anybody's text: what looks like a hole there is none.
        """
        ids: list[int] = []
        stretches: list[str | int] = [text, new_tokens] if new_tokens else parts(text)
        for number, part in enumerate(stretches):
            ids += [self.mask_id] * part if isinstance(part, int) else self.literal(part, start=not number)
        return torch.tensor(ids, dtype=torch.long)

    def pieces(self, tokens: Tensor) -> list[str]:
        """What each token of a text (L,) stands for."""
        return [self.show(token[None]) for token in tokens]

    def special(self, tokens: Tensor) -> Tensor:
        """(L,) bool: tokens that are no text of their own, such as the beginning of a text; never rewritten."""
        return torch.zeros_like(tokens, dtype=torch.bool)

    def stop(self, text: str) -> list[int]:
        """A stop string as tokens; empty where it is none that can be watched for while a text is written."""
        return []

    def chat(self, messages: Messages, tools: Any = None) -> str:
        """A conversation as the prompt of the assistant's next turn. DataError where there is no chat template, or
        where it cannot write the conversation.
        """
        raise DataError("messages need a tokenizer with a chat template: give a prompt as text")

    def turn(self, messages: Messages, tools: Any = None) -> tuple[list[int], list[int]]:
        """A conversation whose last turn is the assistant's: tokens of ``chat`` before it, and of that turn, with its
        end. DataError as in ``chat``.
        """
        raise DataError("messages need a tokenizer with a chat template: give prompt and response")

    def pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of a prompt, as a conversation where there is a chat template, and of its answer, with its end."""
        return self.literal(prompt), self.literal(answer, start=False)

    def document(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens before every text, and of a whole text, with the end of text."""
        return [], self.literal(text)


class TaskCodec(Codec):
    """The vocabulary of a task of ours."""

    def __init__(self, task: Any) -> None:
        self.task, self.mask_id, self.end_id = task, task.mask_id, task.mask_id

    def literal(self, text: str, start: bool = True) -> list[int]:
        """See ``Codec.literal``."""
        return self.task.encode(text)

    def show(self, tokens: Tensor, written: Tensor | None = None) -> str:
        """See ``Codec.show``."""
        return self.task.render(tokens)


class GridCodec(TaskCodec):
    """A Sudoku grid inside a text: the last lines that hold ``side`` cells each, or all, '.' or 0 where blank."""

    def literal(self, text: str, start: bool = True) -> list[int]:
        """See ``Codec.literal``; the masks are the blanks. Raises DataError where the text holds no grid."""
        side = self.task.grid**2
        rows = [re.sub(r"\s", "", line).replace(".", "0") for line in text.splitlines()]
        rows = [row for row in rows if re.fullmatch(f"[0-{side}]+", row) and len(row) in (side, side**2)]
        if rows and len(rows[-1]) == side**2:
            return [int(cell) for cell in rows[-1]]
        rows = [row for row in rows[-side:] if len(row) == side]
        if len(rows) < side:
            raise DataError(
                f"the model {self.task.name!r} reads grids of {side} lines of {side} cells ('.' is blank) or one line "
                f"of all, and the text holds {len(rows)} such lines. For lm-eval that is the task prism_sudoku, or "
                "another model by --model_args model=<folder or hub id>."
            )
        return [int(cell) for cell in "".join(rows)]

    def encode(self, text: str, new_tokens: int) -> Tensor:
        """See ``Codec.encode``: nothing stands behind a grid."""
        return torch.tensor(self.literal(text))

    def pieces(self, tokens: Tensor) -> list[str]:
        """See ``Codec.pieces``: a cell each."""
        return [str(cell) if cell else "." for cell in tokens.tolist()]

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """See ``Codec.answer``; the whole grid, clues too."""
        return self.decode(tokens)


class TokenizerCodec(Codec):
    """A tokenizer of transformers. mask_id: by default the tokenizer's own; ends: what else ends a text (the model's
    ``eos_token_id``, one or many).
    """

    def __init__(self, tokenizer: Any, mask_id: int | None = None, ends: Sequence[int] = ()) -> None:
        self.tokenizer, self.more = tokenizer, list(ends)
        self.mask_id = tokenizer.mask_token_id if mask_id is None else mask_id
        self.eos = [i for i in [tokenizer.eos_token_id] if i is not None]
        self.end_id = next(i for i in (*self.eos, tokenizer.pad_token_id, self.mask_id) if i is not None)

    # ---- text

    def literal(self, text: str, start: bool = True) -> list[int]:
        """See ``Codec.literal``; a text that begins with a special token brings its beginning with it, as one that a
        chat template wrote does.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"no text: half a character, {text[error.start]!r}, at position {error.start}") from None
        ids = self._plain(text, start)
        if self.mask_id in ids:
            ids = self._unmasked(text, start)
        if start and not (ids and ids[0] in self._special):
            ids = self._before + ids
        return ids

    def show(self, tokens: Tensor, written: Tensor | None = None) -> str:
        """See ``Codec.show``."""
        dropped = torch.zeros_like(tokens, dtype=torch.bool) if written is None else written & self.special(tokens)
        ids = tokens[~dropped].tolist()
        if self._before and ids[: len(self._before)] == self._before:
            ids = ids[len(self._before) :]
        shown = ""
        for masked, run in groupby(ids, lambda token: token == self.mask_id):
            found = list(run)
            shown += (MASK if len(found) == 1 else f"[MASK*{len(found)}]") if masked else self._text(found, not shown)
        return shown

    def pieces(self, tokens: Tensor) -> list[str]:
        """See ``Codec.pieces``; special tokens by their names."""
        return [MASK if token == self.mask_id else self._text([token], False) for token in tokens.tolist()]

    def decode(self, tokens: Tensor) -> str:
        """See ``Codec.decode``."""
        ids = tokens.tolist()
        start = bool(self._before) and ids[: len(self._before)] == self._before
        return self._text(self._cut(ids[len(self._before) :] if start else ids)[0], True)

    def answer(self, tokens: Tensor, written: Tensor) -> str:
        """See ``Codec.answer``."""
        return self._text(self._cut(tokens[written].tolist())[0], False)

    def special(self, tokens: Tensor) -> Tensor:
        """See ``Codec.special``."""
        known = torch.tensor(sorted(self._special - {self.mask_id}), dtype=torch.long, device=tokens.device)
        return torch.isin(tokens, known)

    def stop(self, text: str) -> list[int]:
        """See ``Codec.stop``."""
        return self.literal(text, start=False)

    def _plain(self, text: str, start: bool) -> list[int]:
        """Tokens without any special ones around them; where a text goes on, without the space that begins one."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        for head in () if start or not self._leads else HEADS:
            before = self.tokenizer.encode(head, add_special_tokens=False)
            both = self.tokenizer.encode(head + text, add_special_tokens=False)
            if both[: len(before)] == before:
                return both[len(before) :]
        return ids

    def _unmasked(self, text: str, start: bool) -> list[int]:
        """Tokens of a text that spells the mask: that stretch by its characters, and if need be the whole text."""
        spelt = self.tokenizer.convert_ids_to_tokens(self.mask_id)
        for pieces in (re.split(f"({re.escape(spelt)})", text, flags=re.IGNORECASE), [text, *text]):
            ids: list[int] = []
            for number, piece in enumerate(pieces):
                for part in piece if number % 2 or len(pieces) == 1 + len(text) else [piece]:
                    ids += self._plain(part, start and not ids) if part else []
            if self.mask_id not in ids:
                return ids
        raise DataError(f"the text holds {spelt!r}, which this tokenizer cannot write but as the mask")

    def _text(self, ids: list[int], start: bool) -> str:
        """The text of tokens, all of it; where it goes on with another, with the space that it begins with."""

        def decode(ids: list[int]) -> str:
            return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

        if not self._leads:
            return decode(ids)
        if start:  # some decoders take that space away, some do not
            text, kept = decode(ids), decode(self.tokenizer.encode("a", add_special_tokens=False)) == " a"
            return text.removeprefix(" ") if kept else text
        head = self.tokenizer.encode(HEADS[0], add_special_tokens=False)
        return decode(head + ids)[len(decode(head)) :]

    def _cut(self, ids: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Tokens before the first of the ``ends``, that end, and what stands behind it."""
        begins: dict[int, list[list[int]]] = {}
        for end in self.ends:
            begins.setdefault(end[0], []).append(end)
        for place, token in enumerate(ids):
            for end in begins.get(token, ()):
                if ids[place : place + len(end)] == end:
                    return ids[:place], end, ids[place + len(end) :]
        return ids, [], []

    def _ended(self, ids: list[int]) -> list[int]:
        """Tokens of an answer with the end of a turn, which may stand there already; DataError where it goes on."""
        ids, end, behind = self._cut(ids)
        if self._text([i for i in behind if i not in self._special], False).strip():
            said = self.tokenizer.decode(end)
            raise DataError(f"an end inside the answer: what stands behind {said!r} would never be written")
        return ids + self._end[0]

    @cached_property
    def _before(self) -> list[int]:
        """What the tokenizer writes before every text; what it writes behind one is never used."""
        plain, whole = self.tokenizer.encode("a", add_special_tokens=False), self.tokenizer.encode("a")
        places = [n for n in range(len(whole)) if whole[n : n + len(plain)] == plain]
        return whole[: places[0]] if places else []

    @cached_property
    def _leads(self) -> bool:
        """Whether a text is begun with a space that is not in it (SentencePiece, ``add_prefix_space``)."""
        first, later = (self.tokenizer.encode(text, add_special_tokens=False) for text in ("a", "\na"))
        return later[-len(first) :] != first

    @cached_property
    def _special(self) -> set[int]:
        """Tokens that are marked special, by a name or as they were added."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {*self.tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}

    # ---- conversations

    def chat(self, messages: Messages, tools: Any = None) -> str:
        """See ``Codec.chat``."""
        return self._render(spoken(messages), tools, True)

    def turn(self, messages: Messages, tools: Any = None) -> tuple[list[int], list[int]]:
        """See ``Codec.turn``."""
        said = spoken(messages)
        roles = [message["role"] for message in said]
        if len(said) < 2 or roles[-1] != "assistant":
            raise DataError(f"no answer: the last of two or more messages is the assistant's; roles {roles} came")
        prompt, whole = self._render(said[:-1], tools, True), self._render(said, tools, False)
        if whole.startswith(prompt) and whole != prompt:
            body = whole[len(prompt) :]
        elif said[-1].get("tool_calls"):
            raise DataError("tool calls: the chat template does not write them behind its generation prompt")
        else:
            body = said[-1]["content"] + self._after
        text = body.removesuffix(self._after)
        ids = self.literal(text, start=False)
        if body.endswith(self._after):
            return self.literal(prompt), self._ended(ids)
        ids, end, _ = self._cut(ids)  # another end than the usual one, as some have behind a tool call
        return self.literal(prompt), ids + (end or self._end[0])

    def pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """See ``Codec.pair``; a prompt that begins with a special token is a conversation written out already."""
        if self._templated and not self._special.intersection(self.literal(prompt, start=False)[:1]):
            return self.turn([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
        return self.literal(prompt), self._ended(self.literal(answer, start=False))

    def document(self, text: str) -> tuple[list[int], list[int]]:
        """See ``Codec.document``; the end of text may stand there already."""
        ids = self.literal(text)
        start = len(self._before) if ids[: len(self._before)] == self._before else 0
        return ids[:start], ids[start:] + (self.eos if ids[-1:] != self.eos or start == len(ids) else [])

    @property
    def _templated(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _render(self, said: list[dict[str, Any]], tools: Any, prompt: bool) -> str:
        """What the chat template writes; DataError where there is none, it refuses, or leaves out a call or tools."""
        if not self._templated:
            raise DataError("messages need a tokenizer with a chat template: give prompt and response")

        def render(said: list[dict[str, Any]], tools: Any) -> str:
            try:
                return self.tokenizer.apply_chat_template(
                    said, tools=tools, add_generation_prompt=prompt, tokenize=False
                )
            except Exception as error:  # of the template's language, of whatever it calls, or its own
                raise DataError(f"the chat template refused it: {str(error) or type(error).__name__}") from error

        written = render(said, tools or None)
        for number, message in enumerate(said):
            calls = message.get("tool_calls")
            other = [*said[:number], {**message, "tool_calls": _named(calls or [])}, *said[number + 1 :]]
            if calls and written == render(other, tools or None):
                raise DataError("tool calls: the chat template does not write them")
        if tools and written == render(said, None):
            raise DataError("tools: the chat template does not write them")
        return written

    @cached_property
    def _probed(self) -> tuple[str, set[int]]:
        """What the template writes behind an assistant's turn, and special tokens that it writes inside one."""
        asked = [{"role": "user", "content": "a"}]
        call = {"id": "call12345", "type": "function", "function": {"name": PROBE, "arguments": {"a": "b"}}}
        after, inside = "", set()
        for message in ({"content": PROBE}, {"content": "", "tool_calls": [call]}):
            try:
                prompt = self._render(asked, None, True)
                whole = self._render([*asked, {"role": "assistant", **message}], None, False)
            except DataError:
                continue
            if message["content"]:
                after = whole.rpartition(PROBE)[2]
            if whole.startswith(prompt):
                body = whole[len(prompt) :]
                special = [i for i in self._plain(body.removesuffix(after), False) if i in self._special]
                inside |= set(special if body.endswith(after) else special[:-1])
        return after, inside

    @property
    def _after(self) -> str:
        return self._probed[0] if self._templated else ""

    @cached_property
    def _end(self) -> tuple[list[int], list[int]]:
        """What is learned behind an assistant's turn, and what of it is watched for while one is written.

        What the chat template writes there, up to the first token that was added to the vocabulary, which is watched
        for; or all of it, where it is text. The end of text where the template writes nothing.
        """
        ids = self._plain(self._after, False)
        added = {*self._special, *getattr(self.tokenizer, "added_tokens_decoder", {})}
        place = next((place for place, token in enumerate(ids) if token in added), None)
        if place is not None:
            return ids[: place + 1], [ids[place]]
        ids = self._plain(self._after.rstrip(), False)
        return ids or self.eos, ids

    @cached_property
    def ends(self) -> list[list[int]]:  # type: ignore[override]
        """The end of a turn, the end of text, those of the model, and every special token that the template does not
        write inside a turn; not the mask, nor what stands for the unknown.
        """
        inside = {getattr(self.tokenizer, "unk_token_id", None), *(self._probed[1] if self._templated else ())}
        single = [[i] for i in (*self.eos, *self.more, *sorted(self._special - inside)) if i != self.mask_id]
        found = [self._end[1], *single]
        return [end for place, end in enumerate(found) if end and end not in found[:place]]


def codec_of(denoiser: Any, tokenizer: Any) -> Codec | None:
    """The codec of a tokenizer, or of the task that a model of ours was trained on; None where there is neither."""
    if tokenizer is not None:
        model = network(denoiser)
        said = [getattr(getattr(model, about, None), "eos_token_id", None) for about in ("generation_config", "config")]
        listed_ids = [i for ids in [denoiser.end_ids, *said] for i in (ids if isinstance(ids, list | tuple) else [ids])]
        return TokenizerCodec(tokenizer, denoiser.mask_id, [i for i in listed_ids if isinstance(i, int)])
    if not getattr(denoiser, "task", ""):
        return None
    task = get_task(denoiser.task)
    return GridCodec(task) if task.grid else TaskCodec(task)


def spoken(messages: Messages) -> list[dict[str, Any]]:
    """A conversation as chat templates take it: a role and text in every message, tool calls where there are some.

    Parts of a message are joined, arguments of a call that are written as JSON are read. Raises DataError.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise DataError(f"no conversation: a list of messages is wanted, {kind(messages)} came")
    said = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise DataError(
                f"no message: {{'role': …, 'content': …}} is wanted, {kind(message)} came as number {number}"
            )
        one = {key: value for key, value in message.items() if value is not None}
        if not isinstance(one.get("role"), str):
            raise DataError(f"no role: text is wanted, {kind(message.get('role'))} came in message {number}")
        if one.get("tool_calls"):
            one["tool_calls"] = _calls(one["tool_calls"])
        elif "content" not in one:
            raise DataError(f"no content: message {number}, of {one['role']!r}, has neither content nor tool calls")
        said.append({**one, "content": _content(one.get("content", ""))})
    return said


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"no content: text or a list of parts is wanted, {kind(content)} came")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            what = part.get("type") if isinstance(part, Mapping) else kind(part)
            raise DataError(f"a part that is no text: {what!r} came in a message's content")
        texts.append(text)
    return "".join(texts)


def _calls(calls: Any) -> list[dict[str, Any]]:
    """Tool calls with their arguments as mappings."""
    read = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(f"tool calls: {{'function': {{'name': …, 'arguments': …}}}} is wanted, {kind(call)} came")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with suppress(ValueError):  # else it is taken as it is written
                arguments = json.loads(arguments)
        function = {**function, "arguments": {} if arguments is None else arguments}
        read.append({"type": "function", **call, "function": function} if "function" in call else function)
    return read


def _named(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls of another tool, which a template that writes calls writes otherwise."""
    name = {"name": PROBE[::-1]}
    return [{**c, "function": {**c["function"], **name}} if "function" in c else {**c, **name} for c in calls]


def kind(value: Any) -> str:
    """What something is, in a word that JSON has for it."""
    words = {"NoneType": "null", "str": "text", "dict": "an object", "list": "a list", "int": "a number"}
    words |= {"float": "a number", "bool": "true or false"}
    return words.get(type(value).__name__, type(value).__name__)


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
