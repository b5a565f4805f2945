"""Load LLaDA's remote code under the transformers that is installed.

The code was written for transformers 4.x (4.57 loads it as it is). Version 5 asks for ``all_tied_weights_keys``,
passes arguments to ``tie_weights`` and drops config fields that it does not know, ``use_cache`` among them; the three
are supplied here, on the class that the checkpoint brings. No file of the checkpoint changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from prism_plugin.errors import ConfigError

from .adapter import LLaDADenoiser


def load(name: str | Path, *, trust_remote_code: bool = False, **kwargs: Any) -> nn.Module:
    """``AutoModel.from_pretrained`` for a LLaDA checkpoint, in eval mode; kwargs go to transformers.

    Raises ConfigError without ``trust_remote_code`` (the code runs on your machine: say so) and for another model.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    if not trust_remote_code:
        raise ConfigError(f"{str(name)!r} brings modeling code of its own: pass trust_remote_code=True to run it.")
    config = read_config(name)
    if "AutoModel" not in getattr(config, "auto_map", {}):
        raise ConfigError(f"{str(name)!r} names no remote AutoModel in its config: load it with transformers.")
    model_class: Any = get_class_from_dynamic_module(config.auto_map["AutoModel"], str(name))
    if not hasattr(model_class, "all_tied_weights_keys"):
        model_class.all_tied_weights_keys = {}
        tie_weights = model_class.tie_weights
        model_class.tie_weights = lambda self, *args, **options: tie_weights(self)
    model = model_class.from_pretrained(name, config=config, **kwargs).eval()
    if not LLaDADenoiser.matches(model):
        raise ConfigError(f"{str(name)!r} is a {model_class.__name__}, not a LLaDA model: load it with transformers.")
    return model


def read_config(name: str | Path) -> Any:
    """The config of a remote-code checkpoint, with the field that transformers 5 drops."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, trust_remote_code=True)
    if not hasattr(config, "use_cache"):
        config.use_cache = False
    return config
