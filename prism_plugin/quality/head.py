"""Heads that score visible tokens from hidden states, by name.

Every head maps hidden (B, L, D) and the time vector (B, C) to logits of quality (B, L) and says in ``reads``
whether it wants the hidden states before or after the backbone's final norm.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..backbone import AdaNorm
from ..denoiser import Denoiser
from ..errors import ConfigError
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


def make_head(config: HeadConfig, denoiser: Denoiser) -> nn.Module:
    """Build a fresh head for a denoiser; ConfigError where the two do not fit."""
    head = heads[config.name](config)
    check_fits(head, config, denoiser)
    return head


def check_fits(head: nn.Module, config: HeadConfig, denoiser: Denoiser) -> None:
    """ConfigError, naming both, where a head reads what a denoiser does not give."""
    if config.hidden_size != denoiser.hidden_size:
        raise ConfigError(f"the head was made for hidden size {config.hidden_size}, the model has {denoiser.hidden_size}.")
    if head.reads != denoiser.hidden_at:
        raise ConfigError(f"head {config.name!r} reads {head.reads} states, the model gives {denoiser.hidden_at}.")

