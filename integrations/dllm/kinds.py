"""The library's samplers that ours stands for: how each lays texts out, and its own rule in our parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prism_plugin.errors import ConfigError, unknown
from prism_plugin.sampling.presets import presets

from ..dream.generate import ALGS, BOUND


@dataclass
class Plan:
    """What a call comes to. rule: settings that hold for every sampler; own: those of the library's own rule.

    new: masks behind every prompt. block_length and steps: of a text, or with ``windows`` (columns that are written one
    after the other) of each of these. left: shorter texts are padded on the left, up to ``width`` columns at the least,
    with the tokenizer's ``pad``. grid: length of the blocks of a block-causal model. cache: of Fast-dLLM's. ends:
    nothing is written behind a window after which every text has an EOS; ``grows``: the canvas ends there.
    """

    rule: dict[str, Any]
    own: dict[str, Any] = field(default_factory=dict)
    new: int = 0
    block_length: int = 0
    steps: int = 1
    windows: Sequence[slice] = (slice(None),)
    left: bool = False
    width: int = 0
    pad: str = "eos_token_id"
    grid: int = 0
    cache: str | None = None
    ends: bool = False
    grows: bool = False


def _new(asked: Any, lengths: list[int]) -> int:
    new = asked.max_new_tokens or (asked.max_length or 0) - max(lengths)
    if new < 1:
        raise ConfigError(f"max_new_tokens = {new} for prompts of up to {max(lengths)}: allowed >= 1.")
    return new


def _counts(asked: Any, name: str, scheduler: Any) -> dict[str, Any]:
    """How many a step, by a scheduler of the library's: rounded, or drawn."""
    kind = type(scheduler).__name__
    if vars(scheduler):
        raise ConfigError(f"scheduler = {scheduler}: allowed one without settings of its own.")
    if not asked.stochastic_transfer:
        return {"fill": {"name": "dllm", "scheduler": kind}} if name in ("confidence", "random") else {}
    alphas = {"LinearAlphaScheduler": "linear", "CosineAlphaScheduler": "cosine"}
    if kind not in alphas:
        raise unknown("scheduler", kind, alphas)
    return {"fill": "hazard", "alpha": alphas[kind]}


def _likeliest(asked: Any, name: str, scheduler: Any) -> dict[str, Any]:
    """LLaDA's ``remasking``, with the probabilities of the model itself."""
    if asked.remasking not in ("low_confidence", "random"):
        raise unknown("remasking", asked.remasking, ("low_confidence", "random"))
    rule: dict[str, Any] = {"temperature": asked.temperature, "confidence_of": "untempered"}
    rule |= _counts(asked, name, scheduler)
    if asked.sampler is None and asked.remasking == "random":
        rule["order"] = "random"
    return rule


def mdlm(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """MDLMSampler: blocks behind each prompt; of ``infill``, from the texts' beginning."""
    rule = _likeliest(asked, name, scheduler)
    if "order" not in rule and asked.begin_suppress_tokens:
        if presets[name].get("order") != "confidence":
            raise ConfigError(f"begin_suppress_tokens is for samplers that fill by confidence, {name} does not.")
        rule["order"] = {"name": "confidence-eos-last", "last": [*asked.begin_suppress_tokens]}
    if infill:
        size = asked.block_size or max(lengths)
        windows = [slice(start, start + size) for start in range(0, max(lengths), size)]
        return Plan(rule, steps=math.ceil(asked.steps / len(windows)), windows=windows)
    new = _new(asked, lengths)
    size = asked.block_size or new
    blocks = math.ceil(new / size)
    return Plan(rule, new=new, block_length=size, steps=math.ceil(asked.steps / blocks) * blocks)


def dream(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """DreamSampler: all that is to be written is one block, by ``alg``, texts end together."""
    if asked.alg not in ALGS or asked.alg == "origin":
        raise unknown("alg", asked.alg, [alg for alg in ALGS if alg != "origin"])
    if asked.alg_temp not in (None, 0):
        raise ConfigError(f"alg_temp = {asked.alg_temp}: allowed None or 0.")
    rule = {"temperature": asked.temperature, "top_p": asked.top_p or 1.0, "top_k": asked.top_k or 0}
    rule |= {"top_p_rule": "inclusive", "order": ALGS[asked.alg], **_counts(asked, name, scheduler)}
    new = 0 if infill else _new(asked, lengths)
    return Plan(rule, new=new, steps=asked.steps, left=True)


def bd3lm(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """BD3LMSampler: a block-causal model; blocks are those of the columns, prompts end with one."""
    new, size = _new(asked, lengths), asked.block_size
    first = math.ceil(max(lengths) / size) * size
    windows = [slice(start, min(start + size, first + new)) for start in range(first, first + new, size)]
    steps = asked.steps_per_block or math.ceil(asked.steps / len(windows))
    where: dict[str, Any] = {"left": True, "width": first + new, "pad": "pad_token_id", "grid": size}
    rule = _likeliest(asked, name, scheduler)
    return Plan(rule, new=new, steps=steps, windows=windows, ends=True, grows=True, **where)


def _llada2(asked: Any, lengths: list[int], **more: Any) -> Plan:
    """Blocks are those of the columns, the first may hold the prompt's end, the last one is filled."""
    if len({*lengths}) > 1:
        raise ConfigError(f"prompts of {sorted({*lengths})} tokens: LLaDA2's samplers take those of one length.")
    size, new = asked.block_size, _new(asked, lengths)
    start, stop = lengths[0] // size * size, math.ceil((lengths[0] + new) / size) * size
    windows = [slice(at, at + size) for at in range(start, stop, size)]
    rule = {"temperature": asked.temperature, "top_p": asked.top_p or 1.0, "top_k": asked.top_k or 0}
    rule |= {"top_p_rule": "inclusive", "confidence_of": "sampled" if asked.temperature else "untempered"}
    return Plan(rule, new=stop - lengths[0], windows=windows, grid=size, **more)


def llada2(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """LLaDA2Sampler: an even share a step, and all that are likelier than ``threshold`` where these are more."""
    if asked.eos_early_stop:
        raise ConfigError("eos_early_stop = True leaves masks in the text there: allowed False.")
    least = asked.minimal_topk
    steps = min(asked.steps_per_block, asked.max_new_tokens // least) if least > 0 else asked.steps_per_block
    bound = {"name": "threshold", "fill_bound": asked.threshold}
    own = {"order": bound, "fill": {"name": "dllm-even", "size": asked.block_size}, "end": "filled"}
    return _llada2(asked, lengths, steps=steps, own=own)


def llada21(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """LLaDA21Sampler: ``num_to_transfer`` or all above ``threshold``, and tokens that are overwritten (``t2t``)."""
    own = {
        "name": "t2t", "fill_bound": asked.threshold, "select.tau": max(0.0, 1 - asked.editing_threshold),
        "fill": {"name": "least", "fill_least": asked.num_to_transfer},
    }  # fmt: skip
    steps = asked.block_size + asked.max_post_steps
    return _llada2(asked, lengths, steps=steps, own=own, ends=asked.eos_early_stop)


def _bounded(asked: Any, new: int) -> dict[str, Any]:
    """Fast-dLLM's ``factor`` or ``threshold``: as many steps as there are masks."""
    bounds = {"factor": getattr(asked, "factor", None), "threshold": asked.threshold}
    name = next((name for name, bound in bounds.items() if bound is not None), None)
    if name is None:
        return {}
    order = {"name": name, "fill_bound": bounds[name]}
    return {"order": order, "fill": {"name": "count", "fill_least": 1}, "end": "filled", "steps": new}


def fast_llada(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """FastdLLMLLaDASampler: MDLMSampler's blocks with a cache."""
    asked.suppress_tokens = [*(asked.suppress_tokens or []), *(asked.begin_suppress_tokens or [])]
    asked.begin_suppress_tokens = None
    plan = mdlm(asked, lengths, name, scheduler)
    plan.cache, plan.own = _cache(asked), _bounded(asked, plan.new)
    return plan


def fast_dream(asked: Any, lengths: list[int], name: str, scheduler: Any, infill: bool = False) -> Plan:
    """FastdLLMDreamSampler: DreamSampler, or with a cache in blocks, the first token of each in the pass over all."""
    cache = _cache(asked)
    if cache is not None and asked.eps not in (None, 1e-3):
        raise ConfigError(f"eps = {asked.eps}: allowed 0.001.")
    if cache is None and asked.alg == BOUND:
        raise ConfigError(f"alg = {BOUND} is for use_cache = prefix or dual; sampler=threshold is one without a plan.")
    bounded = asked.alg == BOUND
    if bounded:
        asked.alg = "maskgit_plus"
    plan = dream(asked, lengths, name, scheduler)
    if cache is None:
        return plan
    plan.cache, plan.block_length = cache, asked.block_size or plan.new
    then = {"name": "dream-cached", "then": "threshold" if bounded else ALGS[asked.alg]}
    plan.own = {"order": then, "fill": "dream-cached"}
    if bounded:
        plan.own |= {**_bounded(asked, plan.new), "order": {**then, "fill_bound": asked.threshold}}
    return plan


def _cache(asked: Any) -> str | None:
    if asked.use_cache not in (None, "none", "prefix", "dual"):
        raise unknown("use_cache", asked.use_cache, ("none", "prefix", "dual"))
    return None if asked.use_cache == "none" else asked.use_cache


KINDS: dict[str, Callable[..., Plan]] = {
    "MDLMSampler": mdlm, "DreamSampler": dream, "BD3LMSampler": bd3lm, "LLaDA2Sampler": llada2,
    "LLaDA21Sampler": llada21, "FastdLLMLLaDASampler": fast_llada, "FastdLLMDreamSampler": fast_dream,
}  # fmt: skip
INFILL = ("MDLMSampler", "DreamSampler")
"""Those with an ``infill`` of their own."""
