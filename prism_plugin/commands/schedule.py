"""``prism schedule``: what a sampler does in every step, from its own code on a stub in place of a model."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..config import SamplerConfig, load
from ..errors import ConfigError
from ..files import file_to_write, write_atomic
from ..models.denoiser import Denoiser, Layout, Output
from ..sampling.config import resolve
from ..sampling.drive import generate
from ..sampling.trace import Recorder

HELP = """\
settings (key=value):
  sampler=prism             a sampler; sampler.steps, sampler.num_remask, sampler.eta … as in `prism sample`
  length=256                positions to write       texts=16   how many to average over

Tokens visible, filled and remasked in every step, from the sampler's own code on a stub in place of a model: symbols
are equally likely and qualities random, so where a sampler decides by the scores the amounts are only an example.

examples:
  prism schedule sampler=prism length=81 sampler.steps=32
  prism schedule sampler=prism-text length=1024 sampler.steps=256 --plot schedule.png"""

SYMBOLS, SHOWN = 16, 32


@dataclass
class ScheduleConfig:
    """``length`` positions to write, averaged over ``texts`` texts."""

    length: int = 256
    texts: int = 16
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


class Stub(Denoiser):
    """Every symbol equally likely everywhere, every quality a fresh uniform number in (0, 1)."""

    vocab_size, mask_id, hidden_size = SYMBOLS + 1, SYMBOLS, 1
    gives = frozenset({"second_forward", "probe", "layout"})

    def __init__(self, length: int, critic: bool = False) -> None:
        super().__init__()
        self.trained = {"objective": "critic" if critic else "prism"}
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


def simulate(config: ScheduleConfig) -> dict[str, np.ndarray]:
    """Mean number of tokens ``visible`` after, ``filled`` and ``remasked`` in each forward pass, float64 (F,) each."""
    for name in ("length", "texts"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}: allowed {name} >= 1.")
    recorder, stub = Recorder(), Stub(config.length, critic=resolve(config.sampler).score == "critic")
    generate(stub, torch.full((config.texts, config.length), stub.mask_id), config.sampler, callback=recorder)
    trace = recorder.trace()
    found = {"visible": trace.visible, "filled": trace.filled(), "remasked": trace.doubted}
    return {name: table.sum(axis=2).mean(axis=1)[1:] for name, table in found.items()}


def add(parser: argparse.ArgumentParser) -> None:
    """What ``prism schedule`` takes."""
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--plot", metavar="FILE", help="draw it (png, svg or pdf)")


def run(options: argparse.Namespace, console: Console) -> None:
    """``prism schedule``: print the table, at most ``SHOWN`` steps of it, and draw the plot where one is asked for."""
    output = file_to_write(options.plot) if options.plot else None
    config = load(options.settings, ScheduleConfig)
    config = replace(config, sampler=resolve(config.sampler))
    found = simulate(config)
    steps = len(found["visible"])
    parts = " ".join(
        f"{part}={getattr(config.sampler, part)}" for part in ("score", "select", "guard", "fill", "order", "refill")
    )
    title = f"{config.sampler.name}: {config.length} tokens in {steps} forward passes"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in ("forward", *found):
        table.add_column(name, justify="right")
    table.add_column("visible, share")
    for step in sorted({*np.linspace(0, steps - 1, min(steps, SHOWN)).round().astype(int).tolist()}):
        share = found["visible"][step] / config.length
        table.add_row(str(step + 1), *(f"{values[step]:.1f}" for values in found.values()), "█" * round(30 * share))
    console.print(table)
    total = {name: values.sum() for name, values in found.items()}
    console.print(
        f"In all {total['filled']:.1f} filled, {total['remasked']:.1f} remasked a text. {parts}", highlight=False
    )
    console.print(f"Mean of {config.texts} texts on a stub with random scores in place of a model.", style="dim")
    if output:
        _draw(found, title, output)
        console.print(f"Written: {output}", highlight=False)


def _draw(found: dict[str, np.ndarray], title: str, output: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'prism-plugin[plots]'.") from error
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    kind = output.suffix.lstrip(".") or "png"
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    if kind not in figure.canvas.get_supported_filetypes():
        raise ConfigError(f"--plot {output}: .{kind} is not a kind of picture; allowed are .png, .svg and .pdf.")
    step = np.arange(1, len(found["visible"]) + 1)
    above.fill_between(step, found["visible"], alpha=0.25, step="mid")
    above.step(step, found["visible"], where="mid")
    above.set(ylabel="visible afterwards", ylim=(0, None), title=title)
    below.bar(step, found["filled"], label="filled", width=0.9)
    below.bar(step, -found["remasked"], label="remasked", width=0.9, color="C3")
    below.axhline(0, color="black", linewidth=0.6)
    below.set(xlabel="forward pass", ylabel="tokens")
    below.legend(frameon=False)
    with write_atomic(output) as temporary:
        figure.savefig(temporary, format=kind, dpi=130)
    plt.close(figure)
