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


@dataclass
class HeadConfig:
    """Which head, and the size of its input."""

    name: str = "dit"
    hidden_size: int = 0
    cond_size: int = 0


class Head(nn.Module):
    """Base of every head, made from its ``config``; ``reads`` is ``pre_norm`` or ``post_norm``."""

    reads: str

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config


heads: Registry[type[Head]] = Registry("head")


@heads("linear")
class LinearHead(Head):
    """One linear map on the state before the final norm, behind a LayerNorm of its own."""

    reads = "pre_norm"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L) logits."""
        return self.proj(self.norm(hidden)).squeeze(-1)


@heads("mlp")
class MLPHead(Head):
    """LayerNorm, Linear, GELU, Linear on the state after the final norm (PRISM release for LLaDA)."""

    reads = "post_norm"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.proj1 = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj2 = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L) logits."""
        return self.proj2(nn.functional.gelu(self.proj1(self.norm(hidden)))).squeeze(-1)


@heads("dit")
class DiTHead(Head):
    """LayerNorm, adaLN on the time vector, Linear (PRISM release, Sudoku)."""

    reads = "pre_norm"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        if not config.cond_size:
            raise ConfigError(
                "head 'dit' needs a time vector and this backbone has none: choose head=linear or head=mlp."
            )
        self.norm = AdaNorm(config.hidden_size, config.cond_size)
        self.proj = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        """(B, L, D) and (B, C) -> (B, L) logits."""
        return self.proj(self.norm(hidden, time)).squeeze(-1)


def attach_head(denoiser: Denoiser, config: HeadConfig | str) -> Head:
    """Put a fresh head on a denoiser (by name: sized for it); ConfigError, naming both, where the two do not fit."""
    head = denoiser.head = _fresh(denoiser, config)
    return head


def _fresh(denoiser: Denoiser, config: HeadConfig | str) -> Head:
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
    return kind(config)


def save_head(denoiser: Denoiser, folder: str | Path) -> None:
    """Write ``prism_config.json`` (what the head is, what it fits, how it was trained) and ``head.safetensors``."""
    folder, head = output_folder(folder), denoiser.head
    if not isinstance(head, Head):
        raise ConfigError("there is no head to save, or it is none of ours: attach_head makes one.")
    described = {
        "head": asdict(head.config),
        "model": {"vocab_size": denoiser.vocab_size, "mask_id": denoiser.mask_id},
        "trained": denoiser.trained,
    }
    save_json(folder / "prism_config.json", described)
    save_weights(folder / "head.safetensors", head)


def load_head(denoiser: Denoiser, folder: str | Path) -> None:
    """Load a folder written by ``save_head`` onto a denoiser, which is left as it was where that fails.

    Raises CheckpointError where the files are missing or damaged, or the model differs from the one it was made for.
    """
    described = load_json(Path(folder) / "prism_config.json")
    for name in ("vocab_size", "mask_id"):
        value, own = described.get("model", {}).get(name), getattr(denoiser, name)
        if value not in (None, own):
            raise CheckpointError(
                f"the head in {folder} was trained for a model of {name} = {value}, this one has {own}."
            )
    try:
        head = _fresh(denoiser, HeadConfig(**described["head"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/prism_config.json does not describe a head ({error}).") from error
    load_weights(head, Path(folder) / "head.safetensors")
    denoiser.head = head.eval()
    denoiser.trained = described.get("trained", {})
