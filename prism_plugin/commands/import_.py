"""``prism import``: a folder of ours made of somebody's checkpoint."""

from dataclasses import dataclass
from typing import Annotated

import typer

from ..errors import ConfigError
from . import Command, Settings, console

HELP = """\
settings (key=value):
  out=FOLDER          needed; overwrite=true replaces a finished model there
  mask_id=N length=N  of a DiT; known for the release's Sudoku and text, to be
                      given for others
  ema=true            the averaged weights of a DiT's backbone, which the
                      release samples with; false: the last ones
  lora_alpha=N        of LLaDA's LoRA, by default its rank, as in the release

Nothing in the file is run: what is no tensor is passed over.

examples:
  prism import sudoku_prism.ckpt out=runs/release
  prism import pytorch_model.bin out=runs/llada-head"""

app = typer.Typer()


@dataclass
class ImportConfig:
    """Settings of ``prism import``; see ``HELP``."""

    out: str = ""
    overwrite: bool = False
    mask_id: int = -1
    length: int = 0
    ema: bool = True
    lora_alpha: int = 0


@app.command("import", cls=Command, epilog=HELP)
def import_(
    file: Annotated[str, typer.Argument(help="a Lightning .ckpt, or pytorch_model.bin of RemaskingLLaDA")],
    settings: Settings = None,
) -> None:
    """Make a folder of ours of a checkpoint of PRISM's release or MDLM."""
    from ..config import load
    from ..files import folder_to_write
    from ..models.importers import convert

    config = load(settings or (), ImportConfig)
    if not config.out:
        raise ConfigError("out is not set: name the folder to write, as in out=runs/release.")
    for name, least in (("mask_id", -1), ("length", 0), ("lora_alpha", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"{name} = {getattr(config, name)}: allowed {name} >= {least}.")
    given = {name: value for name, value in vars(config).items() if name != "overwrite"}
    folder_to_write(config.out, config.overwrite)
    console.result(f"Written: {config.out} ({convert(file, **given)})")
