"""Our own loop over a method, and ``generate``: texts with masks in, texts without out."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .. import __version__, ops
from ..denoiser import Denoiser, View
from ..errors import ConfigError
from . import methods as _methods
from .config import SamplerConfig, resolve
from .parts import Forward, methods
from .state import State

Callback = Callable[[State, View | None], None]


@dataclass
class Result:
    """Texts and an honest account of what they cost; counts are (B,) int64.

    forwards: passes a row took part in. cost: the same weighted by the share of the row that each pass went over,
    (B,) float64. fills: tokens written. remasked: tokens revised, ``overwritten`` of them at once. wasted: revisions
    that brought the same token back. wrong_to_right, right_to_wrong: revisions by the truth, None where it was not
    given. settings: all that made the result. texts: what was written, where strings were given.
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


def drive(method: Generator[Forward, View, None], denoiser: Denoiser, state: State) -> Iterator[View | None]:
    """Run the forward passes that a method asks for; yields before each, with the view of the one before."""
    view: View | None = None
    with suppress(StopIteration):
        while True:
            before = state.forwards.clone()
            asked = next(method) if view is None else method.send(view)
            yield view
            view = asked.by(denoiser)
            state.cost = state.cost + (state.forwards - before) * view.output.share


def generate(
    denoiser: Denoiser, tokens: Tensor, config: SamplerConfig, *, callback: Callback | None = None, **given: Any
) -> Result:
    """Fill every mask of ``tokens`` (B, L) int64 with the sampler that ``config`` describes; see ``stream``.

    ``callback(state, view)`` is called before each forward pass and at the end.
    """
    result = None
    for state, view, result in stream(denoiser, tokens, config, **given):  # noqa: B007  (the last is kept)
        if callback is not None:
            callback(state, view)
    assert result is not None
    return result


@torch.no_grad()
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
    sequences ``stop`` comes to stand; ``pad_id`` follows it.

    Raises ConfigError where a setting is out of range or asks for what the model cannot give.
    """
    config = resolve(config)
    _methods.check(config, denoiser.head is not None, denoiser.gives, denoiser.trained)
    if padding is not None and "padding" not in denoiser.gives:
        raise ConfigError(f"{type(denoiser).__name__} cannot take padding: give it texts of one length at a time.")
    if tokens.shape[1] > denoiser.max_length:
        raise ConfigError(f"a text of {tokens.shape[1]} tokens is longer than the model's {denoiser.max_length}.")
    masked = tokens == denoiser.mask_id
    editable = masked if editable is None else editable
    if bool((masked & ~editable).logical_and(padding if padding is not None else masked).any()):
        raise ConfigError("a mask stands where ``editable`` is False: what is masked must be editable.")
    editable = editable if padding is None else editable & padding
    request = torch.arange(len(tokens), device=tokens.device) if request is None else request
    never = torch.tensor([denoiser.mask_id], device=tokens.device)
    never = never if suppress_ids is None else torch.cat([never, suppress_ids])
    ends = tuple(torch.tensor(list(sequence), device=tokens.device) for sequence in stop)
    state = State(
        tokens.clone(), editable, denoiser.mask_id, config, request, padding, never, truth=truth, stop=ends,
        pad_id=pad_id,
    )  # fmt: skip
    if denoiser.cache is not None:
        denoiser.cache.forget()
    started = time.perf_counter()
    for view in drive(methods[str(config.method)](state), denoiser, state):
        yield state, view, None
    yield state, None, Result(
        state.tokens, state.forwards, state.cost, state.fills, state.remasks.sum(dim=1), state.overwritten,
        state.wasted, None if truth is None else state.wrong_to_right, None if truth is None else state.right_to_wrong,
        time.perf_counter() - started, {**asdict(config), **_about(denoiser)},
    )  # fmt: skip


def _about(denoiser: Denoiser) -> dict[str, object]:
    """What else made a result: the head by its hash, versions, numerics."""
    digest = hashlib.sha256()
    for name, tensor in ({} if denoiser.head is None else denoiser.head.state_dict()).items():
        digest.update(name.encode() + tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "cache": None if denoiser.cache is None else denoiser.cache.settings(),
        "head_sha256": None if denoiser.head is None else digest.hexdigest()[:16],
        "versions": {"prism_plugin": __version__, "torch": torch.__version__},
        "numerics": "exact",
        "ops_compiled": ops.compiled(),
    }
