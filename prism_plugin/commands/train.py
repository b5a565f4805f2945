"""``prism train``: a masked diffusion model, or the quality head on one."""

import argparse
import logging

from rich.console import Console

from ..errors import ConfigError, unknown

HELP = """\
kinds:
  mdm       a masked diffusion model from scratch, on a task whose data every machine can make
  quality   the quality head of PRISM on a model of ours or of a host, tuned with it

settings (key=value; `prism info settings` lists them all, docs/training.md explains them):
  out=FOLDER, needed            task=sudoku|sudoku4|code|prose, for mdm
  model=NAME, for quality       an embedded model, a folder, or a hub id (trust_remote_code=true where it brings code)
  data=FILE.jsonl               for quality, in place of the task's texts: {"prompt": …, "response": …} a line
  train.tune=head|lora|full     what learns; lora.r lora.alpha lora.targets
  train.steps train.batch_size train.accumulate train.lr train.ema train.seed train.bf16 train.eval_every train.resume
  backbone.hidden_size backbone.num_layers backbone.num_heads          quality.fills=stale|fresh quality.k

examples:
  prism train mdm task=sudoku4 out=runs/mdm4 train.steps=300 backbone.hidden_size=64 backbone.num_layers=2
  prism train quality model=runs/mdm4 out=runs/quality4 train.steps=200
  prism train quality model=GSAI-ML/LLaDA-8B-Instruct trust_remote_code=true data=code.jsonl out=heads/llada \\
      train.bf16=true train.batch_size=144 train.accumulate=144 data.length=1024 quality.k=8
  prism train quality model=llada-8b train.bf16=true train.batch_size=144 train.accumulate=144 --dry-run"""


def add(parser: argparse.ArgumentParser) -> None:
    """What ``prism train`` takes."""
    parser.add_argument("kind", help="mdm or quality")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="print what the run needs, and load and write nothing")


def run(options: argparse.Namespace, console: Console) -> None:
    """``prism train``; raises ConfigError before any work."""
    if options.kind not in ("mdm", "quality"):
        raise unknown("kind of training", options.kind, ("mdm", "quality"))
    from ..config import Config, load

    config: Config = load(options.settings)
    try:
        if options.dry_run:
            from ..training import plan

            console.print(plan.table(plan.plan(options.kind, config)))
            return
        from ..training.train import train

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        console.print(f"Written: {train(options.kind, config)}", highlight=False)
    except ImportError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'prism-plugin[train]'.") from error
