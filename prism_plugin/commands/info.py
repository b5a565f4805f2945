"""``prism info``: versions, devices, compiled ops, and every name that a setting may take."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..errors import unknown

if TYPE_CHECKING:
    from ..registry import Registry

HELP = """\
examples:
  prism info
  prism info samplers"""
TOPICS = ("samplers", "parts", "heads", "tasks", "hosts", "models", "settings")


def add(parser: argparse.ArgumentParser) -> None:
    """What ``prism info`` takes."""
    parser.add_argument("topic", nargs="?", default="", metavar="|".join(TOPICS), help="one list in full")


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


def run(options: argparse.Namespace, console: Console) -> None:
    """``prism info``."""
    if options.topic:
        if options.topic not in TOPICS:
            raise unknown("topic", options.topic, TOPICS)
        console.print(_topics()[options.topic]())
        return
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .. import ops
    from ..models.checkpoint import embedded
    from ..models.denoiser import hosts
    from ..quality.head import heads
    from ..sampling.methods import check  # noqa: F401  (registers the parts)
    from ..sampling.parts import PARTS
    from ..sampling.presets import presets
    from ..tasks import tasks

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_row("prism-plugin", f"{installed('prism-plugin')}, {Path(__file__).parents[1]}")
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
    from ..config import SamplerConfig
    from ..sampling import methods  # noqa: F401  (registers the parts)
    from ..sampling.config import DEFAULTS, resolve
    from ..sampling.presets import presets

    parts = ("score", "select", "guard", "fill", "order", "refill")
    table = _list(f"{len(list(presets))} samplers (sampler=NAME)", "sampler", *parts, "own settings")
    for name in presets:
        resolved = resolve(SamplerConfig(name))
        own = [f"{key}={value}" for key, value in presets[name].items() if key not in parts and value != DEFAULTS[key]]
        idle = {"select", "guard", "refill"} if resolved.score == "none" else set()
        table.add_row(name, *("-" if part in idle else getattr(resolved, part) for part in parts), " ".join(own))
    return table


def _parts() -> Table:
    from ..sampling import methods  # noqa: F401  (registers the parts)
    from ..sampling.config import REFILL
    from ..sampling.parts import PARTS

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
    from ..quality.head import heads

    return _described("quality heads (head=NAME)", heads)


def _tasks() -> Table:
    from ..tasks import tasks

    return _described("tasks (task=NAME)", tasks)


def _hosts() -> Table:
    from ..models.denoiser import hosts

    return _described("hosts", hosts)


def _models() -> Table:
    from ..files import load_json
    from ..models.checkpoint import ASSETS, embedded

    table = _list("embedded models (model=NAME)", "model", "task", "size of the files", "quality head")
    for name in embedded():
        size = sum(file.stat().st_size for file in (ASSETS / name).glob("*.safetensors")) / 2**20
        head = ASSETS / name / "prism_config.json"
        table.add_row(name, load_json(ASSETS / name / "config.json")["task"], f"{size:.1f} MiB",
                      load_json(head)["head"]["name"] if head.exists() else "none")  # fmt: skip
    return table


def _settings() -> Table:
    from dataclasses import is_dataclass

    from ..config import Config
    from ..sampling.config import DEFAULTS

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
