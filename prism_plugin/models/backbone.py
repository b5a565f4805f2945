"""A small DiT-style masked diffusion backbone: bidirectional transformer blocks, adaLN on the time vector.

Shape follows the DiT of MDLM (arXiv 2406.07524; kuleshov-group/mdlm models/dit.py): hidden states before
the final norm and a time vector go to ``logits``, so that a quality head can read the same two.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import ConfigError
from .denoiser import Layout, checked_mask_id

try:  # an extra: used on CUDA in half precision where no attention bias is asked for
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None

HALF = (torch.float16, torch.bfloat16)
Kept = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class BackboneSize:
    """Size of a backbone trained from scratch.

    block_causal: length of blocks that look at themselves and at those before only; 0 is everywhere.
    """

    hidden_size: int = 128
    num_layers: int = 6
    num_heads: int = 8
    cond_size: int = 64
    time_conditioning: bool = False
    block_causal: int = 0

    def __post_init__(self) -> None:
        for name, least in {"hidden_size": 1, "num_layers": 0, "num_heads": 1, "cond_size": 1}.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= 2**16):
                raise ConfigError(f"backbone.{name} = {value!r}: allowed {least} <= {name} <= {2**16}.")


@dataclass(kw_only=True)
class BackboneConfig(BackboneSize):
    """Shape of the backbone: its size, and what the task gives. ``grid`` = side of a Sudoku box lays positions out as a
    grid, 0 as a line. uniform_noise: of ``Noise``.
    """

    vocab_size: int
    mask_id: int
    length: int
    grid: int = 0
    uniform_noise: float = 0.0

    def __post_init__(self) -> None:
        BackboneSize.__post_init__(self)
        for name, least in {"vocab_size": 1, "length": 1, "grid": 0}.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= 2**24):
                raise ConfigError(f"backbone.{name} = {value!r}: allowed {least} <= {name} <= {2**24}.")
        if self.block_causal < 0 or (self.block_causal and self.grid):
            raise ConfigError(
                f"block_causal = {self.block_causal}: a number of positions of a line (this is grid = {self.grid})."
            )
        if not 0 <= self.uniform_noise <= 1:
            raise ConfigError(f"uniform_noise = {self.uniform_noise}: allowed 0 <= uniform_noise <= 1.")
        if self.uniform_noise and self.time_conditioning:
            raise ConfigError("backbone.time_conditioning reads the share of masks, and uniform noise is no mask.")
        checked_mask_id(self.mask_id, self.vocab_size)
        if self.hidden_size % (2 * self.num_heads):
            raise ConfigError(
                f"hidden_size = {self.hidden_size} must be a multiple of 2 * num_heads = {2 * self.num_heads}."
            )
        if self.grid and self.length != self.grid**4:
            raise ConfigError(f"grid = {self.grid} needs length = {self.grid**4}, {self.length} came.")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: (B, L, D) scaled and shifted by (B, D) each."""
    return x * (1 + scale[:, None]) + shift[:, None]


class AdaNorm(nn.Module):
    """LayerNorm without its own affine map, modulated by the time vector."""

    def __init__(self, hidden_size: int, cond_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.modulation = nn.Linear(cond_size, 2 * hidden_size)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, time: Tensor, of: Tensor | None = None) -> Tensor:
        """(B, L, D) and (B, C) -> (B, L, D); of (B,) int64: which of the times is whose, where they are not as many."""
        modulation = self.modulation(time)
        return modulate(self.norm(x), *(modulation if of is None else modulation[of]).chunk(2, dim=-1))


class GELU(nn.Module):
    """``F.gelu(approximate="tanh")``, without gradients on a CPU from SiLU, of which PyTorch's kernel is four times as
    fast: with p = 2 sqrt(2 / pi) (1 + 0.044715 x^2) it is silu(p x) / p.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, and the same."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
            return F.gelu(x, approximate="tanh")
        p = x.square().mul_(2 * math.sqrt(2 / math.pi) * 0.044715).add_(2 * math.sqrt(2 / math.pi))
        return F.silu(x * p, inplace=True).div_(p)


class Block(nn.Module):
    """Attention and MLP, each behind adaLN and a gate. A line gets rotary positions, a grid relation biases."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_heads
        self.norm1, self.norm2 = AdaNorm(size, config.cond_size), AdaNorm(size, config.cond_size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), GELU(), nn.Linear(4 * size, size))
        self.gates = nn.Linear(config.cond_size, 2 * size)
        nn.init.zeros_(self.gates.weight)
        nn.init.constant_(self.gates.bias, 1 / math.sqrt(2 * config.num_layers))
        self.relation_bias = nn.Parameter(torch.zeros(self.heads, 8)) if config.grid else None

    def forward(
        self, x: Tensor, time: Tensor, positions: Tensor, attend: Tensor | None, kept: Kept | None = None
    ) -> Tensor:
        """x (B, L, D), time (B, C); positions, B or 1 in front: relations (1, L, L) int64 of a grid, or their bias
        (1, H, L, L), or rotary angles (1, L, D / heads); attend (B, 1, 1, L) or (B, 1, L, L) bool, True where a row
        looks at a column; kept: this layer's memory, which takes the new keys and values in and hands out those of the
        whole row.
        """
        gate1, gate2 = self.gates(time)[:, None].chunk(2, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x, time), positions, attend, kept)
        return x + gate2 * self.mlp(self.norm2(x, time))

    def attention(self, x: Tensor, positions: Tensor, attend: Tensor | None, kept: Kept | None) -> Tensor:
        """Attention over what ``attend`` shows, the whole row by default, (B, L, D) -> (B, L, D)."""
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        hidden = None
        if attend is not None:
            hidden = torch.zeros_like(attend, dtype=q.dtype).masked_fill(~attend, -math.inf)
        if self.relation_bias is not None and not torch.is_grad_enabled():
            bias = positions if positions.is_floating_point() else self.bias(positions)
            mixed = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype) if hidden is None else bias + hidden)
        elif self.relation_bias is not None:  # spelled out: with a bias that learns, SDPA is twice as slow on a CPU
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + self.bias(positions).to(q.dtype)
            with torch.autocast(q.device.type, enabled=False):
                weights = (scores if hidden is None else scores + hidden).softmax(dim=-1)
            mixed = weights @ v
        else:
            q, k = rotate(q, positions[:, None]), rotate(k, positions[:, None])
            if kept is not None:
                k, v = kept(k, v)
            if flash_attn_func is not None and hidden is None and q.is_cuda and q.dtype in HALF:
                mixed = flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
            else:
                mixed = F.scaled_dot_product_attention(q, k, v, hidden)
        return self.out(rearrange(mixed, "b h l d -> b l (h d)"))

    def bias(self, relations: Tensor) -> Tensor:
        """What a grid's relations (B or 1, L, L) add to the scores of attention, (B or 1, H, L, L)."""
        assert self.relation_bias is not None, "of a grid"
        return self.relation_bias[:, relations].transpose(0, 1)

    def without(self, x: Tensor, shown: Tensor, time: Tensor, positions: Tensor, attend: Tensor | None) -> Tensor:
        """The block over a second stream x (B, L, D) whose row i looks at itself and at ``shown`` (B, L, D) without its
        row i (two-stream attention, XLNet, arXiv 1906.08237); all else as in ``forward``.
        """
        gate1, gate2 = self.gates(time)[:, None].chunk(2, dim=-1)
        q, own, kept = rearrange(self.qkv(self.norm1(x, time)), "b l (n h d) -> n b h l d", n=3, h=self.heads)
        keys = F.linear(self.norm1(shown, time), self.qkv.weight[x.shape[-1] :])
        k, v = rearrange(keys, "b l (n h d) -> n b h l d", n=2, h=self.heads)
        if self.relation_bias is None:
            q, k, own = (rotate(part, positions[:, None]) for part in (q, k, own))
        scores = torch.diagonal_scatter(q @ k.transpose(-1, -2), (q * own).sum(-1), dim1=-2, dim2=-1)
        scores = scores.float() / math.sqrt(q.shape[-1])
        if self.relation_bias is not None:
            scores = scores + self.bias(positions)
        if attend is not None:
            scores = scores.masked_fill(~attend, -math.inf)
        weights = scores.softmax(dim=-1).to(v.dtype)
        mixed = weights @ v + weights.diagonal(dim1=-2, dim2=-1)[..., None] * (kept - v)
        x = x + gate1 * self.out(rearrange(mixed, "b h l d -> b l (h d)"))
        return x + gate2 * self.mlp(self.norm2(x, time))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: x (B, H, L, d), angles (B, 1, L, d) or fewer dimensions."""
    left, right = x.chunk(2, dim=-1)
    return (x * angles.cos() + torch.cat([-right, left], dim=-1) * angles.sin()).to(x.dtype)


def rotary_angles(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """Angles of ``length`` positions for heads of ``size``, (length, size) f32."""
    frequency = 10000.0 ** -(torch.arange(0, size, 2, device=device) / size)
    return torch.outer(torch.arange(length, device=device).float(), frequency).repeat(1, 2)


def grid_relations(box: int) -> Tensor:
    """(L, L) int64 in 0..7: bit 0 same row, bit 1 same column, bit 2 same box."""
    side = box * box
    cell = torch.arange(side * side)
    row, column = cell // side, cell % side
    units = (row, column, row // box * box + column // box)
    same = [(unit[:, None] == unit[None]).long() << bit for bit, unit in enumerate(units)]
    return torch.stack(same).sum(dim=0)


class Backbone(nn.Module):
    """Tokens (B, L) int64 -> hidden states before the final norm (B, L, D) and the time vector (B, C)."""

    positions: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embed = nn.Embedding(config.vocab_size, size)
        nn.init.normal_(self.embed.weight, std=0.02)
        if config.grid:
            side = config.grid**2
            self.place = nn.Parameter(0.02 * torch.randn(3, side, size))
            positions = grid_relations(config.grid)
        else:
            positions = rotary_angles(config.length, size // config.num_heads)
        self.register_buffer("positions", positions, persistent=False)
        cond = config.cond_size
        self.time = nn.Sequential(nn.Linear(64, cond), nn.SiLU(), nn.Linear(cond, cond))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self._made_of: Tensor | None = None
        self._made: list[Tensor] = []
        self.norm = AdaNorm(size, config.cond_size)
        self.unembed = nn.Linear(size, config.vocab_size)

    def forward(
        self,
        tokens: Tensor,
        t: Tensor | None = None,
        padding: Tensor | None = None,
        layout: Layout | None = None,
        kept: Sequence[Kept] | None = None,
        window: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """tokens (B, L) int64; t (B,) share of masks, used with time_conditioning only; padding (B, L) bool; layout:
        positions and attention of the caller's own; kept: every layer's memory, of which the columns in ``window`` are
        renewed (see ``cache.Cache``).

        Returns hidden (B, L, D) before the final norm, of the columns in the window, and the time vector (B, C).
        """
        length = tokens.shape[1]
        tokens = tokens[:, window]
        cell = torch.arange(length, device=tokens.device)[None, window] if layout is None else layout.positions
        x = self.embedded(tokens, cell)
        if self.config.grid:
            positions = self.positions[None]
            if layout is not None:
                positions = self.positions[cell[:, :, None], cell[:, None, :]]
        else:
            positions = self.positions[cell]
        attend = None if padding is None else padding[:, None, None]
        if layout is not None:
            attend = layout.attend[:, None]
        elif self.config.block_causal:
            block = torch.arange(length, device=tokens.device) // self.config.block_causal
            before = block <= block[window, None]
            attend = before if attend is None else attend & before
        if t is None or not self.config.time_conditioning:
            t = torch.zeros(tokens.shape[0], device=tokens.device)
        wave = t[:, None] * 1000 * torch.exp(-torch.arange(32, device=t.device) * (math.log(10000) / 32))
        time = F.silu(self.time(torch.cat([wave.cos(), wave.sin()], dim=-1).to(x.dtype)))
        kept_biases = self.config.grid and layout is None and not torch.is_grad_enabled() and not self._sharded
        biases = self._biases() if kept_biases else None
        for number, layer in enumerate(self.blocks):
            where = positions if biases is None else biases[number]
            x = layer(x, time, where, attend, None if kept is None else kept[number])
        return x, time

    @property
    def _sharded(self) -> bool:
        """Whether a layer has its weights only while it runs (FSDP2)."""
        return hasattr(self.blocks[0].relation_bias, "full_tensor")

    def _biases(self) -> list[Tensor]:
        """Every layer's bias of the whole grid, made anew where a weight has changed, by whatever way."""
        blocks: list[Any] = list(self.blocks)
        weights = torch.stack([block.relation_bias for block in blocks])
        if self._made_of is None or self._made_of.device != weights.device or not torch.equal(weights, self._made_of):
            self._made_of, self._made = weights, [block.bias(self.positions[None]) for block in blocks]
        return self._made

    def embedded(self, tokens: Tensor, cell: Tensor) -> Tensor:
        """What enters the first block, (B, L, D): tokens (B, L) int64 in places ``cell``, (B or 1, L) int64."""
        x = self.embed(tokens)
        if self.config.grid:
            row, column, box = self.place
            side, n = self.config.grid**2, self.config.grid
            x = x + row[cell // side] + column[cell % side] + box[cell // side // n * n + cell % side // n]
        return x

    def logits(self, hidden: Tensor, time: Tensor, of: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) and their time vectors (B, C) -> logits (B, L, V), the mask's at -inf; ``of`` as for
        ``AdaNorm``.
        """
        logits = self.unembed(self.norm(hidden, time, of)).float()
        logits[..., self.config.mask_id] = -math.inf
        return logits
