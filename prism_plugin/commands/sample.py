"""``prism sample``: puzzles solved and texts made by any sampler."""

import json as json_
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import ConfigError, DataError
from ..sampling.config import SamplerConfig
from . import NOTHING_REMASKED, Command, Json, Settings, console

if TYPE_CHECKING:
    from torch import Tensor

HELP = """\
settings (key=value):
  model=sudoku        embedded model, or folder of `prism train`
  sampler=NAME        a sampler, by default the model's own;
                      sampler.steps=32 sampler.seed=1 … its settings
  puzzle=CELLS        a Sudoku, row by row, 0 or . where blank; without one, a
                      grid is made from nothing
  prompt=TEXT         code or prose to go on with, or with holes to fill: [MASK]
                      is one token, [MASK*20] twenty; \\n is a line feed,
                      \\\\ a backslash
  file=FILE           puzzles, a line or nine lines each, or one such text;
                      - is standard input
  prompts=FILE        many texts, one a line, or objects with a "prompt" in a
                      .jsonl; one result a line; - is standard input
  clues=N             draw held-out puzzles or texts with N positions given
  count=1             how many to make of each
  out=FILE            write the results there, one a line, as JSON in .jsonl
  trace=FILE          record every step, for `prism trace view FILE`
  overwrite=true      out and trace may replace files that are there

examples:
  prism sample sampler=confidence sampler.steps=16 clues=30 count=8
  prism sample file=puzzles.txt out=solved.txt
  prism sample model=code prompt='def area(a, b):\\n    return [MASK*4]\\n'
  prism sample model=code prompts=prompts.jsonl --json
  prism sample sampler.tau=0.3 sampler=prism-evidence trace=run.npz"""

app = typer.Typer()


@dataclass
class SampleConfig:
    """Settings of ``prism sample``; see ``HELP``."""

    model: str = "sudoku"
    puzzle: str = ""
    prompt: str = ""
    file: str = ""
    prompts: str = ""
    clues: int = 0
    count: int = 1
    out: str = ""
    trace: str = ""
    overwrite: bool = False
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            raise ConfigError(f"count = {self.count}: allowed 1 <= count <= {MOST}.")
        given = [name for name in ("puzzle", "prompt", "file", "prompts", "clues") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} are both set: choose one.")


MOST = 100_000


@app.command("sample", cls=Command, epilog=HELP)
def sample(settings: Settings = None, json: Json = False) -> None:
    """Solve a puzzle or make texts with any sampler."""
    from ..api import enable
    from ..config import load, names_sampler
    from ..files import file_to_write, write_atomic
    from ..models.checkpoint import PrismModel
    from ..sampling.config import resolve
    from ..sampling.drive import generate, generate_many
    from ..sampling.trace import Recorder
    from ..tasks import get_task

    config = load(settings or (), SampleConfig)
    asked = config.sampler.settings()
    preset = asked.pop("name")
    name = preset if names_sampler(settings or ()) else None
    if name:
        resolve(config.sampler)  # before anything is loaded
    output, recording = (file_to_write(f, config.overwrite) if f else None for f in (config.out, config.trace))
    model = PrismModel.from_pretrained(config.model)
    sampler = resolve(enable(model, sampler=name, **asked).config())
    task = get_task(model.task)
    prompts = _prompts(config, task)
    if len({len(prompt) for prompt in prompts}) == 1:
        recorder = Recorder() if recording else None
        result = generate(model, prompts[0].new_tensor([p.tolist() for p in prompts]), sampler, callback=recorder)
    elif recording:
        raise ConfigError("trace records texts of one length: leave it out, or give one prompt at a time.")
    else:
        result = generate_many(model, prompts, sampler, pad_id=task.mask_id)
    rows = [row[len(row) - len(prompt) :] for row, prompt in zip(result.tokens, prompts, strict=True)]
    found = [_about(task, row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
    for number, about in enumerate(found):
        about |= {name: int(getattr(result, name)[number]) for name in ("forwards", "remasked", "wasted")}
    as_json = json or config.out.endswith(".jsonl")
    lines = [json_.dumps(about, ensure_ascii=False) if as_json else _line(about, task) for about in found]
    if output:
        with write_atomic(output) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        console.result(f"Written: {output}")
    elif json or config.prompts:
        console.result("\n".join(lines))
    else:
        _show(found)
    done = f"{sum(about['solved'] for about in found)} of {len(found)} solved" if task.grid else f"{len(found)} texts"
    console.note(f"{done} in {result.seconds:.1f} s by sampler {sampler.name}")
    if sampler.score != "none" and not int(result.remasked.sum()):
        console.note(NOTHING_REMASKED)
    if recording and recorder:
        words = str if task.grid else lambda token: task.render(result.tokens.new_tensor([token]))
        recorder.trace(task.grid, words).save(recording)
        console.note(f"Trace: {recording} (`prism trace view {recording}`)")


def _about(task: Any, tokens: "Tensor", prompt: "Tensor") -> dict[str, Any]:
    solved, _ = task.accuracy(tokens[None], prompt[None])
    verdict = task.verdict(tokens[None], prompt[None])[0]
    return {"text": task.render(tokens), "verdict": verdict, "solved": bool(solved[0])}


def _line(about: dict[str, Any], task: Any) -> str:
    """A result as one line, as ``puzzle`` and ``prompt`` are written."""
    return "".join(about["text"].split()) if task.grid else about["text"].replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(text: str) -> str:
    """What was written as one line: ``\\n`` is a line feed, two backslashes are one."""
    return re.sub(r"\\([n\\])", lambda found: "\n" if found[1] == "n" else "\\", text)


def _show(found: list[dict[str, Any]]) -> None:
    for about in found:
        console.result(about["text"])
        if console.silent:
            continue
        if about["verdict"]:
            console.print(about["verdict"], style="green" if about["solved"] else "red", markup=False, end=": ")
        figures = f"{about['forwards']} forward passes, {about['remasked']} remasks, {about['wasted']} wasted"
        console.print(f"{figures}\n", highlight=False)
    if not console.silent:
        console.print("wasted: remasks after which the same token came back", style="dim")


def _prompts(config: SampleConfig, task: Any) -> list["Tensor"]:
    """Masked texts (L,) of a puzzle, a prompt, a file of them, or a number of clues; DataError where one is wrong."""
    import torch

    if not (config.puzzle or config.prompt or config.file or config.prompts):
        return list(task.prompts(config.count, config.clues))
    if task.grid if config.prompt else (config.puzzle and not task.grid):
        name = "prompt" if config.prompt else "puzzle"
        raise ConfigError(f"{name}: model {config.model!r} was trained on {task.name!r}, which has no {name}s.")
    if config.file and not task.grid:
        texts = [("", _read(config.file))]
    elif config.file or config.prompts:
        texts = list(_lines(config.file or config.prompts, tell=not task.grid))
        texts = _grids(texts, task.grid**2) if task.grid else texts
    else:
        texts = [("", config.puzzle or _unescaped(config.prompt))]
    prompts = []
    for where, text in texts:
        try:
            prompts += [torch.tensor(_cells(text, task)) if task.grid else task.prompt(text)] * config.count
        except DataError as error:
            raise DataError(f"{where}{error}") from error
    return prompts


def _read(name: str) -> str:
    """A file as text, ``-`` is standard input; line ends are \\n. DataError where it is not read, or holds nothing."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name with a zero byte
        raise DataError(f"file {name!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not text.strip():
        raise DataError(f"file {name!r} is empty: a puzzle or prompt is wanted.")
    return text


def _grids(lines: list[tuple[str, str]], side: int) -> list[tuple[str, str]]:
    """Grids that were written a row a line, in one piece each; those of one line as they are."""
    found: list[tuple[str, str]] = []
    rows = 0  # of the last grid, 0 where it is whole
    for where, text in lines:
        part = len("".join(text.split())) == side
        if rows and not part:
            raise DataError(f"{where}a grid has {side} lines of {side} cells, or one line: {rows} stand before this.")
        if rows:
            found[-1] = (found[-1][0], found[-1][1] + text)
        else:
            found.append((where, text))
        rows = (rows + part) % side
    if rows:
        raise DataError(f"{found[-1][0]}a grid has {side} lines of {side} cells, or one line: {rows} came.")
    return found


def _lines(name: str, tell: bool) -> Any:
    """Where each text of a file stands, and the text; whether to ``tell`` that blank lines are left out."""
    lines = _read(name).rstrip("\n").split("\n")
    blank = sum(not line.strip() for line in lines)
    if blank and tell:
        console.note(f'{name}: {blank} blank line{"s" * (blank > 1)} left out; a text from nothing is "" in a .jsonl')
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}: "
        if not name.endswith(".jsonl"):
            yield where, _unescaped(line)
            continue
        try:
            row = json_.loads(line)
        except ValueError as error:
            raise DataError(f"{where}no JSON: {error}.") from error
        text = row.get("prompt") if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise DataError(f'{where}a string, or an object with a "prompt", is wanted.')
        yield where, text


def _cells(text: str, task: Any) -> list[int]:
    cells = "".join(text.split()).replace(".", "0")
    if not (cells.isascii() and cells.isdigit()):
        raise DataError(f"a puzzle is digits, 0 or . where blank; {text.strip()[:20]!r} came.")
    task.check_puzzle([int(cell) for cell in cells])
    return [int(cell) or task.mask_id for cell in cells]
