"""What a checkpoint is and needs, read off its files: nothing is loaded and none of its code runs."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.specifiers import SpecifierSet

from ..errors import CheckpointError, ConfigError, PrismError
from ..files import load_json
from ..sampling import methods as rules
from ..sampling.config import SamplerConfig, resolve
from ..sampling.presets import presets
from .checkpoint import ASSETS, PrismModel, embedded
from .denoiser import checked_mask_id, hosts
from .hosts import brings_tokenizer, host_of, read_config

BYTES = {"f32": 4, "bf16": 2, "f16": 2}
FITS = {
    "dllm": ">=4.53,<5",
    "LLaDA2MoeModelLM": ">=4.48,<5",
    "LLaDAMoEModelLM": ">=4.48,<5",
    "SDARForCausalLM": ">=4.51,<5",
    "Fast_dLLM_QwenForCausalLM": ">=4.53",
}
"""Versions of transformers that have all that published code imports, by its class or its host; others take any that
this package takes. Where 5 is excluded it lacks something. Tried: 4.57.6, and 5.24.0 where it is not excluded."""


def examine(name: str, head: str = "", mask_id: str = "") -> dict[str, Any]:
    """host, versions, mask_id and where it comes from, hidden_size, memory, head, samplers, and ``fix``: what to do, in
    one line, '' where nothing stands in the way. Raises CheckpointError where there is no such checkpoint.
    """
    folder = ASSETS / name if name in embedded() else Path(name)
    config = read_config(str(folder) if folder.is_dir() else name)
    ours = "backbone" in config
    fixes: list[str] = []
    host = "prism" if ours else host_of(config) if "model_type" in config else None
    adapter: Any = PrismModel if ours else None if host is None else hosts[host]
    if host is None:
        fixes.append(
            f"no host loads a model of type {config.get('model_type')!r} by name: give enable the model that you loaded"
        )
    wanted = next((FITS[name] for name in [*(config.get("architectures") or ()), host] if name in FITS), ">=4.44")
    versions = (
        f"transformers {wanted} and torch >=2.5 fit; {transformers.__version__} and {torch.__version__.split('+')[0]} "
        "are installed"
    )
    if not SpecifierSet(wanted).contains(transformers.__version__, prereleases=True):
        fixes.append(
            f"its code does not run on transformers {transformers.__version__}: pip install 'transformers{wanted}'"
        )
    if "auto_map" in config:
        versions += "; it brings code of its own: trust_remote_code=true"
    shape = config["backbone"] if ours else config
    size = shape.get("hidden_size") or shape.get("d_model") or shape.get("hidden_dim") or shape.get("dim")
    symbols = shape.get("embedding_size") if host == "llada" else None
    symbols = symbols or shape.get("vocab_size")
    mask, source = _mask(folder, shape, mask_id, "the model's config" if ours else "config.json")
    if mask is None and adapter is not None and not ours:
        mask = getattr(adapter, "known_mask", lambda config: None)(config)
        source = "what its host takes"
    if mask is None:
        fixes.append("neither its config nor its tokenizer names a mask: mask_id=N")
    elif symbols:
        try:
            checked_mask_id(mask, symbols)
        except ConfigError as error:
            fixes.append(str(error))
    count = _parameters(folder)
    memory = {kind: f"{count * each / 1e9:.3g} GB" for kind, each in BYTES.items()}
    found: dict[str, Any] = {
        "model": name,
        "host": f"{host} ({adapter.__name__})" if adapter else "none",
        "versions": versions,
        "mask_id": "none" if mask is None else f"{mask}, from {source}",
        "hidden_size": size,
        "memory": memory if count else "no weights here",
        "head": "none",
    }
    if head and head != "none":
        said = _head(Path(head), size, symbols, mask)
        found["head"] = said or f"{head} fits, as far as sizes say"
        fixes += [said] if said else []
    elif ours and not head and (folder / "head.safetensors").exists():
        head, found["head"] = str(folder), "its own"
    if adapter:
        has_head = head not in ("", "none")
        refused = _refused(has_head, adapter.gives)
        found["samplers"] = f"{len(list(presets)) - len(refused)} of {len(list(presets))} run" + (
            " with this head" if has_head else " without a head, learned scores by self-likelihood"
        )
        found["refused"] = refused or "none"
    return {**found, "fix": "; ".join(fixes)}


def _mask(folder: Path, shape: dict[str, Any], given: str, where: str) -> tuple[int | None, str]:
    if given:
        if not given.isdigit():
            raise ConfigError(f"mask_id = {given}: allowed a whole number from 0.")
        return int(given), "mask_id=…"
    for key in ("mask_token_id", "mask_id"):
        if shape.get(key) is not None:
            return shape[key], where
    if not brings_tokenizer(str(folder)):
        return None, ""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        return tokenizer.mask_token_id, "its tokenizer"
    except (OSError, ValueError, KeyError):
        return None, ""


def _parameters(folder: Path) -> int:
    """The numbers in a folder's safetensors, by their headers; 0 where there are none."""
    count = 0
    for file in folder.glob("*.safetensors") if folder.is_dir() else ():
        if file.name == "head.safetensors":
            continue
        with file.open("rb") as stream:
            try:
                header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
            except (struct.error, ValueError, MemoryError) as error:
                raise CheckpointError(f"{file} is damaged: its header cannot be read.") from error
        for tensor, about in header.items():
            if tensor != "__metadata__":
                count += torch.Size(about["shape"]).numel()
    return count


def _head(folder: Path, size: int | None, symbols: int | None, mask: int | None) -> str:
    """What does not fit, '' where nothing is found."""
    try:
        described = load_json(folder / "prism_config.json")
    except PrismError as error:
        return str(error)
    if not (folder / "head.safetensors").exists():
        return f"{folder / 'head.safetensors'} is not there"
    own = {"hidden_size": described.get("head", {}).get("hidden_size")} | described.get("model", {})
    for name, value in (("hidden_size", size), ("vocab_size", symbols), ("mask_id", mask)):
        if None not in (own.get(name), value) and own[name] != value:
            return f"the head in {folder} was made for {name} = {own[name]}, the model has {value}: take another head"
    return ""


def _refused(has_head: bool, gives: frozenset[str]) -> dict[str, str]:
    """Presets that this host cannot run, and why."""
    refused = {}
    for name in presets:
        try:
            config = SamplerConfig(name, steps=32)
            if not has_head:
                config = rules.without_head(config)[0]
            rules.check(resolve(replace(config, steps=32)), has_head, gives)
        except ConfigError as error:
            refused[name] = str(error)
    return refused
