"""LoRA under a quality head: low-rank updates of a frozen model, by peft, which saves them into the head's folder."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from ..errors import CheckpointError, ConfigError
from .denoiser import Denoiser

ADAPTER = "adapter_config.json"
PROJECTIONS = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("to_q", "to_k", "to_v"), ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"), ("q", "k", "v"),
    ("qkv",), ("attn_qkv",), ("att_proj",), ("Wqkv",), ("query_key_value",),
)  # fmt: skip
"""What architectures call the layers that make queries, keys and values."""


def network(denoiser: Denoiser) -> nn.Module:
    """The module that holds the weights: the host's own model, or our backbone."""
    for name in ("host", "backbone"):
        if isinstance(getattr(denoiser, name, None), nn.Module):
            return getattr(denoiser, name)
    return denoiser


def find_targets(model: nn.Module, given: str = "") -> list[str]:
    """Names of the layers that get an update: ``given``, with commas between, or those of the attention's inputs.

    Raises ConfigError that lists the model's linear layers where none of them fits.
    """
    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    for names in [wanted] if wanted else PROJECTIONS:
        if known.issuperset(names):
            named = [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] in names]
            linear = [name for name, module in named if isinstance(module, nn.Linear)]
            return list(names) if len(linear) == len(named) else linear  # a vision tower may wrap its own
    said = f"lora.targets = {given} are not all there" if wanted else "no projections of an attention were found"
    raise ConfigError(f"{said}: name layers of this model with lora.targets=…: {', '.join(sorted(known))}.")


def add_lora(denoiser: Denoiser, r: int, alpha: float, dropout: float, targets: str) -> Any:
    """Freeze a denoiser's model and put fresh updates of rank ``r`` into its layers, where they stay.

    Returns peft's wrapper of the model, which saves them and takes them out again.
    """
    from peft import LoraConfig, get_peft_model

    model = network(denoiser)
    names = find_targets(model, targets)
    scale: Any = alpha or r  # alpha of peft, which says int but takes any number
    return get_peft_model(model, LoraConfig(r=r, lora_alpha=scale, lora_dropout=dropout, target_modules=names))


def load_lora(denoiser: Denoiser, folder: str | Path) -> None:
    """Put the updates that lie in ``folder`` into the denoiser's model, frozen; nothing where they are there already.

    Raises CheckpointError where they do not fit, or where the model has others.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise ConfigError(f"{folder} holds LoRA beside its head: pip install peft.") from None
    model, file = network(denoiser), Path(folder) / "adapter_model.safetensors"
    try:
        there = dict(model.named_parameters())
        if any(".lora_A." in name for name in there):
            for name, saved in load_file(file).items():
                inside = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
                if inside not in there or not there[inside].cpu().equal(saved.to(there[inside].dtype)):
                    raise CheckpointError(f"the model has LoRA other than that in {folder}: load the model anew.")
            return
        wrapped: Any = PeftModel.from_pretrained(model, str(folder))
        wrapped.requires_grad_(False)
        denoiser.undo.append(wrapped.unload)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the LoRA in {folder} does not fit the model: {error}") from error
    model.eval()
