"""What stands in for the host's ``_sample`` when its configuration has a ``prism`` node."""

import logging
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from torch import Tensor

from prism_plugin.config import from_mapping
from prism_plugin.errors import ConfigError
from prism_plugin.quality.head import load_head
from prism_plugin.sampling.config import PARTS, SHARED, SamplerConfig, option_names, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.parts import scores
from prism_plugin.sampling.presets import presets

from .adapter import MDLMDenoiser

log = logging.getLogger(__name__)


@dataclass(init=False)
class HostConfig(SamplerConfig):
    """The ``prism`` node of a host: a sampler's settings, and the folder of a trained head."""

    head: str = ""


def offer_overlays() -> None:
    """Give Hydra ``+prism=NAME`` for every preset, and ``+prism=default``: PRISM on text, as published.

    A node names every setting and every part's options, None while they are not set, so that Hydra takes them.
    """
    store = ConfigStore.instance()
    flat = sorted(name for name in option_names() if "." not in name)
    unset = dict.fromkeys(["name", "head", *PARTS, *SHARED, *flat])
    for option, name in {"default": "prism-text", **{name: name for name in presets}}.items():
        store.store(group="prism", name=option, node={**unset, "name": name}, provider="prism-plugin")


def sample(diffusion: Any, num_steps: int) -> Tensor:
    """A batch of texts from a host's model, (B, L) int64, in ``num_steps`` forward passes.

    Random numbers follow the host's ``seed``: each row's key is drawn from torch's generator.
    Raises ConfigError, before the first pass, where a setting cannot be used or clashes with the host's.
    """
    denoiser = MDLMDenoiser(diffusion)
    config = settings(diffusion, num_steps)
    if config.head:
        load_head(denoiser, config.head)
        denoiser.head.to(diffusion.device)
    elif "head" in scores[resolve(config).score].needs:
        warnings.warn(
            "prism.head is not set: doubt falls on tokens by self-likelihood, which needs no training, instead of "
            "by learned quality. `python -m prism_plugin.integrations.mdlm.train` trains a head.",
            stacklevel=2,
        )
        config = replace(config, score="self_likelihood")
    rows, length = diffusion.config.loader.eval_batch_size, denoiser.max_length
    tokens = torch.full((rows, length), denoiser.mask_id, device=diffusion.device)
    request = torch.randint(2**62, (rows,), device=diffusion.device)
    result = generate(denoiser, tokens, config, request=request)
    log.info(
        "prism=%s: %d texts of %d tokens, %d forwards, %.1f remasks a text, %.1f of them came back the same; %.1f s",
        config.name, rows, length, num_steps, result.remasked.float().mean(), result.wasted.float().mean(),
        result.seconds,
    )  # fmt: skip
    return result.tokens


def settings(diffusion: Any, num_steps: int) -> HostConfig:
    """The checked ``prism`` node of a host's configuration; its steps are the host's."""
    host = diffusion.config
    node: Any = OmegaConf.to_container(host.prism, resolve=True)
    given = {key: value for key, value in node.items() if value is not None}
    config = from_mapping(given, HostConfig, "prism.")
    if config.steps is not None:
        raise ConfigError(f"prism.steps = {config.steps} clashes with sampling.steps = {num_steps}: set the host's.")
    nucleus = host.sampling.get("nucleus_p", 1.0)
    top_p = nucleus if config.top_p is None and nucleus < 1 else config.top_p
    return replace(config, steps=num_steps, top_p=top_p)
