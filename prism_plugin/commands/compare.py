"""``prism compare``: samplers on the user's own model at equal cost, as one report; ``evaluation.rivals`` does it."""

import typer

from . import Command, Settings, console

HELP = """\
settings (key=value):
  model=NAME          needed: an embedded model, a folder, or a hub id; head=…
                      trust_remote_code=true where it brings code
  out=FOLDER          needed: results.json, report.html and replay.html
  samplers=a,b        presets, with settings where they have some
                      (a:eta=0.02:top_p=0.9); random-remask is always there
  steps=16,32         weighted forward passes that each sampler may spend
  data=FILE           prompts (.jsonl, .parquet, .txt …), with holes [MASK*20],
                      or max_new_tokens=N behind each; column=NAME; slots=8
                      of them at a time; without data, held-out texts of the
                      model's task, clues=N given; real=FILE: your own
  texts=64            how many texts; seeds=0,1,2 writes each of them so often
  metric=MODULE:NAME  a function of your own: list of texts -> list of scores,
                      higher is better; without one, the task's own; judge:
                      what a 5-gram model says of code and prose;
                      judge-causal: what a transformer says of either
  resume=true         go on with a comparison that was ended; overwrite=true

examples:
  prism compare model=sudoku samplers=prism,prism-evidence,wino \\
      steps=16,32 texts=32 clues=30 out=compared
  prism compare model=code samplers=prism,remdm-conf steps=32 out=compared-code
  prism compare model=code data=prompts.jsonl max_new_tokens=48 \\
      metric=mymetrics:short steps=16,32 out=compared-mine"""

app = typer.Typer()


@app.command("compare", cls=Command, epilog=HELP)
def compare(settings: Settings = None) -> None:
    """Compare samplers on your own model at equal cost."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..config import load
    from ..evaluation.rivals import CompareConfig, compared, remarks, table

    config = load(settings or (), CompareConfig)
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=console.silent, transient=True) as progress:
        bar = progress.add_task("", total=None)
        found = compared(
            config,
            tell=lambda what, done, units: progress.update(bar, description=what, completed=done, total=units),
        )
    console.print(table(found))
    if said := remarks(found):
        console.print(said, highlight=False)
    console.result(f"Written: {config.out}/report.html (open it in a browser), results.json, replay.html")
