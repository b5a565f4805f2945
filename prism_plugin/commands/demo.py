"""``prism demo``: revision methods side by side on Sudoku grids at the same number of forward passes.

``evaluation.comparison`` says what is compared.
"""

from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ConfigError
from . import Command, console

HELP = """\
examples:
  prism demo
  prism demo --all                       every method
  prism demo --puzzles 100 --forwards 16
  prism demo --clues 30 --seed 1 --out results"""

app = typer.Typer()


@app.command("demo", cls=Command, epilog=HELP)
def demo(
    model: Annotated[str, typer.Option(metavar="NAME", help="embedded Sudoku model or folder")] = "sudoku",
    puzzles: Annotated[int, typer.Option(metavar="N", help="puzzles a row of the table")] = 48,
    clues: Annotated[int, typer.Option(metavar="N", help="cells given; 0: empty grids, generated whole")] = 0,
    forwards: Annotated[int, typer.Option(metavar="N", help="forward passes a grid")] = 32,
    seed: Annotated[int, typer.Option(metavar="N", help="of the sampler")] = 0,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="where the HTML replay goes")] = "outputs",
    every: Annotated[bool, typer.Option("--all", help="all methods, not those alone that say most")] = False,
) -> None:
    """Compare revision methods on Sudoku; watch one grid corrected."""
    show(model, puzzles, clues, forwards, seed, out, console, every)


def show(
    model_name: str, puzzles: int, clues: int, forwards: int, seed: int, out: str, console: Console, every: bool = True
) -> None:
    """The whole demonstration; raises ConfigError or CheckpointError before any work."""
    import torch

    from ..evaluation.comparison import ROWS, choose, compare_note, diversity, measure, repaired, table
    from ..files import output_folder
    from ..models.checkpoint import PrismModel
    from ..models.precision import in_halves
    from ..sampling import replay
    from ..sampling.trace import Recorder
    from ..tasks import HELD_OUT, get_task

    for name, value in (("puzzles", puzzles), ("forwards", forwards)):
        if value < 1:
            raise ConfigError(f"--{name} {value}: allowed --{name} >= 1.")
    model = PrismModel.from_pretrained(model_name)
    task = get_task(model.task)
    if not task.grid:
        raise ConfigError(f"model {model_name!r} was trained on {task.name!r}: the demonstration needs a Sudoku model.")
    if model.head is None:
        raise ConfigError(
            f"model {model_name!r} has no quality head: train one with `prism train quality model={model_name}`."
        )
    prompts = task.prompts(puzzles, clues)
    folder = output_folder(out, keep=False)
    blanks = task.length - clues
    what = "empty grids, generated whole" if not clues else f"grids with {clues} clues"
    console.print(
        f"[bold]{puzzles} {what}[/], {blanks} cells to write in {forwards} forward passes. "
        f"Held-out puzzles: the model was not trained on them."
    )
    half = in_halves("auto")
    console.print(f"Passes in {'bf16' if half else 'f32'}, which is faster here.", style="dim")
    rows, recorder = [], Recorder()
    featured = "PRISM", "random" if forwards < blanks else "confidence"
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("puzzles"),
        TimeRemainingColumn(),
    )
    chosen = [row for row in ROWS if every or row.first]
    heading = f"Sudoku, {puzzles} puzzles, {forwards} forward passes each"
    progress = Progress(*columns, console=console)
    halves = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with halves, Live(progress, console=console, transient=True) as live:
        bar = progress.add_task("", total=len(chosen) * puzzles)
        for row in chosen:
            progress.update(bar, description=f"{row.method}, {row.order}")
            watch = recorder if (row.method, row.order) == featured else None
            rows.append(measure(
                choose(row, model, model_name), task, prompts, row, forwards, seed, batch_size=puzzles,
                callback=watch, advance=lambda texts: progress.advance(bar, texts),
            ))  # fmt: skip
            live.update(Group(table(rows, heading), progress))
    console.print(table(rows, heading))
    if len(chosen) < len(ROWS):
        console.print(f"{len(ROWS) - len(chosen)} more rows: prism demo --all", style="dim")
    truth = diversity(task.texts(0, max(puzzles, 256), HELD_OUT), task.vocab_size)
    console.print(
        "cells %: cells that clash with no other; fwd: forwards; remask, waste (the same token came back): a grid; "
        f"div.: diversity, the share of cells in which two grids differ, {truth:.3f} for true ones; s: seconds.",
        style="dim",
    )
    console.print(
        compare_note(rows, forwards, clues) or "No committed result for these settings to compare with.", style="dim"
    )

    trace = recorder.trace(grid=task.grid)
    solved, _ = task.accuracy(torch.from_numpy(trace.tokens[-1]), prompts)
    shown = repaired(trace, solved)
    outcome = "solved" if bool(solved[shown]) else "not solved"
    console.print(f"\n[bold]Grid {shown}, PRISM, {featured[1]} fill order, step by step ({outcome})[/]")
    replay.show(trace, shown, console, most=18)
    page = folder / "sudoku_replay.html"
    note = (
        f"{'An empty grid' if not clues else f'A grid with {clues} clues'}, {forwards} forward passes, {featured[1]} "
        f"fill order, {outcome}. In each step the head scores the visible digits, the lowest are masked again, and "
        "masks are filled."
    )
    replay.write_page(trace, shown, page, "PRISM corrects itself on a Sudoku", note)
    console.print(f"\nReplay with slider and history of every cell: [bold]{page}[/] (open it in a browser)")
