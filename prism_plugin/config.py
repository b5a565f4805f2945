"""One schema for every setting: the same keys on the command line, in a host's YAML and in --model_args.

Defaults are in the dataclasses; ``load`` merges overrides such as ``sampler=prism sampler.eta=0.02`` over them
and checks every key and value before any work starts.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar, Union

from omegaconf import OmegaConf

from .errors import ConfigError, unknown
from .models.backbone import BackboneSize
from .options import typed
from .quality.head import HeadConfig
from .quality.loss import CorrectorConfig, QualityConfig
from .sampling.config import LISTED, SamplerConfig, option_names

T = TypeVar("T")


@dataclass
class ColumnsConfig:
    """Columns of the user's own data, where their names do not say what they are; + joins columns to one text.

    prompt and answer, or messages (a conversation), or text.
    """

    prompt: str = ""
    answer: str = ""
    messages: str = ""
    text: str = ""


@dataclass
class DataConfig:
    """What is trained on in place of a task's texts.

    name: a file (.jsonl, .ndjson, .json, .parquet, .csv, .tsv, .arrow, or .txt for running text; packed by .gz too), a
    folder of such or one that ``datasets`` wrote, or a data set of the hub. split: of folders and data sets. length:
    the longest text in tokens, 0 is the model's; running text is cut into pieces of it. drop_long: leave longer texts
    out in place of an error; skip_bad: any that cannot be used. held_out: share of the texts to judge on.
    """

    name: str = ""
    split: str = "train"
    length: int = 0
    drop_long: bool = False
    skip_bad: bool = False
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    held_out: float = 0.05

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ConfigError(f"data.length = {self.length}: allowed length >= 0 (0 is the model's).")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"data.held_out = {self.held_out}: allowed 0 < held_out < 1.")


@dataclass
class LoRAConfig:
    """Low-rank updates of a frozen model (train.tune=lora), by peft; the defaults are those of PRISM's LLaDA run.

    r: rank. alpha: their scale is alpha / r, 0 is r. targets: names of layers with commas between, by default the
    projections to queries, keys and values, whatever the model calls them.
    """

    r: int = 256
    alpha: float = 0.0
    dropout: float = 0.1
    targets: str = ""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"lora.r = {self.r}: allowed r >= 1.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout = {self.dropout}: allowed 0 <= dropout < 1.")
        if not self.alpha >= 0:
            raise ConfigError(f"lora.alpha = {self.alpha}: allowed alpha >= 0 (0 is r).")


@dataclass
class TrainConfig:
    """Length and pace of a training run.

    tune: what learns, the ``head`` alone, the head and ``lora`` under it, or ``full``: head and model (the default:
    full for a model of ours, lora for a host's). head_from: a folder whose head learns on, in place of a fresh one.
    batch_size: texts a step, shared by all processes and by ``accumulate`` passes. ema: 0 is none. bf16: passes under
    autocast, frozen weights of a host in bfloat16; ``auto`` is what is faster on the machine, which is found out.
    eval_every, save_every: in steps, 0 is never. eval_texts: how many held-out texts are judged. eval_forwards: passes
    in which the sampler writes some of them anew, 0 is never. patience: stop after so many evaluations without a better
    one, 0 is never. report: ``csv``, or ``tensorboard`` besides. resume: continue from the last whole checkpoint in
    ``out``, exactly.
    """

    tune: Optional[str] = None
    head_from: str = ""
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    bf16: Union[bool, str] = "auto"
    accumulate: int = 1
    threads: int = 0
    eval_every: int = 200
    eval_texts: int = 256
    eval_forwards: int = 8
    patience: int = 0
    report: str = "csv"
    save_every: int = 500
    resume: bool = False

    def __post_init__(self) -> None:
        for name, words in {"tune": ("head", "lora", "full", None), "report": ("csv", "tensorboard")}.items():
            if getattr(self, name) not in words:
                raise unknown(f"train.{name}", getattr(self, name), filter(None, words))
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "eval_texts": 1, "warmup": 0, "eval_every": 0}
        least |= {"save_every": 0, "eval_forwards": 0, "patience": 0, "threads": 0, "clip": 0, "weight_decay": 0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ConfigError(f"train.{name} = {getattr(self, name)}: allowed {name} >= {low}.")
        if self.threads > 1024:
            raise ConfigError(f"train.threads = {self.threads}: allowed threads <= 1024.")
        if self.bf16 not in (True, False, "auto"):
            raise ConfigError(f"train.bf16 = {self.bf16!r}: allowed true, false and auto.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"train.ema = {self.ema}: allowed 0 <= ema < 1.")
        if not self.lr > 0:
            raise ConfigError(f"train.lr = {self.lr}: allowed lr > 0.")


@dataclass
class Config:
    """Everything. ``out`` is a folder to write; ``overwrite``: a finished model in it may be replaced.

    model: a folder, a hub id or the name of an embedded model. task: what texts are, by default those that the model
    was trained on. head: by default the published one for the model. trust_remote_code: whether code that a host's
    checkpoint brings may run. device_map: ``auto`` lays a host's model over all devices. mask_id: where the checkpoint
    does not name its mask. noise: what `prism train mdm` teaches to undo: ``mask``, ``uniform`` (any symbol in the
    place of a token), or ``hybrid`` (a fifth of it uniform).
    """

    task: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    model: str = ""
    trust_remote_code: bool = False
    device_map: str = ""
    mask_id: Optional[int] = None
    out: str = ""
    overwrite: bool = False
    noise: str = "mask"
    head: HeadConfig = field(default_factory=HeadConfig)
    backbone: BackboneSize = field(default_factory=BackboneSize)
    quality: QualityConfig = field(default_factory=QualityConfig)
    corrector: CorrectorConfig = field(default_factory=CorrectorConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if self.noise not in NOISE:
            raise unknown("noise", self.noise, NOISE)


NOISE = {"mask": 0.0, "hybrid": 0.2, "uniform": 1.0}
"""By its name, the share of a noise that is symbols drawn uniformly, not masks."""


def load(overrides: Iterable[str] = (), schema: type[T] = Config) -> T:  # type: ignore[assignment]
    """Merge ``key=value`` overrides over the defaults of ``schema``; ``sampler=NAME`` is ``sampler.name=NAME``.

    Raises ConfigError that names the key, the value, and the nearest key where one is not known.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not key=value.")
        node: Any = tree
        *parents, leaf = key.strip().split(".")
        given = _value(schema, [*parents, leaf], text)
        for name in parents:
            if not isinstance(node.get(name, {}), dict):
                node[name] = {"name": node[name]}
            node = node.setdefault(name, {})
        if isinstance(node.get(leaf), dict):
            node[leaf]["name"] = given
        else:
            node[leaf] = given
    return from_mapping(tree, schema)


def _value(schema: Any, path: list[str], text: str) -> Any:
    """A value as it was typed: text where a setting is one, else a number, a word or null, by the rules of YAML."""
    kind = schema
    for name in path:
        kind = {f.name: f.type for f in dataclasses.fields(kind)}.get(name) if dataclasses.is_dataclass(kind) else None
    if kind is str or dataclasses.is_dataclass(kind):
        return text
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"v={text}"]))["v"]  # type: ignore[index, call-overload]
    except Exception as error:  # of the grammar, of YAML, of OmegaConf
        raise ConfigError(f"{'.'.join(path)}={text!r} cannot be read: {str(error).splitlines()[0]}") from error


def varied(sampler: str) -> tuple[str, dict[str, Any]]:
    """The preset and the settings of ``NAME:key=value:…``. ConfigError where one is no key=value."""
    name, *pairs = sampler.split(":")
    given = {}
    for key, equals, text in (pair.partition("=") for pair in pairs):
        if not equals:
            raise ConfigError(f"sampler {sampler!r}: {key!r} is not key=value, as in {name}:temperature=0.7.")
        given[key] = _value(SamplerConfig, [key], text)
    return name, given


def names_sampler(settings: Iterable[str]) -> bool:
    """Whether ``key=value`` settings name a sampler."""
    return any(setting.startswith(("sampler=", "sampler.name=")) for setting in settings)


def from_mapping(tree: Mapping[str, Any], schema: type[T], where: str = "") -> T:
    """A checked ``schema`` from nested mappings of settings; see ``load``."""
    known = {f.name: f for f in dataclasses.fields(schema) if f.name != "options"}  # type: ignore[arg-type]
    takes_options = issubclass(schema, SamplerConfig)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{where}{key}"
        if key not in known:
            options = option_names() if takes_options else set()
            if key not in options:
                raise unknown("setting", name, [f"{where}{k}" for k in (*known, *options)], LISTED if options else "")
            values[key] = value
            continue
        kind = known[key].type
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                if "name" not in {f.name for f in dataclasses.fields(kind)}:
                    raise ConfigError(f"{name} = {value!r}: a group of settings; write {name}.<key>=<value>.")
                value = {"name": value}
            values[key] = from_mapping(value, kind, f"{name}.")  # type: ignore[arg-type]
        else:
            values[key] = typed(schema, key, value, name)
    try:
        return schema(**values)
    except TypeError as error:
        raise ConfigError(f"{where.rstrip('.') or schema.__name__}: {error}") from error
