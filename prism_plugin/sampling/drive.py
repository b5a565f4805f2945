"""Our own loop over a method, and ``generate``: texts with masks in, texts without out."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .. import __version__, inputs, ops
from ..errors import ConfigError, DataError, said
from ..models.denoiser import Denoiser, View
from ..quality.head import head_hash
from . import methods as _methods
from ._budget import Slots
from .config import SamplerConfig, resolve
from .parts import Forward
from .state import State, lay_out

Callback = Callable[[State, View | None], None]
NOT_EDITABLE = (
    "a mask stands where nothing may be written (``editable`` is False, or it is protected): what is masked must be "
    "editable."
)


@dataclass
class Result:
    """Texts and an honest account of what they cost; counts are (B,) int64.

    forwards: passes a row took part in. cost: the same weighted by the share of the row that each pass went over,
    (B,) float64. fills: tokens written. remasked: tokens revised, ``overwritten`` of them at once. wasted: revisions
    that brought the same token back. wrong_to_right, right_to_wrong: revisions by the truth, None where it was not
    given. cut: a block was ended by its steps or a guard before it came to rest, (B,) bool (end=stable, guard=repeat).
    settings: all that made the result. texts: what was written, where strings were given.
    """

    tokens: Tensor
    forwards: Tensor
    cost: Tensor
    fills: Tensor
    remasked: Tensor
    overwritten: Tensor
    wasted: Tensor
    wrong_to_right: Tensor | None
    right_to_wrong: Tensor | None
    cut: Tensor
    seconds: float
    settings: dict[str, object]
    texts: list[str] | None = None


def join(results: Sequence[Result], numbers: Sequence[int], pad_id: int) -> Result:
    """Results of batches as one, row i from the place of i in ``numbers``; shorter texts are padded on the left."""
    length = max(result.tokens.shape[1] for result in results)
    order = torch.tensor(numbers).argsort()

    def rows(name: str) -> Tensor | None:
        parts = [getattr(result, name) for result in results]
        if parts[0] is None:
            return None
        if name == "tokens":
            parts = [torch.nn.functional.pad(p, (length - p.shape[1], 0), value=pad_id) for p in parts]
        return torch.cat(parts)[order.to(parts[0].device)]

    names = [field.name for field in fields(Result) if field.name not in ("seconds", "settings", "texts")]
    counted: dict[str, Any] = {name: rows(name) for name in names}
    return Result(**counted, seconds=sum(r.seconds for r in results), settings=results[0].settings)


def batches(texts: Sequence[Tensor], pad_id: int, ragged: bool) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
    """Texts (L,) as batches: their numbers, tokens (B, L), and padding (B, L) bool, on the left, or None.

    Longest first, so that what memory a run needs shows at its start. Where the host takes ``ragged`` texts, those of
    one ``bucket`` go together, at most a quarter of their columns being padding; else those of one length.
    """
    buckets: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        buckets.setdefault(bucket(len(text)) if ragged else len(text), []).append(number)
    for _, numbers in sorted(buckets.items(), reverse=True):
        numbers.sort(key=lambda number: -len(texts[number]))
        columns = len(texts[numbers[0]])
        tokens = torch.full((len(numbers), columns), pad_id)
        real = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, number in enumerate(numbers):
            tokens[row, columns - len(texts[number]) :] = texts[number]
            real[row, columns - len(texts[number]) :] = True
        yield numbers, tokens, None if bool(real.all()) else real


def bucket(length: int) -> int:
    """The width that texts of ``length`` are sorted by: multiples of 16, from 64 on four to an octave.

    It depends on the text alone, so that whoever is written with it does not depend on all others.
    """
    step = max(16, 2 ** (max(length - 1, 0).bit_length() - 3))
    return -(-length // step) * step


def drive(method: Generator[Forward, View, None], denoiser: Denoiser) -> Iterator[View | None]:
    """Run the forward passes that a method asks for; yields before each, with the view of the one before."""
    view: View | None = None
    denoiser.recheck()
    with suppress(StopIteration):
        with torch.no_grad():
            asked = next(method)
        while True:
            yield view
            with torch.no_grad():  # a decorator of the generator costs twice as much a step
                view = asked.by(denoiser)
                asked = method.send(view)


def generate(
    denoiser: Denoiser, tokens: Tensor, config: SamplerConfig, *, callback: Callback | None = None, **given: Any
) -> Result:
    """Fill every mask of ``tokens`` (B, L) int64 with the sampler that ``config`` describes; see ``stream``.

    ``callback(state, view)`` is called before each forward pass and at the end.
    """
    result = None
    _callable(callback)
    for state, view, result in stream(denoiser, tokens, config, **given):  # noqa: B007  (the last is kept)
        if callback is not None:
            callback(state, view)
    assert result is not None
    return result


def stream(
    denoiser: Denoiser,
    tokens: Tensor,
    config: SamplerConfig,
    *,
    request: Tensor | None = None,
    padding: Tensor | None = None,
    editable: Tensor | None = None,
    suppress_ids: Tensor | None = None,
    truth: Tensor | None = None,
    stop: Sequence[Sequence[int]] = (),
    pad_id: int = 0,
) -> Iterator[tuple[State, View | None, Result | None]]:
    """The texts as they are written: (state, view of the pass before, None) before each forward pass; at the end
    (state, None, result).

    editable (B, L) bool is what may be written, the masks by default; everything else is the prompt and never
    changes. request (B,) int64 keys a row's random numbers (default: its row number); padding (B, L) bool is True
    where a token is real; ``suppress_ids`` (S,) int64 are never drawn, nor is the mask itself. truth (B, L) int64,
    where it is known, tells right revisions from wrong ones. A row ends with the block in which one of the token
    sequences ``stop`` comes to stand, all of it written, none of it given; ``pad_id`` follows it.

    Raises ConfigError where a setting is out of range or asks for what the model cannot give, DataError where a tensor
    is of another shape or type or holds an id that the model does not know.
    """
    tokens, padding = inputs.checked(tokens, denoiser, padding)
    free = tokens == denoiser.mask_id
    if editable is not None:
        editable = inputs.mask(editable, tokens, "editable")
        if bool((free & ~editable).logical_and(padding if padding is not None else free).any()):
            raise ConfigError(NOT_EDITABLE)
        free = editable
    free = free if padding is None else free & padding
    if truth is not None:
        truth = inputs.read_ids(truth, "truth").to(tokens.device)
        if truth.shape != tokens.shape:
            raise DataError(
                f"truth: shape {tuple(truth.shape)} came; allowed {tuple(tokens.shape)}, that of the tokens."
            )
    suppress_ids = _ids(suppress_ids, denoiser, "suppress_ids")
    stop = [one.tolist() for one in (_ids(one, denoiser, "stop") for one in stop) if one is not None]
    request = inputs.keys(request, len(tokens)).to(tokens.device)
    state = new_state(denoiser, tokens, config, request, padding, free, suppress_ids, truth, stop, pad_id)
    if denoiser.cache is not None:
        denoiser.cache.forget()
    started = time.perf_counter()
    for view in drive(state.parts.method(state), denoiser):
        yield state, view, None
    about = {**state.config.settings(), **_about(denoiser)}
    yield state, None, Result(**account_of(state), seconds=time.perf_counter() - started, settings=about)


def generate_many(
    denoiser: Denoiser, texts: Sequence[Tensor], config: SamplerConfig, *, pad_id: int = 0, **given: Any
) -> Result:
    """Fill every mask of texts of any length, (L,) int64 each; see ``finished``. Padded on the left to the longest."""
    if not len(texts):
        return generate(denoiser, torch.zeros(0, 0, dtype=torch.long), config)
    numbers, results = [], []
    for some, result in finished(denoiser, texts, config, pad_id=pad_id, **given):
        numbers += some
        results.append(result)
    return join(results, numbers, pad_id)


@torch.no_grad()
def finished(
    denoiser: Denoiser,
    texts: Sequence[Tensor],
    config: SamplerConfig,
    *,
    slots: int = 8,
    request: Tensor | None = None,
    editable: Sequence[Tensor] | None = None,
    suppress_ids: Tensor | None = None,
    stop: Sequence[Sequence[int]] = (),
    pad_id: int = 0,
    callback: Callback | None = None,
) -> Iterator[tuple[list[int], Result]]:
    """Texts, (L,) int64 each, in the order in which they end: their numbers, and the result of these.

    At most ``slots`` are written at a time. Where one ends the next takes its place while the others go on; when none
    is left to begin the batch shrinks. Longest first, in groups of nearly one length that are padded on the left where
    the host takes padding and there are several slots, else of exactly one (``batches``). Given equal logits, each
    comes out as it would alone.
    request (N,) int64 defaults to the numbers; editable (L,) bool each; ``callback`` sees the texts that are in work;
    all else as for ``stream``.

    Raises ConfigError and DataError as ``stream`` does, before the first text is begun.
    """
    inputs.count(slots, "slots", 1, 2**31 - 1)
    _callable(callback)
    device = inputs.device_of(denoiser)
    keys = inputs.keys(request, len(texts)).cpu()
    for text in texts:
        inputs.short_enough(len(text), denoiser)
    inputs.in_vocabulary(torch.cat([text.cpu() for text in texts]) if texts else keys[:0], denoiser)
    about, started = _about(denoiser), time.perf_counter()
    tables = []
    for numbers, tokens, padding in batches(texts, pad_id, "padding" in denoiser.gives and slots > 1):
        masked = tokens == denoiser.mask_id if padding is None else (tokens == denoiser.mask_id) & padding
        free = masked.clone()
        for row, number in enumerate(numbers if editable is not None else []):
            free[row, len(free[row]) - len(texts[number]) :] = editable[number]  # type: ignore[index]  # see above
        if bool((masked & ~free).any()):
            raise ConfigError(NOT_EDITABLE)
        lay_out(free, resolve(config))  # whoever cannot be written is found before anybody is
        tables.append((numbers, tokens, padding, free))
    for numbers, tokens, padding, free in tables:

        def begin(rows: list[int], given: Any = (tokens, keys[numbers], free, padding)) -> State:
            text, request, allowed = (table[rows].to(device) for table in given[:3])
            real = None if given[3] is None else given[3][rows].to(device)
            return new_state(denoiser, text, config, request, real, allowed, suppress_ids, None, stop, pad_id)

        line = Line(begin, len(numbers), slots)
        state = begin(list(range(min(slots, len(numbers)))))
        state.refill = line
        if denoiser.cache is not None:
            denoiser.cache.forget()
        for view in chain(_passes(denoiser, state), [None]):
            if callback is not None:
                callback(state, view)
            if line.ended and denoiser.cache is not None:
                denoiser.cache.forget()
            for some, account in line.ended:
                spent, started = time.perf_counter() - started, time.perf_counter()
                settings = {**state.config.settings(), **about}
                yield [numbers[row] for row in some], Result(**account, seconds=spent, settings=settings)
            line.ended.clear()


def _passes(denoiser: Denoiser, state: State) -> Iterator[View | None]:
    """All passes of all texts that move through a state; a method that ends while texts wait is begun again."""
    while state.running():
        yield from drive(state.parts.method(state), denoiser)


class Line:
    """Texts that wait for a slot, begun by their numbers; called by a state between its steps (``State.refill``)."""

    def __init__(self, begin: Callable[[list[int]], State], texts: int, slots: int) -> None:
        self.begin, self.slots = begin, Slots(texts, slots)
        self.ended: list[tuple[list[int], dict[str, Any]]] = []

    def __call__(self, state: State, running: list[int]) -> bool:
        """Take the texts out that have ended, with their accounts, and put others in their place."""
        ended, texts, begun, new = self.slots.turn(running)
        if ended:
            self.ended.append((texts, account_of(state, ended)))
        if new:
            state.admit(begun, self.begin(new))
        if len(new) < len(ended) and (running or new):
            state.keep(sorted([*running, *begun]))
        return bool(ended)


def new_state(
    denoiser: Denoiser, tokens: Tensor, config: SamplerConfig, request: Tensor, padding: Tensor | None,
    editable: Tensor, suppress_ids: Tensor | None, truth: Tensor | None, stop: Sequence[Sequence[int]],
    pad_id: int,
) -> State:  # fmt: skip
    """The state of texts that are to be written. Raises ConfigError; see ``stream``."""
    if not isinstance(config, SamplerConfig):
        raise ConfigError(f"config = {said(config)}: allowed a SamplerConfig.")
    config = resolve(config)
    has_head = denoiser.head is not None
    _methods.check(config, has_head, denoiser.gives, denoiser.trained, denoiser.noise)
    if padding is not None and "padding" not in denoiser.gives:
        raise ConfigError(f"{type(denoiser).__name__} cannot take padding: give it texts of one length at a time.")
    never = torch.tensor([denoiser.mask_id], device=tokens.device)
    never = never if suppress_ids is None else torch.cat([never, suppress_ids.to(never.device)])
    ends = tuple(torch.tensor(list(sequence), device=tokens.device) for sequence in stop)
    if not all(0 <= int(key) < denoiser.vocab_size for key in config.logit_bias):
        raise ConfigError(
            f"sampler.logit_bias = {said(config.logit_bias)}: the model has ids from 0 to {denoiser.vocab_size - 1}."
        )
    return State(
        tokens.clone(), editable, denoiser.mask_id, config, request, padding, never, truth=truth, stop=ends,
        pad_id=pad_id, vocab_size=denoiser.vocab_size, noise=denoiser.noise,
    )  # fmt: skip


def _callable(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback = {said(callback)}: allowed a function of (state, view).")


def _ids(given: Any, denoiser: Denoiser, name: str) -> Tensor | None:
    """Token ids (N,) int64, N > 0, on the CPU."""
    if given is None:
        return None
    found = inputs.read_ids(given, name)
    if found.dim() != 1 or not len(found):
        raise DataError(f"{name} = {said(given)}: allowed token ids (N,), at least one.")
    inputs.in_vocabulary(found, denoiser, name)
    return found


def account_of(state: State, rows: list[int] | None = None) -> dict[str, Any]:
    """What a result holds of a state, or of some rows."""
    flips = (None, None) if state.truth is None else (state.wrong_to_right, state.right_to_wrong)
    figures = {
        "tokens": state.tokens, "forwards": state.forwards, "cost": state.cost, "fills": state.fills,
        "remasked": state.remasks.sum(dim=1), "overwritten": state.overwritten, "wasted": state.wasted,
        "wrong_to_right": flips[0], "right_to_wrong": flips[1], "cut": state.cut,
    }  # fmt: skip
    if rows is None:
        return figures
    index = torch.tensor(rows, device=state.tokens.device)
    return {name: None if figure is None else figure[index] for name, figure in figures.items()}


def _about(denoiser: Denoiser) -> dict[str, object]:
    """What else made a result: the head by its hash, versions, numerics."""
    return {
        "cache": None if denoiser.cache is None else denoiser.cache.settings(),
        "head_sha256": None if denoiser.head is None else head_hash(denoiser.head),
        "versions": {"prism_plugin": __version__, "torch": torch.__version__},
        "numerics": "exact",
        "ops_compiled": ops.compiled(),
    }
