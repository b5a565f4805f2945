"""Heads that score visible tokens from hidden states, by name.

Every head maps hidden (B, L, D) and the time vector (B, C) to logits of quality (B, L) and says in ``reads``
whether it wants the hidden states before or after the backbone's final norm.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from ..backbone import AdaNorm
from ..denoiser import Denoiser
from ..errors import CheckpointError, ConfigError
from ..files import load_json, load_weights, output_folder, save_json, save_weights
from ..registry import Registry

heads: Registry[type[nn.Module]] = Registry("head")


@dataclass
class HeadConfig:
    """Which head, and the size of its input."""

    name: str = "dit"
    hidden_size: int = 0
    cond_size: int = 0


@heads("linear")
class LinearHead(nn.Module):
    """One linear map on the state before the final norm, behind a LayerNorm of its own."""

    reads = "pre_norm"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L) logits."""
        return self.proj(self.norm(hidden)).squeeze(-1)


@heads("mlp")
class MLPHead(nn.Module):
    """LayerNorm, Linear, GELU, Linear on the state after the final norm (PRISM release for LLaDA)."""

    reads = "post_norm"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.proj1 = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj2 = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L) logits."""
        return self.proj2(nn.functional.gelu(self.proj1(self.norm(hidden)))).squeeze(-1)


@heads("dit")
class DiTHead(nn.Module):
    """LayerNorm, adaLN on the time vector, Linear (PRISM release, Sudoku)."""

    reads = "pre_norm"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        if not config.cond_size:
            raise ConfigError("head 'dit' needs a time vector and this backbone has none: choose head=linear or head=mlp.")
        self.norm = AdaNorm(config.hidden_size, config.cond_size)
        self.proj = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        """(B, L, D) and (B, C) -> (B, L) logits."""
        return self.proj(self.norm(hidden, time)).squeeze(-1)


def attach_head(denoiser: Denoiser, config: HeadConfig | str) -> nn.Module:
    """Put a fresh head on a denoiser (by name: sized for it); ConfigError, naming both, where the two do not fit."""
    if isinstance(config, str):
        config = HeadConfig(config, denoiser.hidden_size, denoiser.cond_size)
    kind = heads[config.name]
    if (config.hidden_size, config.cond_size) != (denoiser.hidden_size, denoiser.cond_size):
        raise ConfigError(
            f"the head was made for hidden size {config.hidden_size} and time size {config.cond_size}, "
            f"the model has {denoiser.hidden_size} and {denoiser.cond_size}."
        )
    if kind.reads != denoiser.hidden_at:
        fit = [name for name in heads if heads[name].reads == denoiser.hidden_at]
        raise ConfigError(
            f"head {config.name!r} reads {kind.reads} states, the model gives {denoiser.hidden_at}: "
            f"choose head={' or head='.join(fit)}."
        )
    denoiser.head = kind(config)
    denoiser.head.config = config
    return denoiser.head


def save_head(denoiser: Denoiser, folder: str | Path) -> None:
    """Write ``prism_config.json`` (what the head is, what it fits, how it was trained) and ``head.safetensors``."""
    folder = output_folder(folder)
    described = {
        "head": asdict(denoiser.head.config),
        "model": {"vocab_size": denoiser.vocab_size, "mask_id": denoiser.mask_id},
        "trained": denoiser.trained,
    }
    save_json(folder / "prism_config.json", described)
    save_weights(folder / "head.safetensors", denoiser.head)


def load_head(denoiser: Denoiser, folder: str | Path) -> None:
    """Load a folder written by ``save_head`` onto a denoiser.

    Raises CheckpointError where the files are missing or damaged, or the model differs from the one it was made for.
    """
    described = load_json(Path(folder) / "prism_config.json")
    for name, value in described.get("model", {}).items():
        if getattr(denoiser, name) != value:
            raise CheckpointError(
                f"the head in {folder} was trained for a model of {name} = {value}, this one has {getattr(denoiser, name)}."
            )
    try:
        attach_head(denoiser, HeadConfig(**described["head"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/prism_config.json does not describe a head ({error}).") from error
    load_weights(denoiser.head, Path(folder) / "head.safetensors")
    denoiser.head.eval()
    denoiser.trained = described.get("trained", {})
