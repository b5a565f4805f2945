"""Load models that bring code of their own under the transformers that is installed.

Published code of LLaDA, Dream and kin was written for transformers 4.x (4.57 loads it as it is). Version 5 asks for
``all_tied_weights_keys``, passes arguments to ``tie_weights``, drops config fields that it does not know, ``use_cache``
among them, and has no rotary table of the name ``default``. They are supplied here, on the class that the checkpoint
brings, where they are missing. No file of the checkpoint changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from ..errors import ConfigError


class LossKwargs(TypedDict):
    """Stands for the one that transformers had until 4.53: a name in a signature."""


AUTO = ("AutoModelForMaskedLM", "AutoModel", "AutoModelForCausalLM")
"""Names under which checkpoints offer the class with the output layer; the first that is there is taken."""


def load(name: str | Path, *, trust_remote_code: bool = False, auto: str = "", **kwargs: Any) -> nn.Module:
    """The model of a checkpoint with code of its own, in eval mode; kwargs go to ``from_pretrained``.

    auto: the name in the checkpoint's ``auto_map``, where it is none of ``AUTO``. Raises ConfigError without
    ``trust_remote_code`` (the code runs on your machine: say so) and where the checkpoint brings no such class.
    """
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    if not trust_remote_code:
        raise ConfigError(f"{str(name)!r} brings modeling code of its own: pass trust_remote_code=True to run it.")
    revision = kwargs.get("revision")
    config = read_config(name, revision)
    offered = getattr(config, "auto_map", None) or {}
    found = next((key for key in ([auto] if auto else AUTO) if key in offered), None)
    if found is None:
        raise ConfigError(f"{str(name)!r} names no remote {auto or 'AutoModel'} in its config: load it yourself.")
    if not hasattr(transformers.utils, "LossKwargs"):  # what SDAR's code asks of 4.53 and older
        vars(transformers.utils)["LossKwargs"] = LossKwargs
    model_class: Any = get_class_from_dynamic_module(offered[found], str(name), revision=revision)
    fit(model_class)
    return model_class.from_pretrained(name, config=config, **kwargs).eval()


def fit(model_class: Any) -> Any:
    """Supply what version 5 of transformers asks of a class that was written for version 4; returns the class."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    ROPE_INIT_FUNCTIONS.setdefault("default", _rotary)
    if not hasattr(model_class, "all_tied_weights_keys"):
        model_class.all_tied_weights_keys = {}
        tie_weights = model_class.tie_weights
        model_class.tie_weights = lambda self, *args, **options: tie_weights(self)
    return model_class


def read_config(name: str | Path, revision: str | None = None) -> Any:
    """The config of a remote-code checkpoint, with the field that transformers 5 drops."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, trust_remote_code=True, revision=revision)
    if not hasattr(config, "use_cache"):
        config.use_cache = False
    return config


def _rotary(config: Any = None, device: Any = None, seq_len: int | None = None, **kwargs: Any) -> tuple[Any, float]:
    """Inverse frequencies of plain rotary positions, what transformers 4 had under the name ``default``."""
    import torch

    base = kwargs.get("base") or config.rope_theta
    size = kwargs.get("dim") or getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.int64, device=device).float() / size)), 1.0
