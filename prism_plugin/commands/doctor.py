"""``prism doctor``: what a checkpoint is and needs, read off its files; ``models.doctor`` finds it out."""

from typing import Annotated

import typer

from . import Command, Json, Settings, console

HELP = """\
settings (key=value):
  head=FOLDER         a trained head: does it fit? none: without its own
  mask_id=N           where neither config nor tokenizer names the mask

Reads config, tokenizer and the headers of the weights; loads nothing and runs
no code of the checkpoint. Exit code 1, with the fix in one line, where PRISM
cannot work with it.

examples:
  prism doctor sudoku
  prism doctor path/to/ModernBERT-base head=heads/modernbert
  prism doctor path/to/LLaDA-8B-Instruct --json"""

app = typer.Typer()


@app.command("doctor", cls=Command, epilog=HELP)
def doctor(
    model: Annotated[str, typer.Argument(help="a folder, a hub id, or an embedded model", show_default=False)],
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Say which host a checkpoint is, what fits it, and what is wrong with it."""
    from ..errors import unknown
    from ..models.doctor import examine

    given = {word.partition("=")[0]: word.partition("=")[2] for word in settings or []}
    for name in given:
        if name not in ("head", "mask_id"):
            raise unknown("setting", name, ("head", "mask_id"))
    found = examine(model, given.get("head", ""), given.get("mask_id", ""))
    if json:
        console.json(found)
    else:
        for name, value in found.items():
            if name != "fix":
                console.result(f"{name.replace('_', ' '):14} {_shared(value) if isinstance(value, dict) else value}")
        console.result(f"fix: {found['fix']}" if found["fix"] else "nothing stands in the way.")
    if found["fix"]:
        raise typer.Exit(1)


def _shared(values: dict[str, str]) -> str:
    """``a, b: what both are; c: another``."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value.removesuffix("."), []).append(name)
    return "; ".join(f"{', '.join(some)}: {value}" for value, some in names.items())
