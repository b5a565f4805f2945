"""A sampler's settings: what all samplers share, the parts that it is made of, and the options that these bring.

What is not set is taken from the preset that ``name`` names, then from the defaults. An option is written flat
(``tau=.3``) where one of the chosen parts has it, and with its part (``select.tau=.3``) where several do.
"""

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple, Optional, Union

from ..errors import ConfigError, said, unknown
from ..options import allowed, build, check, option
from .presets import presets

REFILL = {
    "wait": "a remasked position is filled a step later at the earliest (PRISM on LLaDA)",
    "cancel": "the same, and a remask for which masks run short is cancelled (PRISM's DiT release)",
    "fresh": "the remask comes before the forward, so that its logits are fresh (ReMDM on LLaDA)",
    "stale": "refilled at once, from the logits of the text that still held the token",
}

REACH = {
    "block": "revision stays in the block being written",
    "text": "all that was written so far may be overwritten, finished blocks too (ProSeCo)",
}

LISTED = "`prism info settings` lists them."


def _shared(*about: Any, **bounds: Any) -> Any:
    """An option whose field is None while nobody has set it: then the preset decides, then the default."""
    return field(default=None, metadata=option(*about, **bounds).metadata)


PARTS = {
    "method": "revise_and_fill", "score": "none", "pattern": "single", "select": "fixed", "act": "remask",
    "guard": "none", "fill": "count", "order": "random", "alpha": "linear", "rate": "none", "eta_schedule": "constant",
    "end": "budget",
}  # fmt: skip
"""The kinds of parts, and the one of each that is taken where nothing else is said."""
REVISING = (
    "pattern", "select", "act", "guard", "rate", "eta_schedule", "step_on", "step_off", "every", "reach", "refill",
    "max_remasks", "cooldown", "lock_after", "protect_end",
)  # fmt: skip
"""What nobody reads who only fills, but for a rate that fill=hazard goes by."""


@dataclass(init=False)
class SamplerConfig:
    """A preset's ``name``, and everything that replaces one of its parts or numbers.

    Parts are names, or mappings of a name and its options: select="below", select={"name": "below", "tau": 0.3}.
    ``options`` holds what is neither shared nor a part, as it was spelled. Raises ConfigError for a name that no part
    has; ``resolve`` checks the rest.
    """

    name: str = "prism"

    method: Any = None
    score: Any = None
    pattern: Any = None
    select: Any = None
    act: Any = None
    guard: Any = None  # several as gate+share
    fill: Any = None
    order: Any = None
    alpha: Any = None
    rate: Any = None
    eta_schedule: Any = None
    end: Any = None

    steps: Optional[int] = _shared(64, "forward passes a text, shared evenly by its blocks", low=1)
    block_length: Optional[int] = _shared(0, "positions of a block, 0 is one block", low=0)
    temperature: Optional[float] = _shared(1.0, "of every draw, 0 takes the likeliest", low=0)
    top_p: Optional[float] = _shared(1.0, "nucleus of every draw", above=0, high=1)
    top_k: Optional[int] = _shared(0, "symbols that every draw keeps, 0 is all", low=0)
    min_p: Optional[float] = _shared(
        0.0, "least share of the likeliest's probability that every draw keeps, 0 is all", low=0, high=1
    )
    repetition_penalty: Optional[float] = _shared(
        1.0, "logits of tokens that the text holds are divided by it, or multiplied where negative; 1 is none", above=0
    )
    logit_bias: Optional[dict[int, float]] = _shared(  # noqa: RUF009
        {}, "what is added to the logit of an id: {id: number}"
    )
    top_p_rule: Optional[str] = _shared(
        "exclusive", "whether the token that passes top_p is left out", among=("exclusive", "inclusive")
    )
    confidence_of: Optional[str] = _shared(
        "sampled", "the distribution of a token's probability", among=("sampled", "untempered")
    )
    seed: Optional[int] = _shared(0, "of every random number")
    fill_share: Optional[float] = _shared(
        1.0, "share of a block's steps in which masks are filled by the plan; the rest only corrects", above=0, high=1
    )
    step_on: Optional[Union[int, float]] = _shared(
        0, "first step of a block that revises, or a share of its steps (float)", low=0
    )
    step_off: Optional[Union[int, float]] = _shared(
        1.0, "first step of a block that no longer revises, or a share of its steps (float)", low=0
    )
    every: Optional[Union[int, float]] = _shared(
        1, "only each every-th step of a block revises, in steps or as a share of them (float)", above=0
    )
    reach: Optional[str] = _shared("block", "how far back revision goes", among=REACH)
    refill: Optional[str] = _shared("wait", "when a remasked position is filled again", among=REFILL)
    max_remasks: Optional[int] = _shared(0, "how often a position may be revised, 0 is any number", low=0)
    cooldown: Optional[int] = _shared(0, "steps for which a position is left alone after a revision", low=0)
    lock_after: Optional[int] = _shared(0, "identical redraws that settle a position, 0 is never", low=0)
    protect_end: Optional[bool] = _shared(False, "leave stop sequences alone")

    options: dict[str, Any] = field(default_factory=dict)

    def __init__(self, name: str = "prism", **settings: Any) -> None:
        self.name, self.options = name, dict(settings.pop("options", {}))
        for item in fields(type(self)):
            if item.name in ("name", "options"):
                continue
            value = settings.pop(item.name, item.default)
            if isinstance(value, Mapping) and item.name in PARTS:
                self.options |= {f"{item.name}.{key}": each for key, each in value.items() if key != "name"}
                value = value.get("name")
            setattr(self, item.name, value)
        self.options |= settings
        if self.options:
            known = option_names()
            for key in self.options:
                if key not in known:
                    raise unknown("setting", f"sampler.{key}", [f"sampler.{each}" for each in (*_OWN, *known)], LISTED)

    def settings(self) -> dict[str, Any]:
        """All that is set, flat, in the shortest spelling that ``SamplerConfig`` takes back."""
        given = {key: copy.copy(value) for key, value in vars(self).items() if value is not None}
        options = given.pop("options")
        short = [key.split(".")[-1] for key in options]
        names = (last if short.count(last) == 1 else key for key, last in zip(options, short, strict=True))
        return {**given, **dict(zip(names, options.values(), strict=True))}


_OWN = {item.name: item for item in fields(SamplerConfig) if item.name != "options"}
SHARED = tuple(name for name, item in _OWN.items() if item.metadata)
DEFAULTS: dict[str, Any] = {**PARTS, **{name: _OWN[name].metadata["default"] for name in SHARED}}


class Option(NamedTuple):
    """A setting as `prism info` and the docs show it. part: ``select=below``, empty for what all samplers share."""

    part: str
    key: str
    value: Any
    allowed: str
    line: str

    @property
    def spelled(self) -> str:
        """With its kind of part, which is never ambiguous: ``select.tau``."""
        return f"{self.part.partition('=')[0]}.{self.key}" if self.part else self.key


def described(config: SamplerConfig) -> list[Option]:
    """Every setting of the sampler that a configuration names, with its value: the shared ones first, then by part."""
    resolved = resolve(config)
    found = [_describe("", _OWN[name], getattr(resolved, name)) for name in SHARED]
    for kind, name, schema in _schemas({kind: getattr(resolved, kind) for kind in PARTS}):
        found += [_describe(f"{kind}={name}", item, resolved.options[f"{kind}.{item.name}"]) for item in fields(schema)]
    return found


def described_parts() -> list[Option]:
    """Every option that some part has, with the part's own default."""
    return [
        _describe(f"{kind}={name}", item, item.default) for kind, name, schema in _schemas() for item in fields(schema)
    ]


def _describe(part: str, item: Field, value: Any) -> Option:
    return Option(part, item.name, value, allowed(item), item.metadata.get("line", ""))


def option_names() -> set[str]:
    """Every option that some part has, flat (``tau``) and with its part (``select.tau``)."""
    having = ((kind, name) for kind, _, schema in _schemas() for name in names_of(schema))
    return {key for kind, name in having for key in (name, f"{kind}.{name}")}


@functools.cache
def names_of(schema: type) -> tuple[str, ...]:
    """Names of the fields of a dataclass."""
    return tuple(item.name for item in fields(schema))


def fitting(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of settings that were made for another sampler, those that sampler ``name`` has a part for."""
    config = SamplerConfig(**{**settings, "name": name})
    chosen = _chosen(config, _preset(name))
    for setting in _unread(config, chosen):
        if config.options.pop(setting, None) is None:
            setattr(config, setting, None)
    chosen = _chosen(config, _preset(name))
    config.options = {key: value for key, value in config.options.items() if len(_owners(chosen, key)) == 1}
    return config.settings()


def resolve(config: SamplerConfig) -> Any:
    """Fill in what is not set and check every name and number: no field is None, ``options`` are all of the parts'.

    Raises ConfigError naming the setting, its value and what is allowed.
    """
    preset = _preset(config.name)
    chosen = _chosen(config, preset)
    if unread := _unread(config, chosen):
        raise ConfigError(
            f"sampler.{', sampler.'.join(unread)}: {config.name!r} only fills (score=none) and would not read it: "
            "choose a score, or leave it out."
        )
    values: dict[str, dict[str, Any]] = {kind: {} for kind in PARTS}
    for key, value in preset.options.items():
        for kind in _owners(chosen, key):  # none where the part that it was meant for has been replaced
            values[kind][_last(key)] = value
    for key, value in config.options.items():
        owners = _owners(chosen, key)
        if len(owners) != 1:
            raise _misplaced(config.name, chosen, key, owners)
        values[owners[0]][_last(key)] = value
    options: dict[str, Any] = {}
    for kind, _, schema in _schemas(chosen):
        given = {name: values[kind][name] for name in names_of(schema) if name in values[kind]}
        options |= {f"{kind}.{key}": value for key, value in vars(build(schema, given, f"sampler.{kind}.")).items()}
    shared = {name: DEFAULTS[name] for name in SHARED} | _given(preset) | _given(config)
    resolved = copy.copy(config)  # as ``__init__`` would make it, whose names were found above
    vars(resolved).update({**shared, **chosen, "options": options})
    for name in SHARED:
        check(_OWN[name], getattr(resolved, name), f"sampler.{name}")
    _check_bias(resolved.logit_bias)
    _check_window(resolved)
    return resolved


def _check_bias(bias: Any) -> None:
    try:
        fine = all(int(key) >= 0 and float(value) == float(value) for key, value in bias.items())
    except (AttributeError, TypeError, ValueError):
        fine = False
    if not fine:
        raise ConfigError(f"sampler.logit_bias = {said(bias)}: allowed {{id: number}}, as in {{13: -5.0}}.")


def _preset(name: str) -> SamplerConfig:
    return SamplerConfig(name, **presets[name])


def _given(config: SamplerConfig) -> dict[str, Any]:
    """What is set of the settings that all samplers share."""
    return {name: getattr(config, name) for name in SHARED if getattr(config, name) is not None}


def _chosen(config: SamplerConfig, preset: SamplerConfig) -> dict[str, str]:
    """The part of every kind: the configuration's own, the preset's, or the default."""
    return {kind: getattr(config, kind) or getattr(preset, kind) or DEFAULTS[kind] for kind in PARTS}


def _unread(config: SamplerConfig, chosen: Mapping[str, str]) -> list[str]:
    """Settings of revision, set to another value than the default, and options of its parts, of a sampler that revises
    nothing.
    """
    if chosen["score"] != "none" or chosen["method"] != DEFAULTS["method"]:
        return []
    by_rate = chosen["fill"] == "hazard" and chosen["rate"] != "none"
    read = {"rate", "eta_schedule", "step_on", "step_off"} if by_rate else set()  # it fills as if it revised
    given = [name for name in REVISING if name not in read and getattr(config, name) not in (None, DEFAULTS[name])]
    idle = {
        f"{kind}.{item.name}": item.default
        for kind, _, schema in _schemas(chosen)
        if kind in set(REVISING) - read
        for item in fields(schema)
    }
    for key, value in config.options.items():
        places = [f"{kind}.{_last(key)}" for kind in _owners(chosen, key)]
        if places and all(place in idle and idle[place] != value for place in places):
            given.append(key)
    return given


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _schemas(chosen: Mapping[str, str] | None = None) -> Iterator[tuple[str, str, type]]:
    """Kind, name and dataclass of options of chosen parts (None: of all), several guards one by one.

    Raises ConfigError where a part is not known.
    """
    from . import methods  # noqa: F401  (with it every part is registered; parts are built on this schema)
    from .parts import options_of, registries

    for kind, registry in registries.items():
        for name in registry if chosen is None else str(chosen.get(kind, "")).split("+" if kind == "guard" else None):
            yield kind, name, options_of(registry[name])


def _owners(chosen: Mapping[str, str] | None, key: str) -> list[str]:
    """Kinds whose chosen part (None: any) has an option, spelled flat or with its kind."""
    kind, _, name = key.rpartition(".")
    having = (k for k, _, schema in _schemas(chosen) if kind in ("", k) and name in names_of(schema))
    return list(dict.fromkeys(having))


def _misplaced(sampler: str, chosen: Mapping[str, str], key: str, owners: list[str]) -> ConfigError:
    """Why an option cannot be placed: none of the chosen parts has it, or several have."""
    if owners:
        parts = " and ".join(f"{kind}={chosen[kind]}" for kind in owners)
        spelled = " or ".join(f"sampler.{kind}.{key}=" for kind in owners)
        return ConfigError(f"sampler.{key}: {parts} have it: write {spelled}.")
    kind, _, name = key.rpartition(".")
    having = [o.part for o in described_parts() if o.key == name and (not kind or o.part.startswith(f"{kind}="))]
    has = "have" if len(having) > 1 else "has"
    return ConfigError(f"sampler.{key}: {sampler!r} has no part with it; {', '.join(having)} {has}.")


def _check_window(config: Any) -> None:
    """Revision must have a step to happen in; a float is a share, so that 128.0 is a slip for 128."""
    bounds = {"step_on": config.step_on, "step_off": config.step_off}
    for name, bound in bounds.items():
        if isinstance(bound, float) and bound > 1:
            raise ConfigError(f"sampler.{name} = {bound} is a share of the steps above 1: for a step write {bound:g}.")
    on, off = (bound * config.steps if isinstance(bound, float) else bound for bound in bounds.values())
    if config.score != "none" and on >= off:
        raise ConfigError(
            f"sampler.step_on = {config.step_on} is not before sampler.step_off = {config.step_off}: "
            f"of {config.steps} steps none is left to revise in."
        )
