"""A host's model by the name of its checkpoint: what it is stands in its config, its adapter loads it."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..files import hub_answers, load_json, refuse_not_finite
from .checkpoint import embedded
from .denoiser import Denoiser, hosts

log = logging.getLogger(__name__)


def read_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """``config.json`` of a folder or hub id, without running code of the checkpoint; CheckpointError otherwise."""
    if Path(name).is_dir():
        return load_json(Path(name) / "config.json")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"no model at {name!r}. Embedded models: {', '.join(embedded()) or 'none'}.")
    from transformers import PretrainedConfig

    reached = hub_answers()
    try:
        return PretrainedConfig.get_config_dict(name, revision=revision)[0]
    except (OSError, ValueError) as error:
        reason = f"gives no such model: {str(error).splitlines()[0]}" if reached else "cannot be reached."
        raise CheckpointError(f"no folder {name!r}, and the hub {reason}") from error


def is_ours(name: str) -> bool:
    """Whether a name is that of a model of ours: embedded, or a folder or hub id that `prism train` wrote."""
    return name in embedded() or "backbone" in read_config(name)


def load_host(
    name: str,
    *,
    trust_remote_code: bool = False,
    mask_id: int | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    **options: Any,
) -> tuple[Denoiser, Any]:
    """The model of a checkpoint as a Denoiser, in eval mode, and its tokenizer, None where it brings none.

    An adapter that can be loaded so says in ``loads(config)`` which models are its own and has
    ``load(name, trust_remote_code=, mask_id=, dtype=)``. mask_id: where neither config nor tokenizer names it.
    revision: of a hub id. options go to the adapter's ``load`` (``device_map``).

    Raises ConfigError and CheckpointError, each naming what is missing.
    """
    from transformers import AutoTokenizer

    config = read_config(name, revision)
    if "model_type" not in config:
        raise CheckpointError(f"{name}/config.json does not say what model it is (model_type).")
    host = host_of(config)
    if host is None:
        raise ConfigError(
            f"{name!r} is a model of type {config['model_type']!r}, which none of the hosts {', '.join(hosts)} loads "
            "by name. Load it yourself and give it to prism_plugin.enable."
        )
    try:
        tokenizer = None
        if brings_tokenizer(name):
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        log.info("%s brings no tokenizer (%s)", name, str(error).splitlines()[0])
        tokenizer = None
    known = getattr(hosts[host], "known_mask", lambda config: None)(config)
    named = [mask_id, config.get("mask_token_id"), getattr(tokenizer, "mask_token_id", None), known]
    found = next((value for value in named if value is not None), None)
    if getattr(hosts[host], "marker", False):
        found = mask_id  # its own vocabulary has none
    elif found is None:
        raise ConfigError(
            f"{name!r} has {'no tokenizer' if tokenizer is None else 'a tokenizer without a mask token'}, and its "
            "config names no mask_token_id: mask_id=… sets it."
        )
    options |= {} if revision is None else {"revision": revision}
    model = hosts[host].load(name, trust_remote_code=trust_remote_code, mask_id=found, dtype=dtype, **options)
    refuse_not_finite(dict(model.named_parameters()), name)
    model.end_ids, model.tokenizer = _end_ids(name, revision), tokenizer
    return model, tokenizer


def brings_tokenizer(name: str) -> bool:
    """Whether a folder holds a tokenizer's files (of a hub id: yes); without any transformers would make one up."""
    kinds = ("tokenizer*", "vocab*", "*.model")
    return not Path(name).is_dir() or any(file for kind in kinds for file in Path(name).glob(kind))


def host_of(config: dict[str, Any]) -> str | None:
    """The host that loads a checkpoint with this config by its name, None where there is none."""
    return next((name for name in hosts if hasattr(hosts[name], "loads") and hosts[name].loads(config)), None)


def _end_ids(name: str, revision: str | None) -> tuple[int, ...]:
    """``eos_token_id`` of a checkpoint's generation_config.json, one or many; () where it has none."""
    from transformers import GenerationConfig

    file = Path(name) / "generation_config.json"
    if Path(name).is_dir():
        found = load_json(file).get("eos_token_id") if file.exists() else None
    else:
        try:
            found = GenerationConfig.from_pretrained(name, revision=revision or "main").eos_token_id
        except (OSError, ValueError):
            found = None
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)
