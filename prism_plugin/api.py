"""The Python face: switch self-correction on for a model that you have, then generate and score with it.

prism = enable("sudoku")                            # an embedded model, or a folder that `prism train` wrote
prism = enable(llada, head="runs/llada-head")       # a host's model, and a head trained for it
result = prism.generate(tokens, steps=32)           # every mask of tokens is filled, doubted tokens are redone
for tokens in prism.stream(tokens, steps=32): …     # the same, step by step
result = prism.infill(tokens, where)                # these positions anew, all others stay
result = prism.correct(tokens)                      # a finished text: its doubtful tokens are rewritten
quality = prism.score(tokens)                       # how likely each visible token is right, without generating
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from . import inputs
from .config import from_mapping
from .errors import ConfigError, DataError, said, unknown
from .files import refuse_not_finite
from .models.cache import CacheConfig
from .models.checkpoint import PrismModel
from .models.denoiser import Denoiser, View, hosts
from .models.hosts import is_ours, load_host
from .models.lora import network
from .quality.head import head_hash, load_head, put_head
from .sampling import drive
from .sampling import methods as rules
from .sampling.config import SamplerConfig, fitting, resolve
from .text import Codec, GridCodec, codec_of, cut, need

log = logging.getLogger(__name__)

Texts = Any
"""A string, messages of a chat, token ids (B, L) or (L,) as a tensor, an array or lists, what a tokenizer of
transformers gives (``input_ids`` and ``attention_mask``), or a list of such.
"""


@dataclass
class Scored:
    """A text as the model reads it: tokens (L,) int64, the ``pieces`` of text that they are (None without a tokenizer),
    and the quality of each, (L,) f32, NaN at masks.
    """

    tokens: Tensor
    pieces: list[str] | None
    quality: Tensor


class Prism:
    """A model that is ready to revise its own text. ``sampler`` and ``settings`` are what ``generate`` starts from.

    Texts are token ids (B, L), (L,) being a batch of one, or, where the model has a tokenizer, strings and messages:
    one or a list of them. Nothing gets longer but by ``max_new_tokens``. ConfigError or DataError, saying what is
    allowed, for what cannot be meant.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: str,
        settings: dict[str, Any],
        codec: Codec | None = None,
        suits: dict[str, Any] | None = None,
    ) -> None:
        """suits: what the model wants with this very sampler; unlike ``settings`` it does not go on to another."""
        self.denoiser, self.codec, self.given = denoiser, codec, settings
        self.settings = {"name": sampler, **(suits or {}), **settings}
        self._told = False
        self.config(sampler)

    def config(self, sampler: str | None = None, **settings: Any) -> SamplerConfig:
        """The sampler's settings with some replaced; ConfigError where one is not known, out of range, or clashes with
        another or with the model.

        Without a head the self-likelihood takes the place of a learned score that a preset brings, with one warning.
        """
        if sampler is not None and not isinstance(sampler, str):
            raise ConfigError(
                f"sampler = {said(sampler)}: allowed the name of a preset; `prism info samplers` lists them."
            )
        asked = {**self.settings_for(sampler), **settings}
        asked = {**rules.correcting(self.denoiser, asked), **asked}
        config = from_mapping(asked, SamplerConfig, "sampler.")
        if self.denoiser.head is None:
            config, fell_back = rules.without_head(config)
            if fell_back and not self._told:
                log.warning(rules.NO_HEAD)
            self._told |= fell_back
        model = self.denoiser
        rules.check(resolve(config), model.head is not None, model.gives, model.trained, model.noise)
        return config

    def settings_for(self, sampler: str | None) -> dict[str, Any]:
        """The model's sampler and settings; for another, what of those given to ``enable`` that one has a part for."""
        if sampler is None or sampler == self.settings["name"]:
            return self.settings
        return fitting(self.given, sampler)

    def generate(
        self,
        texts: Texts,
        sampler: str | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        slots: int = 8,
        request: Tensor | None = None,
        padding: Tensor | None = None,
        callback: drive.Callback | None = None,
        **settings: Any,
    ) -> drive.Result:
        """Fill every mask of token ids, wherever it stands; see ``sampling.drive.stream``.

        Behind a text ``max_new_tokens`` masks are put, and ``texts`` of the result are what was written there, cut
        before the first of the ``stop`` strings. With block_length=… a text that has ended is not written on, and
        the next takes its place: ``slots`` are written at a time. Prompts of several lengths stand at the right end.
        sampler: a preset in place of the one given to ``enable``; settings: fields of ``SamplerConfig``.
        """
        config = self.config(sampler, **settings)
        inputs.count(slots, "slots", 1, 2**31 - 1)
        given, ends, stop = self._asked(texts, max_new_tokens, stop, padding)
        if given.table is not None:
            return drive.generate(
                self.denoiser, given.table, config, request=request, padding=given.padding, callback=callback,
                stop=ends, pad_id=self._pad_id,
            )  # fmt: skip
        return self._write(
            given.each, config, lambda tokens, prompt: self._answer(tokens, prompt, stop),
            stop=ends, slots=slots, request=request, callback=callback,
        )  # fmt: skip

    def stream(
        self,
        texts: Texts,
        sampler: str | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> Iterator[Any]:
        """As ``generate``, step by step: token ids (B, L), or one string, before each forward pass and at the end."""
        config = self.config(sampler, **settings)
        spoken = not isinstance(texts, Mapping) or "input_ids" not in texts
        given, ends, stop = self._asked(texts, max_new_tokens, stop, None)
        spoken = spoken and given.spoken
        if not given.each or (spoken and len(given.each) != 1):
            raise ConfigError(f"texts: {len(given.each)} came; stream writes one at a time, generate writes many.")
        table, padding = given.table, given.padding
        if table is None:
            side: Any = {"batch_first": True, "padding_side": "left"}
            table = pad_sequence(given.each, padding_value=self._pad_id, **side)
            padding = pad_sequence([torch.ones_like(row) for row in given.each], **side)
            padding = None if bool(padding.all()) else padding
        frames = drive.stream(self.denoiser, table, config, padding=padding, stop=ends, pad_id=self._pad_id)
        first = next(frames)  # whatever cannot be written is refused here, before the first pass

        def shown() -> Iterator[Any]:
            for state, _, result in chain([first], frames):
                if not spoken:
                    yield state.tokens.clone()
                    continue
                tokens, prompt = state.tokens[0].cpu(), given.each[0]
                done = result is not None and max_new_tokens
                yield self._ended(tokens, prompt, max_new_tokens or 0, stop) if done else self._shown(tokens, prompt)

        return shown()

    def infill(
        self, texts: Texts, where: Tensor | None = None, sampler: str | None = None, **settings: Any
    ) -> drive.Result:
        """Write the positions ``where`` (B, L) bool is true, masked or not, and keep all others.

        In strings ``[MASK]`` is a hole of one token, ``[MASK*20]`` of twenty; ``texts`` of the result are whole. A text
        without a hole comes back as it is, with a warning.
        """
        config = self.config(sampler, **settings)
        given = self._given(texts)
        rows = list(given.each if given.table is None else given.table)
        if where is not None:
            chosen = inputs.masks(where, rows, "where")
            mask_id = self.denoiser.mask_id
            rows = [row.masked_fill(hole.to(row.device), mask_id) for row, hole in zip(rows, chosen, strict=True)]
        whole = sum(not bool((row == self.denoiser.mask_id).any()) for row in rows)
        if whole:
            log.warning(
                "infill: %d of %d texts have no hole and come back as they are: [MASK] in a string is a hole of one "
                "token, [MASK*20] of twenty; of token ids the mask is %d, or where=… says which.",
                whole, len(rows), self.denoiser.mask_id,
            )  # fmt: skip
        if given.table is not None:
            table = torch.stack(rows) if rows else given.table
            return drive.generate(self.denoiser, table, config, padding=given.padding)
        return self._write(rows, config, self._shown)

    def correct(
        self, texts: Texts, protected: Tensor | None = None, sampler: str = "prism-correct", **settings: Any
    ) -> drive.Result:
        """Rewrite the doubtful tokens of finished texts, from any source, until none is left or ``steps`` are used.

        protected (B, L) bool, or one (L,) a text: what may not be touched (``score`` of a string shows its tokens).
        Without a head a token is doubted by the probability that the model gives it where it stands.
        """
        config = self.config(sampler, **settings)
        given = self._given(texts, literal=True)
        rows = list(given.each if given.table is None else given.table)
        free = [self._editable(row) if given.spoken else torch.ones_like(row, dtype=torch.bool) for row in rows]
        if protected is not None:
            kept = inputs.masks(protected, rows, "protected")
            free = [editable & ~keep for editable, keep in zip(free, kept, strict=True)]
        if given.table is not None:
            editable = torch.stack(free) if free else torch.ones_like(given.table, dtype=torch.bool)
            return drive.generate(self.denoiser, given.table, config, padding=given.padding, editable=editable)
        return self._write(
            given.each, config,
            lambda t, g: need(self.codec, self.denoiser).show(t, self._editable(g)), editable=free,
        )  # fmt: skip

    def disable(self) -> None:
        """Take from the host's model what ``enable`` put on it: hooks, and LoRA that lay beside the head."""
        while self.denoiser.undo:
            self.denoiser.undo.pop()()

    @torch.no_grad()
    def score(self, texts: Texts, padding: Tensor | None = None) -> Any:
        """How likely each visible token is right: of ids (B, L) a table (B, L) f32, NaN at masks and padding; of a
        string what it is made of and the quality of each piece (``Scored``), of several a list of such.

        The learned quality where there is a head, else the self-likelihood of one forward pass.
        """
        given = self._given(texts, padding=padding, literal=True)
        if given.table is not None:
            return self._quality(*inputs.checked(given.table, self.denoiser, given.padding))
        found: list[Any] = [None] * len(given.each)
        device = inputs.device_of(self.denoiser)
        for numbers, tokens, real in drive.batches(given.each, self._pad_id, "padding" in self.denoiser.gives):
            quality = self._quality(tokens.to(device), None if real is None else real.to(device)).cpu()
            for row, number in enumerate(numbers):
                text = given.each[number]
                pieces = None if self.codec is None else self.codec.pieces(text)
                found[number] = Scored(text, pieces, quality[row, tokens.shape[1] - len(text) :])
        return found[0] if isinstance(texts, str) else found

    def _quality(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """(B, L) f32, NaN at masks and padding."""
        if not tokens.numel():
            return torch.zeros(tokens.shape, device=tokens.device)
        view = View(self.denoiser, self.denoiser(tokens, padding), padding, tokens)
        visible = tokens != self.denoiser.mask_id
        if padding is not None:
            visible &= padding
        quality = view.quality if self.denoiser.head is not None else view.probability(tokens, visible)
        return quality.masked_fill(~visible, torch.nan)

    def _given(self, texts: Texts, new_tokens: int = 0, padding: Any = None, literal: bool = False) -> "_Given":
        """Texts as tokens, with masks behind them. literal: finished texts, in which nothing is a hole."""
        read = inputs.read_texts(texts, padding)
        cells = self.codec.task.length if isinstance(self.codec, GridCodec) else None
        for row in read.each:
            if cells and isinstance(row, Tensor) and len(row) != cells:
                raise DataError(f"a text of {len(row)} tokens: this model's grids have {cells} cells.")
        if read.table is not None and not new_tokens:
            inputs.in_vocabulary(read.table, self.denoiser, "texts")
            return _Given(read.each, read.table, read.padding)
        each, spoken = [], not read.each or not isinstance(read.each[0], Tensor)
        for text in read.each:
            if isinstance(text, Tensor):
                ids = text.cpu()
                each.append(torch.cat([ids, ids.new_full((new_tokens,), self.denoiser.mask_id)]))
                continue
            codec = need(self.codec, self.denoiser)
            if not isinstance(text, str):
                if literal:
                    raise DataError("messages are for generate and stream: give the text itself.")
                text = codec.chat(text)
            ids = torch.tensor(codec.literal(text), dtype=torch.long) if literal else codec.encode(text, new_tokens)
            each.append(ids)
        for row in each:
            inputs.short_enough(len(row), self.denoiser)
        inputs.in_vocabulary(torch.cat(each) if each else torch.zeros(0, dtype=torch.long), self.denoiser, "texts")
        return _Given(each, spoken=spoken)

    def _asked(
        self, texts: Texts, max_new_tokens: int | None, stop: str | Sequence[str] | None, padding: Any
    ) -> tuple["_Given", list[list[int]], list[str]]:
        """Texts to be written, the token sequences that end them, and the stop strings."""
        new = (
            0 if max_new_tokens is None else inputs.count(max_new_tokens, "max_new_tokens", 0, self.denoiser.max_length)
        )
        stop = inputs.listed(stop, "stop")
        codec = need(self.codec, self.denoiser) if stop else self.codec
        if new and isinstance(codec, GridCodec):
            raise ConfigError(f"max_new_tokens = {new}: a grid is written where it is blank, and nothing behind it.")
        given = self._given(texts, new, padding)
        if any(map(len, given.each)) and not any(bool((row == self.denoiser.mask_id).any()) for row in given.each):
            raise ConfigError(
                "there is nothing to write: no text holds a mask or a hole. max_new_tokens=… says how many tokens to "
                "write behind each; in a string [MASK] is a hole of one token, [MASK*20] of twenty."
            )
        ends = [] if codec is None else [ids for text in stop if (ids := codec.stop(text))]
        if codec is not None and given.table is None:
            ends = [*codec.ends, *ends]
        return given, ends, stop

    def _answer(self, tokens: Tensor, prompt: Tensor, stop: Sequence[str]) -> str:
        return cut(need(self.codec, self.denoiser).answer(tokens, prompt == self.denoiser.mask_id), stop)

    def _shown(self, tokens: Tensor, prompt: Tensor) -> str:
        """All of a text (L,), nothing cut, without special tokens where ``prompt`` (L,) has masks."""
        return need(self.codec, self.denoiser).show(tokens, prompt == self.denoiser.mask_id)

    def _ended(self, tokens: Tensor, prompt: Tensor, new_tokens: int, stop: Sequence[str] = ()) -> str:
        """A text whose last ``new_tokens`` were written, up to its end."""
        whole, before = self._shown(tokens, prompt), self._shown(*[prompt[: len(prompt) - new_tokens]] * 2)
        answer = self._answer(tokens, prompt, stop)
        return before + " " * whole.startswith(f"{before} {answer}") + answer

    def _editable(self, tokens: Tensor) -> Tensor:
        return ~need(self.codec, self.denoiser).special(tokens)

    def _write(
        self, texts: list[Tensor], config: SamplerConfig, read: Callable[[Tensor, Tensor], str], **given: Any
    ) -> drive.Result:
        """Texts (L,) of any length; ``read`` makes strings of what was written and its prompt."""
        result = drive.generate_many(self.denoiser, texts, config, pad_id=self._pad_id, **given)
        if self.codec is not None:
            rows = zip(result.tokens.cpu(), texts, strict=True)
            result.texts = [read(row[len(row) - len(text) :], text.cpu()) for row, text in rows]
        return result

    @property
    def _pad_id(self) -> int:
        return self.denoiser.mask_id if self.codec is None else self.codec.end_id


class _Given(NamedTuple):
    """Texts as tokens (L,), and as the table (B, L) that they came as; spoken: as strings or messages."""

    each: list[Tensor]
    table: Tensor | None = None
    padding: Tensor | None = None
    spoken: bool = False


def enable(
    model: str | Path | nn.Module,
    head: str | Path | nn.Module | None = None,
    *,
    host: str | None = None,
    tokenizer: Any = None,
    mask_id: int | None = None,
    padding: bool | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    trust_remote_code: bool = False,
    cache: str | CacheConfig | None = None,
    sampler: str | None = None,
    **settings: Any,
) -> Prism:
    """Give a model PRISM's self-correction, without changing it.

    model: the name of an embedded model, a folder or hub id (of ours, or of a host whose code ``trust_remote_code``
    lets run), a ``Denoiser``, or a host's model, whose adapter is found by what it looks like or named by ``host``
    (`prism info` lists them). head: a folder with ``head.safetensors``, a module, or ``none``: not even the model's
    own. Without a head nothing pretends: the score falls back to the self-likelihood, with one warning.
    tokenizer: of transformers, where texts are to be strings. mask_id: where neither the model's config nor its
    tokenizer names it. padding: whether the model gives texts of different length in one batch what each has alone;
    left out, a host's adapter finds out. dtype, device: of a model that is named, f32 on the CPU where left out; one in
    memory stays what and where it is. device_map: of transformers, to lay a host's checkpoint over several devices; the
    head is where the last layer is. cache: ``prefix``, ``dual``, or a ``CacheConfig``. settings: fields of
    ``SamplerConfig``.

    Raises ConfigError where no adapter fits or a setting is wrong, CheckpointError where a head does not fit or a
    weight is not finite.
    """
    trusted = inputs.switch(trust_remote_code, "trust_remote_code")
    device, dtype = inputs.place(device), inputs.precision(dtype)
    padding = None if padding is None else inputs.switch(padding, "padding")
    if mask_id is not None:
        mask_id = inputs.count(mask_id, "mask_id", 0, 2**31 - 1)
    if tokenizer is not None and not all(hasattr(tokenizer, name) for name in ("encode", "decode", "eos_token_id")):
        raise ConfigError(f"tokenizer = {said(tokenizer)}: allowed a tokenizer of transformers.")
    cache = CacheConfig("none" if cache is None else cache) if cache is None or isinstance(cache, str) else cache
    if not isinstance(cache, CacheConfig):
        raise ConfigError(f"cache = {said(cache)}: allowed none, prefix, dual, or a CacheConfig.")
    if isinstance(model, (str, Path)):
        if not str(model).strip():
            raise ConfigError(f"model = {said(model)}: allowed the name of an embedded model, a folder, or a hub id.")
        if host is not None:
            raise ConfigError(
                f"host = {said(host)} names the adapter of a model in memory: {str(model)!r} says its own."
            )
        if not is_ours(str(model)):
            if device is not None and device_map is not None:
                raise ConfigError(f"device = {device} and device_map are both set: choose one.")
            placed = {} if device_map is None else {"device_map": device_map}
            kind = dtype or torch.float32
            model, own = load_host(str(model), trust_remote_code=trusted, mask_id=mask_id, dtype=kind, **placed)
            tokenizer, dtype = tokenizer or own, None if placed else dtype
        elif device_map is not None:
            raise ConfigError(f"device_map is for a host's checkpoint: {str(model)!r} is small, device=… says where.")
    elif device_map is not None:
        raise ConfigError("device_map is for a model that is named; accelerate.dispatch_model lays out one in memory.")
    elif dtype is not None or device is not None:
        given = f"device = {device}" if dtype is None else f"dtype = {dtype}"
        raise ConfigError(f"{given} is for a model that is named: {said(model)} is in memory, move it yourself.")
    denoiser = _adapt(model, host, mask_id, tokenizer)
    denoiser.to(device=device)
    if dtype is not None:
        network(denoiser).to(dtype)
    if padding is not None:
        denoiser.gives = denoiser.gives | {"padding"} if padding else denoiser.gives - {"padding"}
    if head == "none":
        denoiser.head, denoiser.trained = None, {}
    elif isinstance(head, (str, Path)):
        load_head(denoiser, head)
        head = denoiser.head
        head_hash(head.to(inputs.device_of(denoiser)))
    elif head is not None:
        put_head(denoiser, head.to(inputs.device_of(denoiser)) if isinstance(head, nn.Module) else head)
    if cache.name != "none":
        denoiser.cache = denoiser.new_cache(cache)
    suits = rules.default_for(denoiser)
    if sampler is None and suits["name"] == "self-likelihood":
        log.warning(rules.NO_HEAD)
    if sampler is not None and sampler != suits["name"]:
        suits = {"name": sampler}
    return Prism(denoiser, suits.pop("name"), settings, codec_of(denoiser, tokenizer or denoiser.tokenizer), suits)


def _adapt(model: Any, host: str | None, mask_id: int | None, tokenizer: Any) -> Denoiser:
    """The model as a Denoiser, its weights looked at where it came in memory."""
    if isinstance(model, (str, Path)):
        return _of_mask(PrismModel.from_pretrained(model), mask_id)
    if host is not None and not (isinstance(host, str) and host in hosts):
        raise unknown("host", said(host), hosts)
    if isinstance(model, nn.Module):
        refuse_not_finite(dict(model.named_parameters()), type(model).__name__)
    if isinstance(model, Denoiser):
        return _of_mask(model, mask_id)
    for name in hosts if host is None else [host]:
        adapter = hosts[name]
        if adapter.matches(model):
            takes = signature(adapter).parameters
            any_name = any(p.kind is p.VAR_KEYWORD for p in takes.values())
            told = {"mask_id": mask_id, "tokenizer": tokenizer}
            told = {name: value for name, value in told.items() if value is not None and (any_name or name in takes)}
            return _of_mask(adapter(model, **told), mask_id)
        if host is not None:
            raise ConfigError(f"host = {said(host)}: its adapter does not fit {said(model)}.")
    raise ConfigError(
        f"model = {said(model)}: no adapter fits. Known hosts: {', '.join(hosts)}. Name one with host=…, "
        "or wrap the model in a Denoiser of your own."
    )


def _of_mask(denoiser: Denoiser, mask_id: int | None) -> Denoiser:
    if mask_id not in (None, denoiser.mask_id):
        raise ConfigError(f"mask_id = {mask_id}: the mask of {type(denoiser).__name__} is {denoiser.mask_id}.")
    return denoiser
