"""``prism import``: a folder of ours made of somebody's checkpoint."""

from dataclasses import dataclass
from typing import Annotated

import typer

from ..errors import ConfigError
from . import Command, Settings, console

HELP = """\
settings (key=value):
  out=FOLDER          needed for weights; overwrite=true replaces a model there
  mask_id=N length=N  of a DiT; known for the release's Sudoku and text, to be
                      given for others
  ema=true            the averaged weights of a DiT's backbone, which the
                      release samples with; false: the last ones
  lora_alpha=N        of LLaDA's LoRA, by default its rank, as in the release

Nothing in the file is run: what is no tensor is passed over. Of a script (.sh)
or configuration (.yaml) of PRISM's release the sampler's settings are printed
as key=value, for `prism sample` and other commands.

examples:
  prism import sudoku_prism.ckpt out=runs/release
  prism sample model=runs/release $(prism import sample_sudoku_prism.sh)
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
    file: Annotated[str, typer.Argument(help="a Lightning .ckpt, pytorch_model.bin of RemaskingLLaDA, or a script")],
    settings: Settings = None,
) -> None:
    """Make a folder of ours of a checkpoint of PRISM's release or MDLM, or settings of ours of its script."""
    if file.endswith((".sh", ".yaml", ".yml")):
        from ..integrations.prism_release import read

        given = read(file)
        console.result(
            f"sampler={given.pop('name')} " + " ".join(f"sampler.{key}={each}" for key, each in given.items())
        )
        return
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
