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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import from_mapping
from .errors import ConfigError
from .models.cache import Cache, CacheConfig
from .models.checkpoint import PrismModel
from .models.denoiser import Denoiser, View, hosts
from .models.hosts import is_ours, load_host
from .quality.head import load_head
from .sampling import drive
from .sampling.config import SamplerConfig
from .text import Codec, codec_of, cut, listed, need

log = logging.getLogger(__name__)


Texts = Tensor | str | Sequence[str]


class Prism:
    """A model that is ready to revise its own text. ``sampler`` and ``settings`` are what ``generate`` starts from.

    Texts are token ids (B, L) int64 or, where the model has a tokenizer, strings: one, or a list of them.
    """

    def __init__(self, denoiser: Denoiser, sampler: str, settings: dict[str, Any], codec: Codec | None = None) -> None:
        self.denoiser, self.settings, self.codec = denoiser, {"name": sampler, **settings}, codec
        self.config()

    def config(self, sampler: str | None = None, **settings: Any) -> SamplerConfig:
        """The sampler's settings with some replaced; ConfigError where one is not known or out of range."""
        named = {"name": sampler} if sampler else {}
        return from_mapping({**self.settings, **named, **settings}, SamplerConfig, "sampler.")

    def generate(
        self,
        texts: Texts,
        sampler: str | None = None,
        *,
        max_new_tokens: int = 0,
        stop: str | Sequence[str] = (),
        slots: int = 8,
        request: Tensor | None = None,
        padding: Tensor | None = None,
        callback: drive.Callback | None = None,
        **settings: Any,
    ) -> drive.Result:
        """Fill every mask of token ids, wherever it stands; see ``sampling.drive.stream``.

        Behind strings ``max_new_tokens`` masks are put, and ``texts`` of the result are what was written there, cut
        before the first of the ``stop`` strings. With block_length=… a text that has ended is not written on, and
        the next takes its place: ``slots`` are written at a time.
        sampler: a preset in place of the one given to ``enable``; settings: fields of ``SamplerConfig``.
        """
        config = self.config(sampler, **settings)
        if isinstance(texts, Tensor):
            return drive.generate(self.denoiser, texts, config, request=request, padding=padding, callback=callback)
        codec = need(self.codec, self.denoiser)
        ends = [*codec.ends, *(ids for text in listed(stop) if (ids := codec.stop(text)))]
        prompts = [codec.encode(text, max_new_tokens) for text in listed(texts)]

        def read(tokens: Tensor, prompt: Tensor) -> str:
            return cut(codec.answer(tokens, prompt == self.denoiser.mask_id), stop)

        return self._write(prompts, config, read, stop=ends, slots=slots)

    def stream(
        self, texts: Tensor | str, sampler: str | None = None, *, max_new_tokens: int = 0, **settings: Any
    ) -> Iterator[Any]:
        """As ``generate``, step by step: token ids (B, L), or one string, before each forward pass and at the end."""
        config = self.config(sampler, **settings)
        if isinstance(texts, Tensor):
            yield from (state.tokens.clone() for state, _, _ in drive.stream(self.denoiser, texts, config))
        else:
            codec = need(self.codec, self.denoiser)
            tokens = codec.encode(texts, max_new_tokens)[None].to(self._device)
            yield from (codec.show(state.tokens[0]) for state, _, _ in drive.stream(self.denoiser, tokens, config))

    def infill(
        self, texts: Texts, where: Tensor | None = None, sampler: str | None = None, **settings: Any
    ) -> drive.Result:
        """Write the positions ``where`` (B, L) bool is true, masked or not, and keep all others.

        In strings ``[MASK]`` is a hole of one token, ``[MASK*20]`` of twenty; ``texts`` of the result are whole.
        """
        config = self.config(sampler, **settings)
        if not isinstance(texts, Tensor):
            codec = need(self.codec, self.denoiser)
            return self._write(
                [codec.encode(text, 0) for text in listed(texts)],
                config,
                lambda tokens, prompt: codec.show(tokens, prompt == self.denoiser.mask_id),
            )
        masked = texts if where is None else texts.masked_fill(where, self.denoiser.mask_id)
        return drive.generate(self.denoiser, masked, config)

    def correct(
        self, texts: Texts, protected: Tensor | None = None, sampler: str = "prism-correct", **settings: Any
    ) -> drive.Result:
        """Rewrite the doubtful tokens of finished texts, from any source, until none is left or ``steps`` are used.

        protected (B, L) bool: what may not be touched. Without a head a token is doubted by the probability that the
        model gives it where it stands.
        """
        if self.denoiser.head is None:
            settings = {"score": "self_likelihood", **settings}
        config = self.config(sampler, **settings)
        if not isinstance(texts, Tensor):
            codec = need(self.codec, self.denoiser)
            encoded = [torch.tensor(codec.literal(text)) for text in listed(texts)]
            words = [~codec.special(tokens) for tokens in encoded]
            return self._write(encoded, config, lambda t, given: codec.show(t, ~codec.special(given)), editable=words)
        editable = torch.ones_like(texts, dtype=torch.bool) if protected is None else ~protected
        return drive.generate(self.denoiser, texts, config, editable=editable)

    def _write(
        self, texts: list[Tensor], config: SamplerConfig, read: Callable[[Tensor, Tensor], str], **given: Any
    ) -> drive.Result:
        """Texts (L,) of any length; ``read`` makes strings of what was written and its prompt."""
        pad_id = need(self.codec, self.denoiser).end_id
        result = drive.generate_many(self.denoiser, texts, config, pad_id=pad_id, **given)
        result.texts = [
            read(row[len(row) - len(text) :].cpu(), text) for row, text in zip(result.tokens, texts, strict=True)
        ]
        return result

    @property
    def _device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @torch.no_grad()
    def score(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """How likely each visible token of (B, L) int64 is right, (B, L) f32, NaN at masks and padding.

        The learned quality where there is a head, else the self-likelihood of one forward pass.
        """
        view = View(self.denoiser, self.denoiser(tokens, padding), padding)
        visible = tokens != self.denoiser.mask_id
        if padding is not None:
            visible &= padding
        quality = view.quality if self.denoiser.head is not None else view.probability(tokens, visible)
        return quality.masked_fill(~visible, torch.nan)


def enable(
    model: str | Path | nn.Module,
    head: str | Path | nn.Module | None = None,
    *,
    host: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    cache: str | CacheConfig = "none",
    sampler: str | None = None,
    **settings: Any,
) -> Prism:
    """Give a model PRISM's self-correction, without changing it.

    model: the name of an embedded model, a folder or hub id (of ours, or of a host whose code ``trust_remote_code``
    lets run), a ``Denoiser``, or a host's model, whose adapter is found by what it looks like or named by ``host``
    (`prism info` lists them). head: a folder with ``head.safetensors``, or a
    module. Without a head nothing pretends: the score falls back to the self-likelihood, with one warning.
    tokenizer: of transformers, where texts are to be strings. cache: ``prefix``, ``dual``, or a ``CacheConfig``.

    Raises ConfigError where no adapter fits or a setting is wrong, CheckpointError where a head does not fit.
    """
    if isinstance(model, (str, Path)) and not is_ours(str(model)):
        model, own = load_host(str(model), trust_remote_code=trust_remote_code)
        tokenizer = tokenizer or own
    denoiser = _adapt(model, host)
    if isinstance(head, nn.Module):
        denoiser.head = head
    elif head is not None:
        load_head(denoiser, head)
        denoiser.head.to(next(denoiser.parameters()).device)
    cache = CacheConfig(cache) if isinstance(cache, str) else cache
    if cache.name != "none":
        if "cache" not in denoiser.gives:
            raise ConfigError(
                f"cache = {cache.name} needs a backbone of ours: {type(denoiser).__name__} keeps no keys."
            )
        denoiser.cache = Cache(denoiser.backbone, cache)  # type: ignore[arg-type]  # it gives one
    if sampler is None:
        sampler = "prism"
        if denoiser.head is None:
            log.warning("no quality head was given: doubtful tokens are found by self-likelihood instead.")
            sampler = "self-likelihood"
    return Prism(denoiser, sampler, settings, codec_of(denoiser, tokenizer))


def _adapt(model: str | Path | nn.Module, host: str | None) -> Denoiser:
    if isinstance(model, (str, Path)):
        return PrismModel.from_pretrained(model)
    if isinstance(model, Denoiser):
        return model
    for name in [host] if host else hosts:
        adapter = hosts[name]
        if host or adapter.matches(model):
            return adapter(model)
    raise ConfigError(
        f"no adapter fits a {type(model).__name__}. Known hosts: {', '.join(hosts)}. Name one with host=…, "
        "or wrap the model in a Denoiser of your own."
    )
