"""``prism import``: a folder of ours made of somebody's checkpoint."""

import argparse
from dataclasses import dataclass

from rich.console import Console

from ..config import load
from ..errors import ConfigError
from ..models.importers import convert

HELP = """\
settings (key=value):
  out=FOLDER                needed
  mask_id=N length=N        of a DiT; known for the release's Sudoku and text, to be given for others
  ema=true                  the averaged weights of a DiT's backbone, which the release samples with, or the last ones
  lora_alpha=N              of LLaDA's LoRA, by default its rank, as in the release

Nothing in the file is run: what is no tensor is passed over.

examples:
  prism import sudoku_prism.ckpt out=runs/release
  prism import pytorch_model.bin out=runs/llada-head"""


@dataclass
class ImportConfig:
    """Settings of ``prism import``; see ``HELP``."""

    out: str = ""
    mask_id: int = -1
    length: int = 0
    ema: bool = True
    lora_alpha: int = 0


def add(parser: argparse.ArgumentParser) -> None:
    """What ``prism import`` takes."""
    parser.add_argument("file", help="a Lightning .ckpt, or pytorch_model.bin of RemaskingLLaDA")
    parser.add_argument("settings", nargs="*", metavar="key=value")


def run(options: argparse.Namespace, console: Console) -> None:
    """``prism import``; raises ConfigError and CheckpointError."""
    config = load(options.settings, ImportConfig)
    if not config.out:
        raise ConfigError("out is not set: name the folder to write, as in out=runs/release.")
    console.print(f"Written: {config.out} ({convert(options.file, **vars(config))})", highlight=False, markup=False)
