"""``prism batch``: whole corpora written, scored, corrected or filled in; ``corpus`` does it."""

import logging

import typer

from ..errors import ConfigError
from . import Command, Commands, Settings, console

COMMON = """\
settings (key=value):
  data=FILE           needed: .jsonl, .parquet (also .json, .csv, .tsv, .txt), or
                      a folder of such; column=NAME where the text has another
  out=FOLDER          needed: parts of rows=512 rows; format=jsonl|parquet
  model=NAME          needed: an embedded model, a folder, or a hub id; head=…
                      trust_remote_code=true where it brings code
  quality=true        write the quality of every token
  resume=true         go on with a job that was ended; overwrite=true: anew
  slots=8             texts in work at a time; dtype=bfloat16 device=cuda
  cluster=auto        on actors of Ray (or its address); workers=2: how many
"""

WRITE = """\
  sampler=NAME        a sampler; sampler.steps=32 sampler.seed=1 … its settings
"""

NEW = """\
  max_new_tokens=N    how many tokens to write behind a prompt; stop=[…] strings
"""

EXAMPLES = {
    "generate": "data=prompts.jsonl out=answers model=code max_new_tokens=48",
    "score": "data=answers out=scores model=code quality=true",
    "correct": "data=texts.jsonl out=corrected model=code sampler.steps=16",
    "infill": "data=holes.parquet out=filled model=code format=parquet",
}

ALL = "examples:\n" + "\n".join(f"  prism batch {kind} \\\n      {example}" for kind, example in EXAMPLES.items())

app = typer.Typer(name="batch", cls=Commands, epilog=ALL)


def _help(kind: str) -> str:
    settings = COMMON + (WRITE if kind != "score" else "") + (NEW if kind == "generate" else "")
    return f"{settings}\nexample:\n  prism batch {kind} \\\n      {EXAMPLES[kind]}"


@app.callback()
def batch() -> None:
    """Write, score, correct or fill in the rows of a corpus."""


@app.command("generate", cls=Command, epilog=_help("generate"))
def generate(settings: Settings = None) -> None:
    """Write behind every prompt, or into its holes."""
    _batch("generate", settings)


@app.command("score", cls=Command, epilog=_help("score"))
def score(settings: Settings = None) -> None:
    """How likely the tokens of every text are right."""
    _batch("score", settings)


@app.command("correct", cls=Command, epilog=_help("correct"))
def correct(settings: Settings = None) -> None:
    """Rewrite the doubtful tokens of every text."""
    _batch("correct", ["sampler=prism-correct", *(settings or ())])


@app.command("infill", cls=Command, epilog=_help("infill"))
def infill(settings: Settings = None) -> None:
    """Fill the holes of every text: [MASK] is one token, [MASK*20] twenty."""
    _batch("infill", settings)


def _batch(kind: str, settings: list[str] | None) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ..config import load, names_sampler
    from ..corpus import BatchConfig, run
    from ..sampling.config import resolve

    config = load(settings or (), BatchConfig)
    if names_sampler(settings or ()):
        resolve(config.sampler)  # before anything is loaded
    else:
        config.sampler.name = ""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    shown = (SpinnerColumn(), TextColumn("{task.completed} rows{task.fields[failed]}"), TimeElapsedColumn())
    terminal = Console(stderr=True)
    hidden = console.silent or not terminal.is_terminal
    with Progress(*shown, console=terminal, disable=hidden, transient=True) as progress:
        task, wrong = progress.add_task("", total=None, failed=""), 0

        def done(rows: int, failed: int) -> None:
            nonlocal wrong
            wrong += failed
            progress.update(task, advance=rows, failed=f", {wrong} failed" if wrong else "")

        try:
            summary = run(kind, config, done=done)
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing: pip install 'prism-plugin[train]' reads tables.") from error
    console.result(f"Written: {config.out} ({summary.rows} row{'s' * (summary.rows != 1)}, {summary.failed} failed)")
    if summary.failed:
        console.note('Rows with an "error" say what was wrong and where they stand.')
