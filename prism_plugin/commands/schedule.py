"""``prism schedule``: what a sampler does in every step; ``sampling.simulate`` finds it out."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..errors import ConfigError
from . import NOTHING_REMASKED, Command, Json, Settings, console

HELP = """\
settings (key=value):
  sampler=prism       a sampler; sampler.steps, sampler.num_remask … as in
                      `prism sample`
  length=256          positions to write
  texts=16            how many to average over

Tokens visible, filled and remasked in every step, from the sampler's own code
on a stub in place of a model: symbols are equally likely and qualities random,
so where a sampler decides by the scores the amounts are only an example.

examples:
  prism schedule sampler=prism length=81 sampler.steps=32
  prism schedule sampler=prism-text length=512 sampler.steps=64 --plot s.png"""

SHOWN = 32
"""Steps of the table at most."""
KINDS = (".png", ".svg", ".pdf")
PARTS = ("score", "select", "guard", "fill", "order", "refill")

app = typer.Typer()


@app.command("schedule", cls=Command, epilog=HELP)
def schedule(
    settings: Settings = None,
    plot: Annotated[str, typer.Option(metavar="FILE", help="draw it (png, svg or pdf)")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the plot that is there")] = False,
    json: Json = False,
) -> None:
    """Show what a sampler does in every step, before anything is run."""
    from ..config import load
    from ..files import file_to_write
    from ..sampling.config import resolve
    from ..sampling.simulate import ScheduleConfig, simulate

    config = load(settings or (), ScheduleConfig)
    config = replace(config, sampler=resolve(config.sampler))
    output = file_to_write(plot, overwrite, "--overwrite") if plot else None
    if output and output.suffix not in KINDS:
        raise ConfigError(f"--plot {plot}: {output.suffix!r} is no kind of picture; allowed are {', '.join(KINDS)}.")
    error = Console(stderr=True)
    with Progress(console=error, transient=True, disable=console.silent or not error.is_terminal) as progress:
        bar = progress.add_task("texts", total=config.texts)
        found = simulate(config, lambda texts: progress.advance(bar, texts))
    title = f"{config.sampler.name}: {config.length} tokens in {len(found['visible'])} forward passes"
    if json:
        console.json({"sampler": vars(config.sampler), "length": config.length, "texts": config.texts,
                      **{name: values.tolist() for name, values in found.items()}})  # fmt: skip
    else:
        _print(found, title, config)
    if output:
        _draw(found, title, output)
        console.note(f"Written: {output}")


def _print(found: dict[str, Any], title: str, config: Any) -> None:
    import numpy as np

    steps = len(found["visible"])
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for name in ("forward", *found):
        table.add_column(name, justify="right")
    table.add_column("visible, share", width=30)
    for step in sorted({*np.linspace(0, steps - 1, min(steps, SHOWN)).round().astype(int).tolist()}):
        share = found["visible"][step] / config.length
        table.add_row(str(step + 1), *(f"{values[step]:.1f}" for values in found.values()), "█" * round(30 * share))
    console.print(table)
    total = {name: values.sum() for name, values in found.items()}
    parts = " ".join(f"{p}={getattr(config.sampler, p)}" for p in PARTS)
    console.print(
        f"In all {total['filled']:.1f} filled, {total['remasked']:.1f} remasked a text. {parts}", highlight=False
    )
    if config.sampler.score != "none" and not total["remasked"]:
        console.note(NOTHING_REMASKED)
    console.note(f"Mean of {config.texts} texts on a stub with random scores in place of a model.")


def _draw(found: dict[str, Any], title: str, output: Path) -> None:
    import numpy as np

    from ..files import write_atomic

    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'prism-plugin[plots]'.") from error
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
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
        figure.savefig(temporary, format=output.suffix[1:], dpi=130)
    plt.close(figure)
