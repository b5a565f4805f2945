"""The ``prism`` command. What needs torch is imported by the command that needs it, so that ``--help`` is quick."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from .errors import ConfigError, PrismError, unknown

if TYPE_CHECKING:
    from .registry import Registry
    from .tasks import Task

console = Console()

EXAMPLES = """\
examples:
  prism demo                                    compare revision methods on Sudoku, two minutes
  prism sample puzzle=530070000600195000098000060800060003400803001700020006060000280000419005000080079
  prism sample model=sudoku sampler=prism-evidence sampler.steps=32 count=4 trace=run.npz
  prism trace view run.npz --html run.html      every step, in the terminal and as a page
  prism train mdm task=sudoku4 out=runs/mdm4    then: prism train quality model=runs/mdm4 task=sudoku4 out=runs/q4
  prism sample model=code prompt='def read(path):'    Python by a model of its standard library
  prism import pytorch_model.bin out=runs/head  a checkpoint of PRISM's release, DiT or LLaDA
  prism info samplers                           all samplers and the parts they are made of
  prism schedule sampler=prism length=81 sampler.steps=32

Each command explains itself: prism COMMAND --help."""

DEMO_HELP = """\
examples:
  prism demo
  prism demo --puzzles 100 --forwards 16
  prism demo --clues 30 --seed 1 --out results"""

TRACE_HELP = """\
examples:
  prism sample trace=run.npz
  prism trace view run.npz --row 2
  prism trace view run.npz --html run.html"""

TRAIN_HELP = """\
kinds:
  mdm       a masked diffusion model from scratch, on a task whose data every machine can make
  quality   the quality head of PRISM on a model of ours or of a host, tuned with it

settings (key=value; `prism info settings` lists them all, docs/training.md explains them):
  out=FOLDER, needed            task=sudoku|sudoku4|code|prose, for mdm
  model=NAME, for quality       an embedded model, a folder, or a hub id (trust_remote_code=true where it brings code)
  data=FILE.jsonl               for quality, in place of the task's texts: {"prompt": …, "response": …} a line
  train.tune=head|lora|full     what learns; lora.r lora.alpha lora.targets
  train.steps train.batch_size train.accumulate train.lr train.ema train.seed train.bf16 train.eval_every train.resume
  backbone.hidden_size backbone.num_layers backbone.num_heads          quality.fills=stale|fresh quality.k

examples:
  prism train mdm task=sudoku4 out=runs/mdm4 train.steps=300 backbone.hidden_size=64 backbone.num_layers=2
  prism train quality model=runs/mdm4 out=runs/quality4 train.steps=200
  prism train quality model=GSAI-ML/LLaDA-8B-Instruct trust_remote_code=true data=code.jsonl out=heads/llada \\
      train.bf16=true train.batch_size=144 train.accumulate=144 data.length=1024 quality.k=8
  prism train quality model=llada-8b train.bf16=true train.batch_size=144 train.accumulate=144 --dry-run"""

SAMPLE_HELP = """\
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

IMPORT_HELP = """\
settings (key=value):
  out=FOLDER                needed
  mask_id=N length=N        of a DiT; known for the release's Sudoku and text, to be given for others
  ema=true                  the averaged weights of a DiT's backbone, which the release samples with, or the last ones
  lora_alpha=N              of LLaDA's LoRA, by default its rank, as in the release

Nothing in the file is run: what is no tensor is passed over.

examples:
  prism import sudoku_prism.ckpt out=runs/release
  prism import pytorch_model.bin out=runs/llada-head"""

SCHEDULE_HELP = """\
settings (key=value):
  sampler=prism             a sampler; sampler.steps, sampler.num_remask, sampler.eta … as in `prism sample`
  length=256                positions to write       texts=16   how many to average over

Tokens visible, filled and remasked in every step, from the sampler's own code on a stub in place of a model: symbols
are equally likely and qualities random, so where a sampler decides by the scores the amounts are only an example.

examples:
  prism schedule sampler=prism length=81 sampler.steps=32
  prism schedule sampler=prism-text length=1024 sampler.steps=256 --plot schedule.png"""


class Parser(argparse.ArgumentParser):
    """Complains in one line, as every error of the command does."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError in place of the usage and an exit."""
        raise ConfigError(f"{message}. `{self.prog} --help` shows what is allowed.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 after one line on stderr where something given cannot be used."""
    try:
        options = _parse(list(sys.argv[1:] if argv is None else argv))
        options.run(options)
    except (PrismError, OSError) as error:
        print(f"prism: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prism: interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser, commands = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise unknown("command", argv[0], commands)
    options, extra = parser.parse_known_args(argv or ["--help"])
    if extra:
        known = [name for action in commands[argv[0]]._actions for name in action.option_strings]
        raise unknown("option", extra[0], known)
    return options


def _parser() -> tuple[Parser, dict[str, Parser]]:
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser(
        prog="prism", epilog=EXAMPLES, **layout,
        description="Self-correction for masked diffusion language models: find wrong tokens, mask and rewrite them.",
    )  # fmt: skip
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    known: dict[str, Parser] = {}

    def command(name: str, run: Callable[[argparse.Namespace], None], summary: str, epilog: str = "") -> Parser:
        known[name] = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog, **layout
        )
        known[name].set_defaults(run=run)
        return known[name]

    demo = command("demo", _demo, "compare revision methods on Sudoku grids and watch PRISM correct one", DEMO_HELP)
    demo.add_argument("--model", default="sudoku", help="embedded Sudoku model or folder (sudoku)")
    demo.add_argument("--puzzles", type=int, default=48, help="puzzles a row of the table (48)")
    demo.add_argument("--clues", type=int, default=0, help="cells given; 0: empty grids, generated whole (0)")
    demo.add_argument("--forwards", type=int, default=32, help="forward passes a grid (32)")
    demo.add_argument("--seed", type=int, default=0, help="of the sampler (0)")
    demo.add_argument("--out", default="outputs", help="folder for the HTML replay (outputs)")

    train = command("train", _train, "train a model, or the quality head on one", TRAIN_HELP)
    train.add_argument("kind", help="mdm or quality")
    train.add_argument("settings", nargs="*", metavar="key=value")
    train.add_argument("--dry-run", action="store_true", help="print what the run needs, and load and write nothing")

    sample = command("sample", _sample, "solve a puzzle or make texts with any sampler", SAMPLE_HELP)
    sample.add_argument("settings", nargs="*", metavar="key=value")

    imported = command(
        "import", _import, "make a folder of ours of a checkpoint of PRISM's release or of MDLM's DiT", IMPORT_HELP
    )
    imported.add_argument("file", help="a Lightning .ckpt, or pytorch_model.bin of RemaskingLLaDA")
    imported.add_argument("settings", nargs="*", metavar="key=value")

    info = command("info", _info, "versions, devices, compiled ops, and every name that a setting may take")
    info.add_argument("topic", nargs="?", default="", metavar="|".join(TOPICS), help="one list in full")

    trace = command("trace", _trace, "look at a recorded run", TRACE_HELP)
    trace.add_argument("action", metavar="view", help="view")
    trace.add_argument("file", help="a file that `prism sample … trace=FILE` wrote")
    trace.add_argument("--row", type=int, default=0, help="which of its texts (0)")
    trace.add_argument("--html", metavar="OUT", help="write a self-contained page in place of printing")
    trace.add_argument("--all", action="store_true", help="print every step, not only those in which most was revised")

    schedule = command(
        "schedule", _schedule, "what a sampler does in every step, before anything is run", SCHEDULE_HELP
    )
    schedule.add_argument("settings", nargs="*", metavar="key=value")
    schedule.add_argument("--plot", metavar="FILE", help="draw it (png, svg or pdf)")
    return parser, known


def _writable(path: str) -> Path:
    """The path of a file to write, its folder made and proved writable before any work."""
    from .files import output_folder

    output_folder(Path(path).parent)
    if Path(path).is_dir():
        raise ConfigError(f"{path!r} is a folder: name a file to write.")
    return Path(path)


# ---- demo, train


def _demo(options: argparse.Namespace) -> None:
    from . import demo

    demo.run(options.model, options.puzzles, options.clues, options.forwards, options.seed, options.out, console)


def _train(options: argparse.Namespace) -> None:
    if options.kind not in ("mdm", "quality"):
        raise unknown("kind of training", options.kind, ("mdm", "quality"))
    from .config import Config, load

    config: Config = load(options.settings)
    try:
        if options.dry_run:
            from .training import plan

            console.print(plan.table(plan.plan(options.kind, config)))
            return
        from .training.train import train

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        console.print(f"Written: {train(options.kind, config)}", highlight=False)
    except ImportError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'prism-plugin[train]'.") from error


# ---- import


def _import(options: argparse.Namespace) -> None:
    from .config import load

    @dataclass
    class Import:
        out: str = ""
        mask_id: int = -1
        length: int = 0
        ema: bool = True
        lora_alpha: int = 0

    config = load(options.settings, Import)
    if not config.out:
        raise ConfigError("out is not set: name the folder to write, as in out=runs/release.")
    from .importers import convert

    console.print(f"Written: {config.out} ({convert(options.file, **vars(config))})", highlight=False, markup=False)


# ---- sample


def _sample_settings(settings: list[str]) -> Any:
    from .config import SamplerConfig, load

    @dataclass
    class Sample:
        model: str = "sudoku"
        puzzle: str = ""
        prompt: str = ""
        file: str = ""
        clues: int = 0
        count: int = 1
        trace: str = ""
        sampler: SamplerConfig = field(default_factory=SamplerConfig)

    # not to be read as a number or a list
    texts = dict(s.split("=", 1) for s in settings if s.startswith(("puzzle=", "prompt=")))
    config = load([s for s in settings if not s.startswith(("puzzle=", "prompt="))], Sample)
    for name, text in texts.items():
        setattr(config, name, text)
    return config


def _sample(options: argparse.Namespace) -> None:
    config = _sample_settings(options.settings)
    if config.count < 1:
        raise ConfigError(f"count = {config.count}: allowed count >= 1.")
    output = _writable(config.trace) if config.trace else None
    from .model import PrismModel
    from .sampling.drive import generate
    from .sampling.trace import Recorder
    from .tasks import get_task

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


def _prompts(config: Any, task: "Task") -> Any:
    """Masked texts (B, L) of a puzzle, a prompt, a file of them, or a number of clues; DataError where one is wrong."""
    import torch

    from .errors import DataError

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


# ---- info


def _topics() -> dict[str, Callable[[], Table]]:
    return {
        "samplers": _samplers,
        "parts": _parts,
        "heads": _heads,
        "tasks": _tasks,
        "hosts": _hosts,
        "models": _models,
        "settings": _settings,
    }


TOPICS = ("samplers", "parts", "heads", "tasks", "hosts", "models", "settings")


def _info(options: argparse.Namespace) -> None:
    if options.topic:
        if options.topic not in TOPICS:
            raise unknown("topic", options.topic, TOPICS)
        console.print(_topics()[options.topic]())
        return
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from . import ops
    from .denoiser import hosts
    from .model import embedded
    from .quality.head import heads
    from .sampling.methods import check  # noqa: F401  (registers the parts)
    from .sampling.parts import PARTS
    from .sampling.presets import presets
    from .tasks import tasks

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_row("prism-plugin", f"{installed('prism-plugin')}, {Path(__file__).parent}")
    table.add_row("python", platform.python_version())
    for name in ("torch", "transformers", "accelerate", "peft", "diffusers", "lm_eval", "hydra-core"):
        table.add_row(name, installed(name))
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("devices", ", ".join([f"cpu ({torch.get_num_threads()} threads)", *cuda]))
    for device in ["cpu", *(["cuda"] if cuda else [])]:
        table.add_row(f"ops on {device}", "compiled" if ops.compiled(device) else "PyTorch reference")
    parts = {f"{part}s": registry for part, registry in PARTS.items()}
    registries = {"samplers": presets, **parts, "heads": heads, "tasks": tasks, "hosts": hosts}
    for name, registry in registries.items():
        table.add_row(name, ", ".join(registry) or "none")
    table.add_row("embedded models", ", ".join(embedded()) or "none")
    console.print(table, highlight=False)
    console.print(f"\nIn full: prism info {'|'.join(TOPICS)}", style="dim", markup=False)


def _list(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0)
    return table


def _first_line(item: object) -> str:
    described = getattr(item, "function", item)
    return (getattr(described, "__doc__", None) or "").strip().split("\n")[0]


def _samplers() -> Table:
    from .config import SamplerConfig
    from .sampling import methods  # noqa: F401  (registers the parts)
    from .sampling.config import DEFAULTS, resolve
    from .sampling.presets import presets

    parts = ("score", "select", "guard", "fill", "order", "refill")
    table = _list(f"{len(list(presets))} samplers (sampler=NAME)", "sampler", *parts, "own settings")
    for name in presets:
        resolved = resolve(SamplerConfig(name))
        own = [f"{key}={value}" for key, value in presets[name].items() if key not in parts and value != DEFAULTS[key]]
        idle = {"select", "guard", "refill"} if resolved.score == "none" else set()
        table.add_row(name, *("-" if part in idle else getattr(resolved, part) for part in parts), " ".join(own))
    return table


def _parts() -> Table:
    from .sampling import methods  # noqa: F401  (registers the parts)
    from .sampling.config import REFILL
    from .sampling.parts import PARTS

    table = _list("parts of a sampler (sampler.PART=NAME)", "part", "name", "what it does")
    for part, registry in PARTS.items():
        for name in registry:
            table.add_row(part, name, _first_line(registry[name]))
        table.add_section()
    for name, meaning in REFILL.items():
        table.add_row("refill", name, meaning)
    return table


def _described(title: str, registry: "Registry") -> Table:
    table = _list(title, "name", "what it is")
    for name in registry:
        try:
            table.add_row(name, _first_line(registry[name]))
        except ImportError as error:
            table.add_row(name, f"needs {error.name}")
    return table


def _heads() -> Table:
    from .quality.head import heads

    return _described("quality heads (head=NAME)", heads)


def _tasks() -> Table:
    from .tasks import tasks

    return _described("tasks (task=NAME)", tasks)


def _hosts() -> Table:
    from .denoiser import hosts

    return _described("hosts", hosts)


def _models() -> Table:
    from .files import load_json
    from .model import ASSETS, embedded

    table = _list("embedded models (model=NAME)", "model", "task", "size of the files", "quality head")
    for name in embedded():
        size = sum(file.stat().st_size for file in (ASSETS / name).glob("*.safetensors")) / 2**20
        head = ASSETS / name / "prism_config.json"
        table.add_row(name, load_json(ASSETS / name / "config.json")["task"], f"{size:.1f} MiB",
                      load_json(head)["head"]["name"] if head.exists() else "none")  # fmt: skip
    return table


def _settings() -> Table:
    from dataclasses import is_dataclass

    from .config import Config
    from .sampling.config import DEFAULTS

    table = _list("settings (key=value)", "key", "default")

    def walk(config: Any, prefix: str) -> None:
        for item in fields(config):
            value = getattr(config, item.name)
            if is_dataclass(value):
                walk(value, f"{prefix}{item.name}.")
            else:
                value = DEFAULTS.get(item.name, "") if value is None else value
                table.add_row(prefix + item.name, "" if value == "" else str(value))

    walk(Config(), "")
    return table


# ---- trace, schedule


def _trace(options: argparse.Namespace) -> None:
    if options.action != "view":
        raise unknown("action", options.action, ("view",))
    output = _writable(options.html) if options.html else None
    from . import replay
    from .sampling.trace import Trace

    trace = Trace.load(options.file)
    replay.pick(trace, options.row)
    if not output:
        replay.show(trace, options.row, console, most=0 if options.all else replay.fitting(trace))
        return
    name = trace.about["settings"]["name"]
    frames, texts, length = trace.tokens.shape
    note = (
        f"{length} tokens, {frames - 1} forward passes; text {options.row + 1} of {texts} in {Path(options.file).name}."
    )
    replay.write_page(trace, options.row, output, f"Sampler {name}, step by step", note)
    console.print(f"Written: {output} (open it in a browser)", highlight=False)


def _schedule(options: argparse.Namespace) -> None:
    output = _writable(options.plot) if options.plot else None
    from . import schedule

    schedule.run(options.settings, output, console)


if __name__ == "__main__":
    sys.exit(main())
