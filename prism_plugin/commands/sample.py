"""``prism sample``: puzzles solved and texts made by any sampler."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..config import SamplerConfig, load
from ..errors import ConfigError, DataError
from ..files import file_to_write
from ..models.checkpoint import PrismModel
from ..sampling.drive import generate
from ..sampling.trace import Recorder
from ..tasks import Task, get_task

HELP = """\
settings (key=value):
  model=sudoku              embedded model or folder of `prism train`
  sampler=prism             a sampler; sampler.steps=32 sampler.seed=1 sampler.order=confidence … replace its settings
  puzzle=CELLS              a Sudoku, row by row, 0 or . where blank; without one, grids are made from nothing
  prompt=TEXT               code or prose to go on with, or with holes to fill: [MASK] is one token, [MASK*20] twenty
  file=FILE                 puzzles, one a line, or such a text
  clues=N                   draw held-out puzzles or texts with N positions given (count=M of them)
  count=1                   how many texts to make where no puzzle is given
  trace=FILE                record every step, for `prism trace view FILE`

examples:
  prism sample puzzle=53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
  prism sample sampler=confidence sampler.steps=16 clues=30 count=8
  prism sample model=code prompt='def area(width, height):\\n    return [MASK*4]\\n' sampler.steps=16
  prism sample sampler.tau=0.3 sampler=prism-evidence trace=run.npz"""


@dataclass
class SampleConfig:
    """Settings of ``prism sample``; see ``HELP``."""

    model: str = "sudoku"
    puzzle: str = ""
    prompt: str = ""
    file: str = ""
    clues: int = 0
    count: int = 1
    trace: str = ""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


def add(parser: argparse.ArgumentParser) -> None:
    """What ``prism sample`` takes."""
    parser.add_argument("settings", nargs="*", metavar="key=value")


def settings_of(settings: list[str]) -> SampleConfig:
    """Checked settings of ``key=value``."""
    # not to be read as a number or a list
    texts = dict(s.split("=", 1) for s in settings if s.startswith(("puzzle=", "prompt=")))
    config = load([s for s in settings if not s.startswith(("puzzle=", "prompt="))], SampleConfig)
    for name, text in texts.items():
        setattr(config, name, text)
    return config


def run(options: argparse.Namespace, console: Console) -> None:
    """``prism sample``; raises ConfigError, DataError and CheckpointError before any work."""
    config = settings_of(options.settings)
    if config.count < 1:
        raise ConfigError(f"count = {config.count}: allowed count >= 1.")
    output = file_to_write(config.trace) if config.trace else None
    model = PrismModel.from_pretrained(config.model)
    task = get_task(model.task)
    prompts = _prompts(config, task)
    recorder = Recorder() if output else None
    result = generate(model, prompts, config.sampler, callback=recorder)
    solved, _ = task.accuracy(result.tokens, prompts)
    for row, verdict in enumerate(task.verdict(result.tokens, prompts)):
        console.print(task.render(result.tokens[row]), highlight=False, markup=False, soft_wrap=True)
        if verdict:
            console.print(f"{verdict}: ", style="green" if solved[row] else "red", markup=False, end="")
        console.print(
            f"{result.forwards[row]} forward passes, {result.remasked[row]} remasks, {result.wasted[row]} wasted\n",
            highlight=False,
        )
    done = f"{int(solved.sum())} of {len(solved)} solved" if task.grid else f"{len(solved)} texts"
    console.print(f"{done} in {result.seconds:.1f} s by sampler {config.sampler.name}", style="dim")
    if recorder and output:
        words = str if task.grid else lambda token: task.render(result.tokens.new_tensor([token]))
        recorder.trace(task.grid, words).save(output)
        console.print(f"Trace: {output} (`prism trace view {output}`)", highlight=False)


def _prompts(config: SampleConfig, task: Task) -> Any:
    """Masked texts (B, L) of a puzzle, a prompt, a file of them, or a number of clues; DataError where one is wrong."""
    given = [name for name in ("puzzle", "prompt", "file", "clues") if getattr(config, name)]
    if len(given) > 1:
        raise ConfigError(f"{given[0]} and {given[1]} are both set: choose one.")
    if given in ([], ["clues"]):
        return task.prompts(config.count, config.clues)
    if task.grid if config.prompt else (config.puzzle and not task.grid):
        raise ConfigError(f"{given[0]}: model {config.model!r} was trained on {task.name!r}, which has no {given[0]}s.")
    content = config.puzzle or config.prompt.replace("\\n", "\n")
    if config.file:
        try:
            content = Path(config.file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"file {config.file!r} cannot be read: {getattr(error, 'strerror', None) or error}."
            ) from error
    if not task.grid:
        return task.prompt(content).repeat(config.count, 1)  # type: ignore[attr-defined]
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"file {config.file!r} holds no puzzle: one a line is wanted.")
    puzzles = []
    for number, line in enumerate(lines, 1):
        where = f"{config.file}, puzzle {number}: " if config.file else ""
        cells = line.strip().replace(".", "0").replace(" ", "")
        if not (cells.isascii() and cells.isdigit()):
            raise DataError(f"{where}a puzzle is digits, 0 or . where blank; {line.strip()[:20]!r} came.")
        try:
            task.check_puzzle([int(c) for c in cells])  # type: ignore[attr-defined]
        except DataError as error:
            raise DataError(f"{where}{error}") from error
        puzzles.append([int(c) or task.mask_id for c in cells])
    return torch.tensor(puzzles)
