"""The Python face: switch self-correction on for a model that you have, then generate and score with it.

prism = enable("sudoku")                            # an embedded model, or a folder that `prism train` wrote
prism = enable(llada, head="runs/llada-head")       # a host's model, and a head trained for it
result = prism.generate(tokens, steps=32)           # every mask of tokens is filled, doubted tokens are redone
quality = prism.score(tokens)                       # how likely each visible token is right, without generating
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import from_mapping
from .denoiser import Denoiser, View, hosts
from .errors import ConfigError
from .model import PrismModel
from .quality.head import load_head
from .sampling import drive
from .sampling.config import SamplerConfig

log = logging.getLogger(__name__)


class Prism:
    """A model that is ready to revise its own text. ``sampler`` and ``settings`` are what ``generate`` starts from."""

    def __init__(self, denoiser: Denoiser, sampler: str, settings: dict[str, Any]) -> None:
        self.denoiser, self.settings = denoiser, {"name": sampler, **settings}
        self.config()

    def config(self, sampler: str | None = None, **settings: Any) -> SamplerConfig:
        """The sampler's settings with some replaced; ConfigError where one is not known or out of range."""
        named = {"name": sampler} if sampler else {}
        return from_mapping({**self.settings, **named, **settings}, SamplerConfig, "sampler.")

    def generate(
        self,
        tokens: Tensor,
        sampler: str | None = None,
        *,
        request: Tensor | None = None,
        padding: Tensor | None = None,
        callback: drive.Callback | None = None,
        **settings: Any,
    ) -> drive.Result:
        """Fill every mask of ``tokens`` (B, L) int64, wherever it stands; see ``sampling.drive.generate``.

        sampler: a preset in place of the one given to ``enable``; settings: fields of ``SamplerConfig``.
        """
        return drive.generate(
            self.denoiser, tokens, self.config(sampler, **settings),
            request=request, padding=padding, callback=callback,
        )  # fmt: skip

    @torch.no_grad()
    def score(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """How likely each visible token of (B, L) int64 is right, (B, L) f32, NaN at masks and padding.

        The learned quality where there is a head, else the self-likelihood of one forward pass.
        """
        view = View(self.denoiser, self.denoiser(tokens, padding))
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
    sampler: str | None = None,
    **settings: Any,
) -> Prism:
    """Give a model PRISM's self-correction, without changing it.

    model: the name of an embedded model, a folder, a ``Denoiser``, or a host's model, whose adapter is found by
    what it looks like or named by ``host`` (`prism info` lists them). head: a folder with ``head.safetensors``, or a
    module. Without a head nothing pretends: the score falls back to the self-likelihood, with one warning.

    Raises ConfigError where no adapter fits or a setting is wrong, CheckpointError where a head does not fit.
    """
    denoiser = _adapt(model, host)
    if isinstance(head, nn.Module):
        denoiser.head = head
    elif head is not None:
        load_head(denoiser, head)
        denoiser.head.to(next(denoiser.parameters()).device)
    if sampler is None:
        sampler = "prism"
        if denoiser.head is None:
            log.warning("no quality head was given: doubtful tokens are found by self-likelihood instead.")
            sampler = "self-likelihood"
    return Prism(denoiser, sampler, settings)


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
