"""``prism info``: versions, devices, compiled ops, and every name that a setting may take."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import unknown
from . import Command, Json, console

if TYPE_CHECKING:
    from ..registry import Registry

HELP = """\
topics:
  samplers (one in full: prism info samplers NAME), parts, heads, tasks, hosts,
  models, settings

examples:
  prism info
  prism info samplers
  prism info samplers prism
  prism info settings train"""

app = typer.Typer()


@dataclass
class Listing:
    """Rows of strings under a title; the first column is the name that is looked for."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def print(self) -> None:
        """As lines that are at most as wide as the terminal, 80 in a pipe; only the last column is broken."""
        table = Table(title=self.title, title_justify="left", title_style="bold", box=None, pad_edge=False,
                      show_header=len(self.columns) > 2, header_style="underline")  # fmt: skip
        for number, name in enumerate(self.columns):
            last = number == len(self.columns) - 1
            table.add_column(name, no_wrap=not last, overflow="fold", style="" if number else "bold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        console.print(table)

    def json(self) -> list[dict[str, str]]:
        """A list of objects."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@app.command("info", cls=Command, epilog=HELP)
def info(
    topic: Annotated[str, typer.Argument(help="one list in full", show_default=False)] = "",
    name: Annotated[str, typer.Argument(help="one of its names", show_default=False)] = "",
    json: Json = False,
) -> None:
    """Show versions, devices, ops, and every name a setting may take."""
    if topic and topic not in TOPICS:
        raise unknown("topic", topic, TOPICS)
    listing = TOPICS[topic]() if topic else _overview()
    if name and topic == "samplers":
        listing = _sampler(name)
    elif name:
        rows = [row for row in listing.rows if row[0] == name or row[0].startswith(f"{name}.")]
        if not rows:
            raise unknown(topic.removesuffix("s"), name, [row[0] for row in listing.rows])
        listing.rows = rows
    if json:
        console.json(listing.json() if topic else {row[0]: row[1] for row in listing.rows})
        return
    listing.print()
    if not topic:
        console.note(f"\nIn full: prism info {'|'.join(TOPICS)}")
    elif topic == "samplers" and not name:
        console.note("\nWhat differs from the defaults; in full: prism info samplers NAME")


def _overview() -> Listing:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .. import ops
    from ..models.checkpoint import embedded
    from ..models.denoiser import hosts
    from ..quality.head import heads
    from ..sampling.methods import check  # noqa: F401  (registers the parts)
    from ..sampling.parts import registries
    from ..sampling.presets import presets
    from ..tasks import tasks

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    rows = [("prism-plugin", f"{installed('prism-plugin')}, {Path(__file__).parents[1]}")]
    rows += [("python", platform.python_version())]
    packages = ("torch", "transformers", "accelerate", "peft", "diffusers", "lm_eval", "hydra-core")
    rows += [(name, installed(name)) for name in packages]
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [("devices", ", ".join([f"cpu ({torch.get_num_threads()} threads)", *cuda]))]
    for device in ["cpu", *(["cuda"] if cuda else [])]:
        rows += [(f"ops on {device}", "compiled" if ops.compiled(device) else "PyTorch reference")]
    parts = {f"{part}s": registry for part, registry in registries.items()}
    known = {"samplers": presets, **parts, "heads": heads, "tasks": tasks, "hosts": hosts}
    rows += [(name, ", ".join(registry) or "none") for name, registry in known.items()]
    rows += [("embedded models", ", ".join(embedded()) or "none")]
    return Listing("", ("name", "value"), rows)


def _first_line(item: object) -> str:
    described = getattr(item, "function", item)
    return (getattr(described, "__doc__", None) or "").strip().split("\n")[0]


def _samplers() -> Listing:
    from ..sampling import methods  # noqa: F401  (registers the parts)
    from ..sampling.presets import presets

    rows = [(name, " ".join(f"{key}={value}" for key, value in presets[name].items())) for name in presets]
    return Listing(f"{len(rows)} samplers (sampler=NAME)", ("sampler", "settings"), rows)


def _sampler(name: str) -> Listing:
    from ..config import SamplerConfig
    from ..sampling.config import described, resolve
    from ..sampling.parts import registries

    resolved = resolve(SamplerConfig(name))
    rows = []
    for kind, registry in registries.items():
        value = str(getattr(resolved, kind))
        about = "; ".join(_first_line(registry[part]) for part in value.split("+"))
        rows.append((f"sampler.{kind}", value, about))
    for each in described(resolved):
        about = each.line + (f" ({each.allowed})" if each.allowed else "")
        rows.append((f"sampler.{each.spelled}", str(each.value), about))
    return Listing(f"{name} (sampler={name})", ("setting", "value", "what it is"), rows)


def _parts() -> Listing:
    from ..sampling import methods  # noqa: F401  (registers the parts)
    from ..sampling.config import REACH, REFILL
    from ..sampling.parts import registries

    rows = [(part, name, _first_line(registry[name])) for part, registry in registries.items() for name in registry]
    words = {"refill": REFILL, "reach": REACH}
    rows += [(part, name, meaning) for part, known in words.items() for name, meaning in known.items()]
    return Listing("parts of a sampler (sampler.PART=NAME)", ("part", "name", "what it does"), rows)


def _described(title: str, registry: "Registry") -> Listing:
    rows = []
    for name in registry:
        try:
            rows.append((name, _first_line(registry[name])))
        except ImportError as error:
            rows.append((name, f"needs {error.name}"))
    return Listing(title, ("name", "what it is"), rows)


def _heads() -> Listing:
    from ..quality.head import heads

    return _described("quality heads (head=NAME)", heads)


def _tasks() -> Listing:
    from ..tasks import tasks

    return _described("tasks (task=NAME)", tasks)


def _hosts() -> Listing:
    from ..models.denoiser import hosts

    return _described("hosts", hosts)


def _models() -> Listing:
    from ..files import load_json
    from ..models.checkpoint import ASSETS, embedded

    rows = []
    for name in embedded():
        size = sum(file.stat().st_size for file in (ASSETS / name).glob("*.safetensors")) / 2**20
        head = ASSETS / name / "prism_config.json"
        task = load_json(ASSETS / name / "config.json")["task"]
        rows.append((name, task, f"{size:.1f} MiB", load_json(head)["head"]["name"] if head.exists() else "none"))
    return Listing("embedded models (model=NAME)", ("model", "task", "size of the files", "quality head"), rows)


def _settings() -> Listing:
    from ..config import Config
    from ..sampling.config import DEFAULTS, described_parts

    def walk(config: Any, prefix: str) -> Iterable[tuple[str, str]]:
        for item in fields(config):
            if item.name == "options":
                continue
            value = getattr(config, item.name)
            if is_dataclass(value):
                yield from walk(value, f"{prefix}{item.name}.")
            else:
                yield prefix + item.name, str(DEFAULTS.get(item.name, "") if value is None else value)

    options = ((f"sampler.{each.spelled}", f"{each.value} ({each.part})") for each in described_parts())
    rows = [*walk(Config(), ""), *options]
    return Listing("settings of prism train (key=value)", ("key", "default"), rows)


TOPICS: dict[str, Callable[[], Listing]] = {
    "samplers": _samplers, "parts": _parts, "heads": _heads, "tasks": _tasks, "hosts": _hosts, "models": _models,
    "settings": _settings,
}  # fmt: skip
