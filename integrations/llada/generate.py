"""LLaDA's ``generate`` with its own keywords, and ours behind them: any sampler at the host's call site.

from prism_plugin.integrations.llada import generate

generate(model, prompt, attention_mask, steps=64, gen_length=128, block_length=32)               # the host's own rule
generate(model, prompt, attention_mask, steps=64, gen_length=128, block_length=32, head="head")  # PRISM
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prism_plugin.api import Prism
from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError, unknown
from prism_plugin.models.cache import CacheConfig
from prism_plugin.models.denoiser import View
from prism_plugin.options import option
from prism_plugin.quality.head import load_head, put_head
from prism_plugin.sampling import drive, fills
from prism_plugin.sampling import methods as rules
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.parts import orders
from prism_plugin.sampling.presets import presets
from prism_plugin.sampling.state import State

from .adapter import EOS, EOT, MASK, LLaDADenoiser

log = logging.getLogger(__name__)


def generate(
    model: nn.Module | Prism,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = MASK,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    *,
    sampler: str | None = None,
    head: str | Path | nn.Module | None = None,
    seed: int = 0,
    request: Tensor | None = None,
    numerics: str = "exact",
    cache: CacheConfig | None = None,
    callback: drive.Callback | None = None,
    return_result: bool = False,
    **settings: Any,
) -> Tensor | drive.Result:
    """Answers to ``prompt`` (B, P) int64 with ``gen_length`` new tokens: (B, P + gen_length) int64.

    The first twelve arguments are those of LLaDA's generate.py. attention_mask (B, P): 0 at the left padding.
    model: the host's, bare or under peft, or what ``prism_plugin.enable`` made of it, with its head and settings.
    head: folder of a trained head, or the module. sampler: a preset; by default that of ``enable``, else
    ``prism-llada`` where there is a head, else ``confidence``, which at temperature 0 writes the host's own tokens.
    settings: any field of ``SamplerConfig`` (num_remask=1, score="self_likelihood", …). The fill order is that of
    ``remasking`` unless settings name one, or the preset one of its own (wino, saber, threshold, …).
    seed and request (B,) int64, by default the row, key every random number, so a text does not depend on its
    neighbours; return_result also gives the cost. On a copy of the host that ignores the attention mask prompts of one
    length are written together, those of another after them.

    numerics: ``exact`` computes logits for the rows in need of them, and confidences that do not depend on the batch.
    ``host`` computes them as the host does: where confidences are equal but for rounding (a model that is sure of
    several tokens at once) only this fills the same one first. It costs what the host costs.

    cache: keys and values kept between passes, of a model with Fast-dLLM's forward; by default that of ``enable``.

    Where it differs from the host on purpose: the mask itself is never written; confidence_eos_eot_inf puts EOS and
    EoT last at every temperature (the host: EOS only at 0); cfg_scale works without an attention_mask.
    Raises ConfigError, before the first forward, for what cannot be done.
    """
    if prompt.dim() != 2 or (attention_mask is not None and attention_mask.shape != prompt.shape):
        given = None if attention_mask is None else tuple(attention_mask.shape)
        raise ConfigError(f"prompt is {tuple(prompt.shape)} and attention_mask {given}: both must be (B, P).")
    if gen_length < 1 or block_length < 1 or gen_length % block_length:
        raise ConfigError(f"gen_length = {gen_length} is not a multiple of block_length = {block_length}.")
    if steps < 1 or steps % (gen_length // block_length):
        raise ConfigError(f"steps = {steps} cannot be shared evenly by {gen_length // block_length} blocks.")
    if remasking not in ("low_confidence", "random"):
        raise unknown("remasking", remasking, ("low_confidence", "random"))
    if numerics not in ("exact", "host"):
        raise unknown("numerics", numerics, ("exact", "host"))
    if bool((prompt == mask_id).any()):
        raise ConfigError(f"prompt holds the mask, token {mask_id}: generate writes after the prompt, not into it.")

    request = torch.arange(len(prompt)) if request is None else request
    if request.shape != prompt.shape[:1]:
        raise ConfigError(f"request is {tuple(request.shape)}: one key a text, ({len(prompt)},).")
    enabled = model.settings_for(sampler) if isinstance(model, Prism) else {}
    denoiser = _denoiser(model, head, mask_id=mask_id, all_logits=numerics == "host")
    if cache is not None:
        denoiser.cache = denoiser.new_cache(cache)
    by_confidence = "confidence-eos-last" if confidence_eos_eot_inf else "confidence"
    if numerics == "host":
        by_confidence += "-host"
    chosen = {
        "name": "confidence" if denoiser.head is None else "prism-llada",
        "confidence_of": "untempered",
        **enabled,
        **({"name": sampler} if sampler else {}),
        **settings,
        **{"steps": steps, "block_length": block_length, "temperature": temperature, "seed": seed},
    }
    if presets[chosen["name"]].get("order", "random") in ("random", "confidence"):
        chosen.setdefault("order", "random" if remasking == "random" else by_confidence)
    config = from_mapping(chosen, SamplerConfig, "sampler.")
    if denoiser.head is None:
        config, fell_back = rules.without_head(config)
        if fell_back:
            log.warning(rules.NO_HEAD)

    device = next(denoiser.parameters()).device
    prompt, request = prompt.to(device), request.to(device)
    real = torch.ones_like(prompt) if attention_mask is None else attention_mask.to(device)
    lengths = [prompt.shape[1]] * len(prompt) if "padding" in denoiser.gives else real.sum(dim=1).tolist()
    results, numbers = [], []
    for length in dict.fromkeys(lengths):
        rows = [row for row, one in enumerate(lengths) if one == length]
        tokens, seen = (
            nn.functional.pad(table[rows, prompt.shape[1] - length :], (0, gen_length), value=value)
            for table, value in ((prompt, mask_id), (real.bool(), True))
        )
        denoiser.guide(cfg_scale, torch.arange(tokens.shape[1], device=device)[None] < length)
        results.append(
            drive.generate(
                denoiser,
                tokens,
                config,
                request=request[rows],
                padding=None if attention_mask is None or seen.all() else seen,
                suppress_ids=torch.tensor([EOS], device=device) if logits_eos_inf else None,
                callback=callback,
            )
        )
        numbers += rows
    result = drive.join(results, numbers, EOS)
    result.tokens = torch.cat([prompt, result.tokens[:, -gen_length:]], dim=1)
    result.settings["numerics"] = numerics
    log.info("%s: %d texts, %d forwards, %.1f s", config.name, len(prompt), steps, result.seconds)
    return result if return_result else result.tokens


def adapter_of(model: Any) -> type[LLaDADenoiser]:
    """The adapter of a model with LLaDA's modules: Fast-dLLM's where it has that host's forward."""
    from ..fast_dllm.adapter import FastDLLMDenoiser  # it is built on this host's

    return FastDLLMDenoiser if FastDLLMDenoiser.matches(model) else LLaDADenoiser


def _denoiser(model: nn.Module | Prism, head: str | Path | nn.Module | None, **call: Any) -> LLaDADenoiser:
    """An adapter for one call; weights and head are the model's own."""
    before = model.denoiser if isinstance(model, Prism) else model
    if isinstance(before, LLaDADenoiser):
        denoiser = type(before)(before.host, **call)
        denoiser.head, denoiser.trained, denoiser.cache = before.head, before.trained, before.cache
    else:
        denoiser = adapter_of(before)(before, **call)
    if isinstance(head, str | Path):
        load_head(denoiser, head)
        denoiser.to(next(denoiser.host.parameters()).device)
    elif head is not None:
        put_head(denoiser, head)
    return denoiser


@dataclass
class Last:
    """Of order=confidence-eos-last."""

    last: Any = option((EOS, EOT), "ids that come when nothing else is left")  # noqa: RUF009


@orders("confidence-eos-last")
def eos_last(view: View, state: State, allowed: Tensor, counts: Tensor, options: Last) -> None:
    """By confidence, but EOS and EoT only when nothing else is left (LLaDA, confidence_eos_eot_inf).

    They all have confidence 0 then, and which of them comes first is for ``topk`` to say, as in the host.
    """
    rows = state.rows(allowed & (counts > 0)[:, None])
    draw = fills.draw_settings(state, rows[0])
    drawn = view.sample(*rows, **draw)
    draw |= {"temperature": 0.0, "suppress": torch.tensor([*_suppressed(state), *options.last], device=allowed.device)}
    sure = view.sample(*rows, **draw, given=drawn.token).given_prob
    assert sure is not None
    _first(state, rows[0], drawn.token, sure, allowed, counts)


def _first(state: State, index: Tensor, token: Tensor, sure: Tensor, allowed: Tensor, counts: Tensor) -> None:
    """Write the tokens (N,) of the ``counts`` (B,) highest of ``sure`` (N,) at flat positions ``index`` (N,)."""
    table = state.spread(index, sure, -torch.inf)
    chosen = torch.zeros_like(allowed)
    for row, count in enumerate(counts.tolist()):
        chosen[row, table[row].topk(count).indices] = True  # of equals, the one that the host takes
    kept = (chosen & allowed).flatten()[index.clamp(min=0)]
    state.write_rows(index, token.masked_fill(~kept, -1), sure.float())


def _as_host(view: View, state: State, allowed: Tensor, counts: Tensor, impossible: list[int]) -> None:
    rows = state.rows(allowed & (counts > 0)[:, None])
    drawn = view.sample(*rows, **fills.draw_settings(state, rows[0]))
    logits, index = view.denoiser.project(view.output, rows[0])
    logits = logits[index]
    logits[:, impossible] = -torch.inf
    sure = logits.softmax(dim=-1).gather(-1, drawn.token[:, None])[:, 0]
    _first(state, rows[0], drawn.token, sure, allowed, counts)


@orders("confidence-host")
def as_host(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """By confidence in the host's own arithmetic and with its ties (LLaDA low_confidence)."""
    _as_host(view, state, allowed, counts, [EOS] if EOS in _suppressed(state) else [])


@orders("confidence-eos-last-host")
def eos_last_as_host(view: View, state: State, allowed: Tensor, counts: Tensor) -> None:
    """The same with EOS and EoT last (LLaDA, confidence_eos_eot_inf)."""
    _as_host(view, state, allowed, counts, [EOS, EOT])


def _suppressed(state: State) -> list[int]:
    return [] if state.suppress is None else state.suppress.tolist()
