"""Options: the fields of a small dataclass, each with its default, its range and one line that says what it is.

@dataclass
class Below:
    tau: float = option(0.1, "scores below it are doubted", low=0)
"""

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any, Optional, TypeVar, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import ConfigError, said, unknown

T = TypeVar("T")


SIGNS = {"low": ">=", "above": ">", "high": "<=", "below": "<"}
COMPARE = {"low": operator.ge, "above": operator.gt, "high": operator.le, "below": operator.lt}


MOST = 2**62
"""The largest whole number: what is counted with it still fits into 64 bits."""
WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")
"""What YAML and OmegaConf read as true or false."""


def option(default: Any, line: str, *, among: Iterable[str] = (), **bounds: float) -> Any:
    """A field of a dataclass of options. among: words that are allowed. bounds: low, above, high, below of a number."""
    return dataclasses.field(default=default, metadata={"default": default, "line": line, "among": (*among,), **bounds})


def allowed(item: dataclasses.Field) -> str:
    """What an option may be: ``>= 0, <= 1``, ``block or text``; empty where anything."""
    bounds = [f"{sign} {item.metadata[name]:g}" for name, sign in SIGNS.items() if name in item.metadata]
    return " or ".join(item.metadata.get("among", ())) or ", ".join(bounds)


def check(item: dataclasses.Field, value: Any, name: str) -> None:
    """ConfigError, calling the option ``name``, where a value is not one that is allowed."""
    about = item.metadata
    if about.get("among") and value not in about["among"]:
        raise unknown(name, value, about["among"])
    if isinstance(value, int) and not -MOST <= value <= MOST:
        raise ConfigError(f"{name} = {value:.3g}: no whole number beyond {MOST} ({about['line']}).")
    if not all(COMPARE[name](value, about[name]) for name in COMPARE if name in about):
        raise ConfigError(f"{name} = {value}: allowed {allowed(item)} ({about['line']}).")


def build(schema: type[T], given: Mapping[str, Any], where: str = "") -> T:
    """Checked options of a dataclass; ConfigError that names the option, behind ``where``, its value and its range."""
    known = {item.name: item for item in dataclasses.fields(schema)}  # type: ignore[arg-type]
    values = {}
    for key, value in given.items():
        if key not in known:
            raise unknown("setting", f"{where}{key}", [f"{where}{name}" for name in known])
        free = known[key].type is Any  # a function, say, of which OmegaConf knows nothing
        values[key] = value if free else typed(schema, key, value, f"{where}{key}")
        check(known[key], values[key], f"{where}{key}")
    return schema(**values)


_typing = Lock()  # one node a schema serves all threads: making one takes milliseconds
_node = cache(OmegaConf.structured)


def typed(schema: type, key: str, value: Any, name: str) -> Any:
    """A value as the type of a dataclass's field wants it (``"3"`` for 3); ConfigError where that cannot be."""
    kind = {item.name: item.type for item in dataclasses.fields(schema)}.get(key)
    if kind in (bool, Optional[bool]) and value is not None and str(value).lower() not in WORDS:
        raise ConfigError(f"{name} = {said(value)}: allowed true or false.")  # OmegaConf takes any number for true
    if get_origin(kind) is list and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise ConfigError(f"{name} = {said(value)}: allowed a list, {name}=[…,…] on a command line.")
    try:
        with _typing:
            node = _node(schema)
            node[key] = value
            found = node[key]
        return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name} = {said(value)}: {str(error).splitlines()[0]}") from error
