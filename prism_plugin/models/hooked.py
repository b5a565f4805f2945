"""The kit that adapters are made of: a host is a declaration of where its states are, and what is odd about it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..inputs import device_of
from ..ops import live_rows
from .denoiser import Denoiser, Embedding, Output, checked_mask_id
from .remote import load

log = logging.getLogger(__name__)

_seen: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # what the probe of a host found


def base_model(model: Any) -> Any:
    """The host's own model under a peft wrapper (whose layers stay in place), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def class_names(model: Any) -> list[str]:
    """Names of the classes that the host's own model is of, its own first."""
    return [kind.__name__ for kind in type(base_model(model)).__mro__]


def forward_takes(model: Any) -> frozenset[str]:
    """Names of what the forward of the host's own model takes."""
    return frozenset(inspect.signature(base_model(model).forward).parameters)


@contextmanager
def captured(module: nn.Module, side: str = "input", cut: bool = True) -> Iterator[list[Tensor]]:
    """The tensors that enter a module, or with side=output the one that leaves it, in calls made by this thread.

    cut: none of its rows (B, L, …) goes on, so that nothing behind it is computed. The hook goes with the block.
    """
    kept: list[Tensor] = []
    mine = get_ident()

    def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if get_ident() != mine:
            return None
        kept.extend([*given, *named.values()])
        return ((given[0][:, :0], *given[1:]), named) if cut else None

    def after(_: nn.Module, given: tuple[Any, ...], result: Tensor) -> Tensor | None:
        if get_ident() != mine:
            return None
        kept.append(result)
        return result[:, :0] if cut else None

    handle: Any = None
    if side == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield kept
    finally:
        handle.remove()


class HookedDenoiser(Denoiser):
    """A host's model, bare or under peft, left as it is: its states are taken where they enter its output layer.

    A host declares, as far as it differs: ``classes`` and ``model_types``, or ``matches`` and ``loads``, which models
    are its own; ``state_at``, where the states are taken; ``output_layer``; ``inputs``, what its forward is given;
    ``logits``, what becomes of a state; ``shift``, 1 where the logits of position i are made of the state of position
    i - 1 (a head reads that of i); ``length_key``, the name of the most tokens of a text in its config; ``own_mask``,
    the mask where neither config nor tokenizer names it; ``marker``, where the model knows none: one id more then marks
    what is to be written, and never reaches it; ``unit``, how many columns of padding leave a text alone where any
    number would not (a block of the columns).

    mask_id: in place of the one that config, tokenizer or host names. tokenizer: kept for strings. Whether texts of
    different length have in one batch what each has alone, a probe finds out once; where they have not, ``gives`` lacks
    ``padding``. ``guide`` adds a pass that sees no prompt to every one.
    Raises ConfigError for a model that is not of this kind, and for one whose logits are made in another way.
    """

    hidden_at = "post_norm"
    classes: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    length_key = "max_position_embeddings"
    own_mask: int | None = None
    shift = 0
    marker = False
    unit = 4
    cfg_scale = 0.0
    prompt: Tensor | None = None
    host: Any

    def __init__(self, model: Any, mask_id: int | None = None, *, tokenizer: Any = None) -> None:
        super().__init__()
        self.host = base_model(model)
        if not self.fits():
            raise ConfigError(f"{type(self.host).__name__} is no model for {type(self).__name__}: {self.wants}.")
        self.tokenizer = tokenizer
        ends = getattr(getattr(self.host, "generation_config", None), "eos_token_id", None)
        self.end_ids = tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (ends,)
        layer = self.output_layer()
        self.vocab_size = (getattr(layer, "out_features", None) or layer.weight.shape[0]) + self.marker
        self.hidden_size = getattr(layer, "in_features", None) or layer.weight.shape[1]
        self.max_length = self.longest()
        if mask_id is None:
            mask_id = self.vocab_size - 1 if self.marker else self._named_mask_id()
        self.mask_id = checked_mask_id(mask_id, self.vocab_size)
        if self.marker and self.mask_id != self.vocab_size - 1:
            raise ConfigError(
                f"mask_id = {mask_id}: the host's vocabulary has no mask, the id behind it, {self.vocab_size - 1}, "
                "marks what is to be written."
            )
        self._takes = forward_takes(self.host)
        if "padding" in self.gives and not self._probe():
            self.gives = self.gives - {"padding"}

    unfused = "the mask is no row of the output layer"
    wants = "its output layer (get_output_embeddings) was not found"
    """What ``fits`` looks for, for the message where it does not."""

    def fits(self) -> bool:
        """Whether ``host`` is what the declarations below are about."""
        return self.matches(self.host)

    @classmethod
    def matches(cls, model: Any) -> bool:
        """Whether ``enable`` may take a model, bare or under peft, for one of this kind, by its classes."""
        return not set(cls.classes).isdisjoint(class_names(model))

    @classmethod
    def loads(cls, config: dict[str, Any]) -> bool:
        """Whether a checkpoint with this ``config.json`` is one of this kind."""
        listed = config.get("architectures") or ()
        return config.get("model_type") in cls.model_types or not set(cls.classes).isdisjoint(listed)

    @classmethod
    def known_mask(cls, config: dict[str, Any]) -> int | None:
        """The mask of a checkpoint whose config.json (``vocab_size``, ``architectures``) and tokenizer name none."""
        return cls.own_mask

    @classmethod
    def load(cls, name: str, *, mask_id: int | None = None, **options: Any) -> HookedDenoiser:
        """The checkpoint of that name, in eval mode. options: ``trust_remote_code`` and ``dtype``."""
        return cls(cls.from_pretrained(name, **options).eval(), mask_id)

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> Any:
        """The host's own model of that name, by the code that its checkpoint brings."""
        return load(name, **options)

    def output_layer(self) -> Any:
        """The module whose weight (V, D) makes the logits."""
        return self.host.get_output_embeddings()

    def embedded(self, tokens: Tensor) -> Tensor:
        """See ``Denoiser.embedded``."""
        layer = getattr(self.host, "get_input_embeddings", lambda: None)()
        return super().embedded(tokens) if layer is None or self.shift else layer(self.readable(tokens))

    def state_at(self) -> tuple[nn.Module, str]:
        """A module, and whether the states are its ``input`` or its ``output``."""
        return self.output_layer(), "input"

    def longest(self) -> int:
        """The most tokens of a text."""
        return getattr(self.host.config, self.length_key)

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """Keywords of the host's forward: the mask of padding, and positions that begin where a text does."""
        given: dict[str, Any] = {"input_ids": tokens}
        if padding is not None:
            given["attention_mask"] = padding.long()
            if "position_ids" in self._takes:
                given["position_ids"] = (padding.long().cumsum(dim=1) - 1).clamp(min=0)
        return given

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V)."""
        return self.output_layer()(hidden)

    def call(self, tokens: Tensor, padding: Tensor | None, level: Tensor | None = None) -> Any:
        """One forward of the host; level as for ``Denoiser.forward``, where ``gives`` has it."""
        return self.host(**self.inputs(tokens, padding))

    def states(self, tokens: Tensor, padding: Tensor | None = None, level: Tensor | None = None) -> list[Tensor]:
        """(B, L) -> the states (B, L, D) and what else enters the layer with them; no logits are computed.

        Of a ``cache`` (``new_cache``), which has run(denoiser, tokens, padding) and the ``share`` of that pass.
        """
        if self.cache is not None:
            return [self.cache.run(self, self.readable(tokens), padding)]
        module, side = self.state_at()
        with captured(module, side) as kept:
            self.call(self.readable(tokens), padding, level)
        where = device_of(self)  # of a model over several devices the layer before may be on another
        return [state.to(where) for state in kept]

    def forward(self, tokens: Tensor, padding: Tensor | None = None, level: Tensor | None = None) -> Output:
        """See ``Denoiser.forward``."""
        if not self.cfg_scale:
            hidden, *time = self.states(tokens, padding, level)
            return Output(hidden, time[0] if time else None, share=self._share())
        blind = tokens.masked_fill(self.prompt, self.mask_id)  # type: ignore[arg-type]  # see ``guide``
        padding, level = (None if each is None else torch.cat([each, each]) for each in (padding, level))
        both, *_ = self.states(torch.cat([tokens, blind]), padding, level)
        return Output(both[: len(tokens)], unguided=both[len(tokens) :], share=2 * self._share())

    def _share(self) -> float:
        return 1.0 if self.cache is None else self.cache.share

    def guide(self, cfg_scale: float, prompt: Tensor) -> None:
        """Logits u + (cfg_scale + 1) (l - u) from now on, u of a pass in which the prompt (B, L) bool is masked.

        0 is no guidance. A head reads the pass that saw all. Raises ConfigError for less.
        """
        if not cfg_scale >= 0:
            raise ConfigError(f"cfg_scale = {cfg_scale}: allowed cfg_scale >= 0 (0 is no guidance).")
        self.cfg_scale, self.prompt = cfg_scale, prompt

    def readable(self, tokens: Tensor) -> Tensor:
        """Tokens that the host has a row for: a ``marker`` is read as id 0 (noise takes its place before a step)."""
        return tokens.masked_fill(tokens == self.mask_id, 0) if self.marker else tokens

    def at(self, output: Output, index: Tensor) -> Tensor:
        """The states (N, D) that the logits of flat positions (N,) are made of."""
        if self.shift:
            index = index - (index % output.hidden.shape[1] > 0).long()
        return output.hidden.flatten(0, 1)[index]

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Denoiser.project``: logits of the rows asked for, in the host's dtype."""
        if output.logits is not None:
            return super().project(output, index)
        rows, which = live_rows(index)
        logits = self.logits(self.at(output, rows))
        if output.unguided is not None:
            logits = self.guided(logits, self.logits(self.at(Output(output.unguided), rows)))
        return self.widened(logits), which

    def guided(self, logits: Tensor, unguided: Tensor) -> Tensor:
        """See ``guide``."""
        return unguided + (self.cfg_scale + 1) * (logits - unguided)

    def widened(self, logits: Tensor) -> Tensor:
        """The host's logits with a column for the ``marker``, which is never drawn."""
        return torch.nn.functional.pad(logits, (0, 1), value=-torch.inf) if self.marker else logits

    def output_embedding(self) -> Embedding | None:
        """See ``Denoiser.output_embedding``; None where guidance mixes two passes."""
        if self.cfg_scale or self.marker:
            return None
        layer = self.output_layer()
        return None if layer.weight.is_meta else Embedding(self.at, layer.weight, getattr(layer, "bias", None))

    def _named_mask_id(self) -> int:
        named = [
            getattr(getattr(self.host, "config", None), "mask_token_id", None),
            getattr(getattr(self.host, "generation_config", None), "mask_token_id", None),
            getattr(self.tokenizer, "mask_token_id", None),
            self.known_mask({"vocab_size": self.vocab_size, "architectures": class_names(self.host)}),
        ]
        found = next((value for value in named if value is not None), None)
        if found is None:
            raise ConfigError(
                f"{type(self.host).__name__}: its config names no mask_token_id: give mask_id=…, or a tokenizer with a "
                "mask token."
            )
        return found

    @torch.no_grad()
    def _probe(self) -> bool:
        """Whether padding leaves a text alone, found once a host: one short text, alone and behind two paddings."""
        if self.host not in _seen:
            modes = [(module, module.training) for module in self.host.modules()]
            self.host.eval()
            try:
                _seen[self.host] = self._found()
            finally:
                for module, mode in modes:
                    module.training = mode
            if _seen[self.host]:
                log.warning(
                    "%s: %s, so texts of different length are not written in one batch.",
                    type(self.host).__name__, _seen[self.host],
                )  # fmt: skip
        return not _seen[self.host]

    def _found(self) -> str:
        device = device_of(self)
        if device.type == "meta":
            return ""
        size = self.unit
        text = torch.randint(self.vocab_size, (1, size), generator=torch.Generator().manual_seed(0)).to(device)
        module, side = self.state_at()
        with captured(module, side, cut=False) as kept:
            theirs = self.call(text, None)
        theirs = getattr(theirs, "logits", theirs)
        alone = kept[0]
        ours = self.logits(self.at(Output(alone), torch.arange(size, device=device))).float()
        theirs = self.shifted(theirs)[0].float()
        if ours.shape != theirs.shape or not self._close(ours, theirs, alone.dtype):
            raise ConfigError(
                f"{type(self.host).__name__}: its logits are not its output layer's of the states that enter it; wrap "
                "it in a Denoiser of your own."
            )
        padded = torch.cat([text, text]).new_full((2, 2 * size), self.mask_id)
        padded[1, :size] = text.flip(1)
        padded[:, size:] = text
        real = torch.arange(2 * size, device=device).expand(2, -1) >= size
        one, other = self.states(padded, real)[0][:, size:]
        if not self._close(one, other, torch.float32):
            return "it ignores the attention mask"
        apart = float((one - alone[0]).float().norm() / alone[0].float().norm())  # .5 and more where a text moved
        rounding = 1e-3 if alone.dtype in (torch.float32, torch.float64) else 0.1
        return "" if apart <= rounding else "padding on the left moves a text's positions"

    def shifted(self, logits: Tensor) -> Tensor:
        """The host's logits (B, L, V), each at the position that it is for."""
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if self.shift else logits

    @staticmethod
    def _close(one: Tensor, other: Tensor, kind: torch.dtype) -> bool:
        allowed = 1e-4 if kind in (torch.float32, torch.float64) else 3e-2
        return float((one - other).abs().max()) <= allowed * max(1.0, float(other.abs().max()))
