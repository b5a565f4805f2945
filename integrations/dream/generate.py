"""Dream's ``diffusion_generate`` with its own keywords, and our samplers behind them.

from prism_plugin.integrations.dream import diffusion_generate

diffusion_generate(model, inputs, attention_mask=mask, max_new_tokens=256, steps=256, alg="entropy")       # the host's
diffusion_generate(model, inputs, attention_mask=mask, max_new_tokens=256, steps=256, head="heads/dream")  # PRISM
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.api import enable
from prism_plugin.errors import ConfigError, unknown
from prism_plugin.models.cache import CacheConfig
from prism_plugin.models.denoiser import View
from prism_plugin.options import option
from prism_plugin.sampling import drive
from prism_plugin.sampling.fills import best_first
from prism_plugin.sampling.parts import fills, orders
from prism_plugin.sampling.state import State

from .adapter import OpenDLLMDenoiser

ALGS = {"origin": "random", "maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
BOUND = "confidence_threshold"
KEYS = (
    "max_new_tokens", "max_length", "steps", "alg", "temperature", "top_p", "top_k", "eps", "alg_temp",
    "num_return_sequences", "return_dict_in_generate", "return_dict", "output_history", "mask_token_id",
)  # fmt: skip


def diffusion_generate(
    model: nn.Module,
    inputs: Tensor,
    generation_config: Any = None,
    *,
    attention_mask: Tensor | None = None,
    sampler: str | None = None,
    head: str | Path | nn.Module | None = None,
    seed: int = 0,
    request: Tensor | None = None,
    cache: str | CacheConfig | None = None,
    threshold: float = 0.9,
    return_result: bool = False,
    **given: Any,
) -> Any:
    """Texts (B, P + new) int64 behind prompts ``inputs`` (B, P), left-padded where attention_mask (B, P) is 0.

    generation_config and the host's own keywords (max_new_tokens, steps, alg, temperature, top_p, …) mean what they do
    there, with its defaults, which leave the model's own ``generation_config`` out (Open-dLLM's take it in);
    return_dict_in_generate is return_dict in dLLM's copy. Other keywords are fields of ``SamplerConfig``
    (num_remask=1, …). sampler: a preset; by default ``prism`` with a head, in the order of ``alg``, and without one the
    host's own rule: its tokens at temperature 0, its law with other random numbers above.
    cache: ``prefix`` or ``dual``, of a model with Fast-dLLM's forward, and by default the rule of its cached loop, in
    blocks of ``block_length``; ``threshold`` is that of alg=confidence_threshold there.
    Raises ConfigError for what cannot be done: alg_temp above 0, an eps of one's own, the hooks.
    """
    wanted = _config(model, generation_config, given)
    algs = ALGS if cache is None else {**ALGS, BOUND: "threshold"}
    if wanted.alg not in algs:
        raise unknown("alg", wanted.alg, algs, f"{BOUND} is for cache=…." if wanted.alg == BOUND else "")
    for name, allowed in (("alg_temp", (None, 0)), ("eps", (None, 1e-3))):
        if getattr(wanted, name) not in allowed:
            raise ConfigError(f"{name} = {getattr(wanted, name)}: allowed {' or '.join(map(str, allowed))}.")
    copies = wanted.num_return_sequences or 1
    inputs = inputs.repeat_interleave(copies, dim=0)
    new = wanted.max_new_tokens or (wanted.max_length or 0) - inputs.shape[1]
    if new < 1:
        raise ConfigError(f"max_length = {wanted.max_length} holds no more than the prompt's {inputs.shape[1]} tokens.")
    own: dict[str, Any] = {
        "order": algs[wanted.alg], "temperature": wanted.temperature or 0.0, "seed": seed, "steps": wanted.steps,
        "top_p": wanted.top_p or 1.0, "top_k": wanted.top_k or 0, "top_p_rule": "inclusive",
    }  # fmt: skip
    if sampler is None and head is None:
        sampler = "confidence"
        own["fill"] = "hazard" if wanted.alg == "origin" else "dream"
        if cache is not None:
            own |= {"fill": "dream-cached", "order": {"name": "dream-cached", "then": "entropy"}}
    if wanted.alg == BOUND and sampler == "confidence":
        own |= {"order": {"name": "dream-cached", "then": "threshold", "fill_bound": threshold}, "steps": new,
                "fill": {"name": "count", "fill_least": 1}, "alpha": "linear", "end": "filled"}  # fmt: skip
    prism = enable(model, head, mask_id=wanted.mask_token_id, sampler=sampler, cache=cache, **{**own, **given})
    padding = None
    if attention_mask is not None and not bool(attention_mask.all()):
        padding = nn.functional.pad(attention_mask.repeat_interleave(copies, dim=0).bool(), (0, new), value=True)
    tokens = nn.functional.pad(inputs, (0, new), value=prism.denoiser.mask_id)
    history: list[Tensor] = []

    def keep(state: State, view: Any) -> None:
        if wanted.output_history and view is not None:
            history.append(state.tokens.clone())

    result: drive.Result = drive.generate(
        prism.denoiser, tokens, prism.config(), request=request, padding=padding, callback=keep
    )
    if return_result:
        return result
    if wanted.return_dict_in_generate or wanted.return_dict:
        return SimpleNamespace(sequences=result.tokens, history=[*history, result.tokens] if history else None)
    return result.tokens


def _config(model: nn.Module, generation_config: Any, given: dict[str, Any]) -> SimpleNamespace:
    """The host's settings: a keyword, the config given, its defaults; taken out of ``given``."""
    for name in ("generation_tokens_hook_func", "generation_logits_hook_func"):
        if name in given:
            raise ConfigError(f"{name} is called by the host's own loop: a callback here is sampling.drive's.")
    models = getattr(model, "generation_config", None)
    mask = getattr(models, "mask_token_id", None)  # all that Dream takes of it
    defaults = {"steps": 512, "alg": "origin", "max_length": 20, "mask_token_id": mask}
    if OpenDLLMDenoiser.matches(model):
        defaults["alg"] = "entropy"
        generation_config = models if generation_config is None else generation_config
    found = {}
    for name in KEYS:
        named = [given.pop(name, None), getattr(generation_config, name, None), defaults.get(name)]
        found[name] = next((value for value in named if value is not None), None)
    return SimpleNamespace(**found)


@fills("dream")
def share(state: State, allowed: Tensor) -> Tensor:
    """int(masks (1 - s / t)) of the times from 1 to .001, all in the last step (Dream, every alg but origin)."""
    steps = state.of_block(state.budget)
    most = int(steps.max())
    times = torch.linspace(1, 1e-3, most + 1, device=allowed.device)
    now = state.block_step.clamp(max=most - 1)
    counts = (allowed.sum(dim=1) * (1 - times[now + 1] / times[now])).long()
    return torch.where(now + 1 >= steps, allowed.sum(dim=1), counts)


@fills("dream-cached")
def after_first(state: State, allowed: Tensor) -> Tensor:
    """One in a block's first step, then as ``dream`` (Fast-dLLM's cached loop over Dream)."""
    return torch.where(state.block_step == 0, 1, share(state, allowed))


@dataclass
class Then:
    """Of order=dream-cached."""

    then: str = option(
        "entropy", "the order of all but the first", among=("entropy", "confidence", "margin", "threshold")
    )
    fill_bound: float = option(0.9, "with threshold, a token of this probability or more is filled", low=0)


@orders("dream-cached")
def first_then(view: View, state: State, allowed: Tensor, counts: Tensor, options: Then) -> None:
    """A block's first mask in its first step, which computes all; then by entropy, or all that are likely enough."""
    first = allowed & (allowed.cumsum(dim=1) == 1)
    there = torch.where((state.block_step > 0)[:, None], allowed, first)
    if options.then == "threshold":
        best_first(view, state, there, counts, "prob", lambda ranked: ranked >= options.fill_bound)
    else:
        best_first(view, state, there, counts, {"confidence": "prob"}.get(options.then, options.then))
