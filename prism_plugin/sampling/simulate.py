"""What a sampler does in every step, from its own code on a stub in place of a model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.denoiser import Denoiser, Layout, Output
from ..models.noise import Noise
from .config import SamplerConfig, resolve
from .drive import generate
from .parts import trained_for
from .trace import Recorder

SYMBOLS = 16
FRAMES, WORK = 2**22, 2**28
"""Positions of all steps that are held at a time (100 bytes each), and of all texts together (minutes)."""


@dataclass
class ScheduleConfig:
    """``length`` positions to write, averaged over ``texts`` texts."""

    length: int = 256
    texts: int = 16
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        for name in ("length", "texts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: allowed {name} >= 1.")


class Stub(Denoiser):
    """Every symbol equally likely everywhere, every quality a fresh uniform number in (0, 1)."""

    vocab_size, mask_id, hidden_size = SYMBOLS + 1, SYMBOLS, 1
    gives = frozenset({"second_forward", "probe", "layout"})

    def __init__(self, length: int, objective: str = "prism") -> None:
        super().__init__()
        self.trained = {"objective": objective}
        self.max_length, self.head, self.random = length, _Uniform(), torch.Generator().manual_seed(0)
        self.logits = torch.zeros(1, self.vocab_size)
        self.logits[:, self.mask_id] = -torch.inf

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
        """Uniform numbers for the head to read."""
        return Output(torch.rand(*tokens.shape, 1, generator=self.random))

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """One row of logits for every position."""
        return self.logits, torch.zeros_like(index).masked_fill(index < 0, -1)


class _Uniform(nn.Module):
    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        return hidden.squeeze(-1).logit()


def simulate(config: ScheduleConfig, advance: Callable[[int], None] = lambda texts: None) -> dict[str, np.ndarray]:
    """Mean number of tokens ``visible`` after, ``filled`` and ``remasked`` in each forward pass, float64 (F,) each.

    ``advance(n)`` is told of n texts done. Raises ConfigError where the numbers are too large together.
    """
    sampler = resolve(config.sampler)
    text = config.length * (sampler.steps + 1)
    if text > FRAMES or text * config.texts > WORK:
        raise ConfigError(
            f"length = {config.length}, sampler.steps = {sampler.steps}, texts = {config.texts}: too much to simulate; "
            f"allowed length x steps up to {FRAMES:,}, times texts up to {WORK:,}."
        )
    stub = Stub(config.length, trained_for(sampler.score))
    stub.noise = Noise(float(sampler.method == "redraw"))
    sums: dict[str, np.ndarray] = {}
    for first in range(0, config.texts, size := max(1, FRAMES // text)):
        recorder, count = Recorder(), min(size, config.texts - first)
        prompts = torch.full((count, config.length), stub.mask_id)
        generate(stub, prompts, sampler, request=torch.arange(first, first + count), callback=recorder)
        trace = recorder.trace()
        found = {"visible": trace.visible, "filled": trace.filled(), "remasked": trace.doubted}
        for name, table in found.items():
            total = table.sum(axis=(1, 2))[1:].astype(np.float64)
            if name in sums:  # texts that end earlier are whole from there on
                rest: Any = "edge" if name == "visible" else "constant"
                steps = max(len(total), len(sums[name]))
                one, other = (np.pad(part, (0, steps - len(part)), rest) for part in (total, sums[name]))
                total = one + other
            sums[name] = total
        advance(count)
    return {name: total / config.texts for name, total in sums.items()}
