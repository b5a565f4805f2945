"""``prism trace``: a recorded run, step by step in the terminal or as a page; ``sampling.replay`` draws it."""

from pathlib import Path
from typing import Annotated

import typer

from . import Command, Commands, console

HELP = """\
examples:
  prism sample trace=run.npz
  prism trace view run.npz --row 2
  prism trace view run.npz --html run.html"""

app = typer.Typer(name="trace", cls=Commands, epilog=HELP, help="Look at a recorded run.")


@app.callback()
def trace() -> None:
    """Look at a recorded run, step by step."""


@app.command("view", cls=Command, epilog=HELP)
def view(
    file: Annotated[str, typer.Argument(help="what `prism sample … trace=FILE` wrote")],
    row: Annotated[int, typer.Option(metavar="N", help="which of its texts")] = 0,
    html: Annotated[str, typer.Option(metavar="FILE", help="write a self-contained page in place of printing")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="print every step, not only those in which most was revised")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the page that is there")] = False,
) -> None:
    """Show a recorded run in the terminal, or write it as a page."""
    from ..files import file_to_write
    from ..sampling.replay import fitting, pick, show, write_page
    from ..sampling.trace import Trace

    output = file_to_write(html, overwrite, "--overwrite") if html else None
    found = Trace.load(file)
    pick(found, row)
    if not output:
        show(found, row, console, most=0 if everything else fitting(found))
        return
    frames, texts, length = found.tokens.shape
    note = f"{length} tokens, {frames - 1} forward passes; text {row + 1} of {texts} in {Path(file).name}."
    write_page(found, row, output, f"Sampler {found.about['settings']['name']}, step by step", note)
    console.result(f"Written: {output} (open it in a browser)")
