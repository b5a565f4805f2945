"""What dLLM has of its own: autoregressive models made bidirectional (A2D), and how many tokens a step writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import HookedDenoiser, class_names
from prism_plugin.options import option
from prism_plugin.sampling.parts import fills
from prism_plugin.sampling.state import State


class A2DDenoiser(HookedDenoiser):
    """``A2DLlamaLMHeadModel``, ``A2DQwen2LMHeadModel``, ``A2DQwen3LMHeadModel``, bare or under peft.

    Their mask is the tokenizer's, the config names none. What was trained block by block (dLLM's ``bd3lm`` examples) is
    of the same classes and is not meant: here every position sees every other.
    """

    wants = "no A2D…LMHeadModel of dLLM was found"

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is one of them, by the name of its class."""
        return any(name.startswith("A2D") and name.endswith("LMHeadModel") for name in class_names(model))

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        return str(config["model_type"]).startswith("a2d-")

    @staticmethod
    def from_pretrained(name: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
        """The library's class, which it registers when it is imported; ConfigError where it cannot be."""
        from transformers import AutoModelForMaskedLM

        try:
            import dllm  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"{name!r} is a model of dLLM, which cannot be imported: {error}.") from error
        return AutoModelForMaskedLM.from_pretrained(name, **options)


@dataclass
class Scheduler:
    """Of fill=dllm."""

    scheduler: str = option("LinearAlphaScheduler", "the name of a scheduler of dLLM")


@fills("dllm")
def counts(state: State, allowed: Tensor, options: Scheduler) -> Tensor:
    """round(masks (alpha_s - alpha_t) / (1 - alpha_t)) by a scheduler of dLLM, in its precision (MDLMSampler)."""
    from dllm.core.schedulers import make_alpha_scheduler

    steps = state.of_block(state.budget).clamp(min=1).double()
    left = (steps - state.block_step).clamp(min=1)  # of a row that has ended, anything
    kept = make_alpha_scheduler(options.scheduler).reverse_mask_prob(s=(left - 1) / steps, t=left / steps)
    return torch.round(allowed.sum(dim=1).double() * (1 - kept.double())).long()


@dataclass
class Even:
    """Of fill=dllm-even."""

    size: int = option(32, "positions of a block, those of the prompt's end included", low=1)


@fills("dllm-even")
def even(state: State, allowed: Tensor, options: Even) -> Tensor:
    """An even share of the block's positions a step, whatever was filled besides (LLaDA2Sampler)."""
    steps = state.of_block(state.budget).clamp(min=1)
    return options.size // steps + (state.block_step < options.size % steps).long()
