"""Rotary embedding of packed queries and keys."""

import torch


def apply_rotary_emb_qkv_(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries and keys, leave values: qkv (B, S, 3, H, D); cos, sin (S, D / 2). Returns a new tensor."""
    cos, sin = cos[None, :, None, None], sin[None, :, None, None]
    first, second = qkv[:, :, :2].chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([turned, qkv[:, :, 2:]], dim=2)


def apply_rotary_emb_torch(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The same of one of them, x (B, S, H, D), as Duo calls it."""
    cos, sin = cos[None, :, None], sin[None, :, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
