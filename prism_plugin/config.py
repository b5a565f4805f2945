"""One schema for every setting: the same keys on the command line, in a host's YAML and in --model_args.

Defaults are in the dataclasses; ``load`` merges overrides such as ``sampler=prism sampler.eta=0.02`` over them
and checks every key and value before any work starts.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import ConfigError, unknown
from .quality.loss import QualityConfig
from .sampling.config import SamplerConfig

T = TypeVar("T")


@dataclass
class BackboneSize:
    """Size of a backbone trained from scratch; the task gives vocabulary, length and layout."""

    hidden_size: int = 128
    num_layers: int = 6
    num_heads: int = 8
    cond_size: int = 64
    time_conditioning: bool = False


@dataclass
class TrainConfig:
    """Length and pace of a training run.

    batch_size: texts a step, shared by all processes and by ``accumulate`` passes. ema: 0 is none. eval_every,
    save_every: in steps, 0 is never. patience: stop after so many evaluations without a better one, 0 is never.
    resume: continue from the last whole checkpoint in ``out``, exactly.
    """

    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    bf16: bool = False
    accumulate: int = 1
    threads: int = 0
    eval_every: int = 200
    eval_texts: int = 256
    patience: int = 0
    save_every: int = 500
    resume: bool = False

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "eval_texts": 1, "warmup": 0, "eval_every": 0}
        for name, low in {**least, "save_every": 0, "patience": 0, "threads": 0, "clip": 0, "weight_decay": 0}.items():
            if not getattr(self, name) >= low:
                raise ConfigError(f"train.{name} = {getattr(self, name)}: allowed {name} >= {low}.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"train.ema = {self.ema}: allowed 0 <= ema < 1.")
        if not self.lr > 0:
            raise ConfigError(f"train.lr = {self.lr}: allowed lr > 0.")


@dataclass
class Config:
    """Everything. ``model`` is a folder, a hub id or the name of an embedded model; ``out`` a folder to write."""

    task: str = "sudoku"
    model: str = ""
    out: str = ""
    head: str = "dit"
    backbone: BackboneSize = field(default_factory=BackboneSize)
    quality: QualityConfig = field(default_factory=QualityConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


def load(overrides: Iterable[str] = (), schema: type[T] = Config) -> T:  # type: ignore[assignment]
    """Merge ``key=value`` overrides over the defaults of ``schema``; ``sampler=NAME`` is ``sampler.name=NAME``.

    Raises ConfigError that names the key, the value, and the nearest key where one is not known.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not key=value.")
        try:
            parsed = OmegaConf.create({"v": value}) if not value else OmegaConf.from_dotlist([f"v={value}"])
        except Exception as error:
            raise ConfigError(f"{override!r} cannot be read: {error}") from error
        node: Any = tree
        *parents, leaf = key.strip().split(".")
        for name in parents:
            if not isinstance(node.get(name, {}), dict):
                node[name] = {"name": node[name]}
            node = node.setdefault(name, {})
        given = OmegaConf.to_container(parsed)["v"]  # type: ignore[index, call-overload]
        if isinstance(node.get(leaf), dict):
            node[leaf]["name"] = given
        else:
            node[leaf] = given
    return from_mapping(tree, schema)


def from_mapping(tree: Mapping[str, Any], schema: type[T], where: str = "") -> T:
    """A checked ``schema`` from nested mappings of settings; see ``load``."""
    known = {f.name: f for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{where}{key}"
        if key not in known:
            raise unknown("setting", name, [f"{where}{k}" for k in known])
        kind = known[key].type
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                if "name" not in {f.name for f in dataclasses.fields(kind)}:
                    raise ConfigError(f"{name} = {value!r}: a group of settings; write {name}.<key>=<value>.")
                value = {"name": value}
            values[key] = from_mapping(value, kind, f"{name}.")  # type: ignore[arg-type]
        else:
            values[key] = _typed(schema, key, value, name)
    try:
        return schema(**values)
    except TypeError as error:
        raise ConfigError(f"{where.rstrip('.') or schema.__name__}: {error}") from error


def _typed(schema: type, key: str, value: Any, name: str) -> Any:
    try:
        node = OmegaConf.structured(schema)
        node[key] = value
        return OmegaConf.to_container(node)[key]  # type: ignore[index, call-overload]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name} = {value!r}: {str(error).splitlines()[0]}") from error
