"""``prism train``: a masked diffusion model, or the quality head on one."""

import logging
import os
from typing import Annotated

import typer

from ..errors import ConfigError
from . import Command, Commands, Settings, console

COMMON = """\
  out=FOLDER                needed; overwrite=true replaces a finished model
  train.steps train.batch_size train.accumulate train.lr train.ema train.seed
  train.bf16 train.eval_every train.save_every train.resume=true
(`prism info settings` lists all, docs/training.md explains them)"""

MDM = f"""\
settings (key=value):
  task=sudoku|sudoku4|code|prose
                            what is learned; every machine can make its data;
                            data=FILE besides: these texts in its vocabulary
  noise=mask|uniform|hybrid what it learns to undo (sampler=uniform writes with
                            the latter two)
  backbone.hidden_size  backbone.num_layers  backbone.num_heads
  model=NAME                train this one on, in place of a fresh one, on its
                            task or on data=FILE; train.tune=lora|full
  corrector.weight=1        tell it the truth of its own fills too (ProSeCo);
                            corrector.over=filled: token-to-token editing
{COMMON}

examples:
  prism train mdm task=sudoku4 out=runs/mdm4 train.steps=300 \\
      backbone.hidden_size=64 backbone.num_layers=2
  prism train mdm model=code corrector.weight=1 train.steps=300 out=runs/proseco
  prism train mdm task=sudoku out=runs/mdm --dry-run"""

QUALITY = f"""\
settings (key=value):
  model=NAME                needed: an embedded model, a folder, or a hub id
                            (trust_remote_code=true where it brings code)
  data=FILE.jsonl           texts of your own in place of the task's, a line
                            each: {{"prompt": …, "response": …}}
  train.tune=head|lora|full what learns; lora.r lora.alpha lora.targets
  quality.fills=stale|fresh quality.k
{COMMON}

examples:
  prism train quality model=runs/mdm4 out=runs/quality4 train.steps=200
  prism train quality model=GSAI-ML/LLaDA-8B-Instruct trust_remote_code=true \\
      data=code.jsonl out=heads/llada train.bf16=true train.batch_size=144 \\
      train.accumulate=144 data.length=1024 quality.k=8
  prism train quality model=llada-8b train.bf16=true train.batch_size=144 \\
      train.accumulate=144 --dry-run"""

EXAMPLES = """\
examples:
  prism train mdm task=sudoku4 out=runs/mdm4 train.steps=300
  prism train quality model=runs/mdm4 out=runs/quality4 train.steps=200

Each explains its settings: prism train mdm --help, prism train quality --help."""

app = typer.Typer(name="train", cls=Commands, epilog=EXAMPLES)
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what the run needs; load and write nothing")]


@app.callback()
def train(dry_run: DryRun = False) -> None:
    """Train a model, or the quality head on one."""


@app.command("mdm", cls=Command, epilog=MDM)
def mdm(context: typer.Context, settings: Settings = None, dry_run: DryRun = False) -> None:
    """Train a masked diffusion model, from scratch or further."""
    _train("mdm", settings, dry_run or context.parent.params["dry_run"])


@app.command("quality", cls=Command, epilog=QUALITY)
def quality(context: typer.Context, settings: Settings = None, dry_run: DryRun = False) -> None:
    """Train the quality head of PRISM on a model of ours or of a host."""
    _train("quality", settings, dry_run or context.parent.params["dry_run"])


def _train(kind: str, settings: list[str] | None, dry_run: bool) -> None:
    from ..config import Config, load

    config: Config = load(settings or ())
    try:
        if dry_run:
            from ..training import plan

            console.print(plan.table(plan.plan(kind, config)))
            return
        from ..training.train import train

        first = os.environ.get("RANK", "0") == "0"  # of several processes (torchrun, accelerate) one speaks
        level = logging.INFO if first and not console.silent else logging.WARNING
        logging.basicConfig(level=level, format="%(message)s")
        folder = train(kind, config)
        if first:
            console.result(f"Written: {folder}")
    except ImportError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'prism-plugin[train]'.") from error
