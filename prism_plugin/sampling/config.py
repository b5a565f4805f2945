"""Settings of a sampler. What is not set is taken from the preset that ``name`` names, then from DEFAULTS."""

from dataclasses import dataclass, fields, replace
from typing import Any, Optional, Union

from ..errors import ConfigError, unknown


@dataclass
class SamplerConfig:
    """A sampler: a preset, and every part and number that replaces one of the preset's.

    Parts: method, score, pattern, select, act, guard (several as gate+share), fill, order, refill, end, alpha, rate,
    eta_schedule (names that ``prism info samplers`` lists).
    steps: forward passes a text, shared evenly by its blocks. block_length: 0 is one block. step_on, step_off:
    revision happens from step_on up to before step_off of a block, in steps (int) or as a share of its steps
    (float). fill_share: share of a block's steps over which masks are filled; the rest only corrects.
    num_remask: tokens revised a step (select=fixed, drawn) or a block (centred). eta: the chance of a token to be
    masked again, or what bounds it. tau: the score below which a token is doubted (below). max_remasks: how often
    a position may be revised, 0 is any number. remask_share: of the block (guard=share). remask_temperature: of the
    draw (drawn). num_remask_loop: tokens a loop step masks. fill_bound: of order=threshold, factor, entropy_bound.
    fill_least: masks filled a step at the least. loop_on, loop_off, alpha_on: see alpha=plateau. every: only each
    every-th step of a block revises, in steps or as a share of them. rounds: forwards of a fixed-point search a step
    (argmax_fill). pattern_size: positions that a pattern takes together. reach: ``block`` or ``text``, how far back
    revision goes. Of a position that may be revised: cooldown: steps for which it is left alone after a revision;
    lock_after: identical redraws that settle it (0 never); protect_end: a stop sequence is left alone.
    cavity_groups: groups that the visible tokens are hidden in, a forward pass each (score=cavity, cavity_evidence).
    """

    name: str = "prism"
    method: Optional[str] = None
    score: Optional[str] = None
    select: Optional[str] = None
    act: Optional[str] = None
    guard: Optional[str] = None
    fill: Optional[str] = None
    order: Optional[str] = None
    refill: Optional[str] = None
    end: Optional[str] = None
    alpha: Optional[str] = None
    rate: Optional[str] = None
    eta_schedule: Optional[str] = None
    pattern: Optional[str] = None
    steps: Optional[int] = None
    block_length: Optional[int] = None
    temperature: Optional[float] = None
    top_p: Optional[float] = None
    top_k: Optional[int] = None
    confidence_of: Optional[str] = None
    top_p_rule: Optional[str] = None
    num_remask: Optional[int] = None
    eta: Optional[float] = None
    tau: Optional[float] = None
    step_on: Optional[Union[int, float]] = None
    step_off: Optional[Union[int, float]] = None
    fill_share: Optional[float] = None
    max_remasks: Optional[int] = None
    remask_share: Optional[float] = None
    remask_temperature: Optional[float] = None
    num_remask_loop: Optional[int] = None
    fill_bound: Optional[float] = None
    fill_least: Optional[int] = None
    loop_on: Optional[float] = None
    loop_off: Optional[float] = None
    alpha_on: Optional[float] = None
    every: Optional[Union[int, float]] = None
    rounds: Optional[int] = None
    pattern_size: Optional[int] = None
    reach: Optional[str] = None
    cooldown: Optional[int] = None
    lock_after: Optional[int] = None
    protect_end: Optional[bool] = None
    cavity_groups: Optional[int] = None
    seed: Optional[int] = None


DEFAULTS: dict[str, Any] = {
    "method": "revise_and_fill",
    "score": "none",
    "select": "fixed",
    "act": "remask",
    "guard": "none",
    "fill": "count",
    "order": "random",
    "refill": "wait",
    "end": "budget",
    "alpha": "linear",
    "rate": "none",
    "eta_schedule": "constant",
    "pattern": "single",
    "steps": 64,
    "block_length": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "confidence_of": "sampled",
    "top_p_rule": "exclusive",
    "num_remask": 4,
    "eta": 0.04,
    "tau": 0.1,
    "step_on": 0,
    "step_off": 1.0,
    "fill_share": 1.0,
    "max_remasks": 0,
    "remask_share": 0.25,
    "remask_temperature": 1.0,
    "num_remask_loop": 4,
    "fill_bound": 0.9,
    "fill_least": 0,
    "loop_on": 0.45,
    "loop_off": 0.95,
    "alpha_on": 0.9,
    "every": 1,
    "rounds": 4,
    "pattern_size": 3,
    "reach": "block",
    "cooldown": 0,
    "lock_after": 0,
    "protect_end": False,
    "cavity_groups": 8,
    "seed": 0,
}

REFILL = {
    "wait": "a remasked position is filled a step later at the earliest (PRISM on LLaDA)",
    "cancel": "the same, and a remask for which masks run short is cancelled (PRISM's DiT release)",
    "fresh": "the remask comes before the forward, so that its logits are fresh (ReMDM on LLaDA)",
    "stale": "refilled at once, from the logits of the text that still held the token",
}

END = {
    "budget": "a block takes all its steps (methods that only fill go on when it is full)",
    "filled": "a block ends when it has no mask",
    "stable": "a block ends when it has no mask and a pass over it led to nothing",
}

REACH = {
    "block": "revision stays in the block being written",
    "text": "all that was written so far may be overwritten, finished blocks too (ProSeCo)",
}

# name: (lowest, highest, what it is), both ends allowed
_RANGES = {
    "steps": (1, float("inf"), "a number of forward passes"),
    "block_length": (0, float("inf"), "a number of positions (0 is one block)"),
    "temperature": (0.0, float("inf"), "a temperature (0 takes the likeliest)"),
    "top_p": (1e-9, 1.0, "a probability"),
    "top_k": (0, float("inf"), "a number of symbols (0 keeps all)"),
    "num_remask": (0, float("inf"), "a number of tokens"),
    "eta": (0.0, 1.0, "a probability"),
    "tau": (0.0, float("inf"), "a threshold on a score"),
    "step_on": (0, float("inf"), "a step, or a share of the steps"),
    "step_off": (0, float("inf"), "a step, or a share of the steps"),
    "fill_share": (1e-9, 1.0, "a share of the steps"),
    "max_remasks": (0, float("inf"), "a number of revisions (0 is any number)"),
    "remask_share": (0.0, 1.0, "a share of the block"),
    "remask_temperature": (0.0, float("inf"), "a temperature (0 takes the lowest)"),
    "num_remask_loop": (0, float("inf"), "a number of tokens"),
    "fill_bound": (0.0, float("inf"), "a bound"),
    "fill_least": (0, float("inf"), "a number of tokens"),
    "loop_on": (1e-9, 1.0, "a share of the steps"),
    "loop_off": (0.0, 1 - 1e-9, "a share of the steps"),
    "alpha_on": (0.0, 1.0, "a share of the text"),
    "every": (1e-9, float("inf"), "a number of steps, or a share of them"),
    "rounds": (0, float("inf"), "a number of forward passes"),
    "pattern_size": (1, float("inf"), "a number of positions"),
    "cooldown": (0, float("inf"), "a number of steps"),
    "lock_after": (0, float("inf"), "a number of redraws (0 is never)"),
    "cavity_groups": (0, float("inf"), "a number of forward passes (0 hides every token alone)"),
}


def resolve(config: SamplerConfig) -> Any:
    """Fill in what is not set and check every name and number: the same class, with no field None.

    Raises ConfigError naming the setting, its value and what is allowed.
    """
    from . import methods  # noqa: F401  (with it every part is registered; parts are built on this schema)
    from .parts import PARTS
    from .presets import presets

    preset = presets[config.name]
    given = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) is not None}
    resolved = replace(config, **{**DEFAULTS, **preset, **given})
    for name, (low, high, what) in _RANGES.items():
        value = getattr(resolved, name)
        if not low <= value <= high:
            bounds = f"{low} <= {name} <= {high}" if high < float("inf") else f"{name} >= {low}"
            raise ConfigError(f"sampler.{name} = {value} is not {what}: allowed {bounds}.")
    for part, registry in PARTS.items():
        for named in str(getattr(resolved, part)).split("+" if part == "guard" else None):
            registry[named]
    for name, known in (("refill", REFILL), ("end", END), ("reach", REACH)):
        if getattr(resolved, name) not in known:
            raise unknown(f"sampler.{name}", getattr(resolved, name), known)
    _check_window(resolved)
    return resolved


def _check_window(config: Any) -> None:
    """Revision must have a step to happen in; a float is a share, so that 128.0 is a slip for 128."""
    bounds = {"step_on": config.step_on, "step_off": config.step_off}
    for name, bound in bounds.items():
        if isinstance(bound, float) and bound > 1:
            raise ConfigError(f"sampler.{name} = {bound} is a share of the steps above 1: for a step write {bound:g}.")
    on, off = (bound * config.steps if isinstance(bound, float) else bound for bound in bounds.values())
    if config.loop_on > config.loop_off:
        raise ConfigError(f"sampler.loop_on = {config.loop_on} is after sampler.loop_off = {config.loop_off}.")
    if config.score != "none" and on >= off:
        raise ConfigError(
            f"sampler.step_on = {config.step_on} is not before sampler.step_off = {config.step_off}: "
            f"of {config.steps} steps none is left to revise in."
        )
