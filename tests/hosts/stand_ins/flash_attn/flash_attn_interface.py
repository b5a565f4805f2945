"""Packed attention over sequences of equal length."""

import torch
from einops import rearrange
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_qkvpacked_func(
    qkv: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, dropout_p: float = 0.0, causal: bool = False
) -> torch.Tensor:
    """Attend within each sequence of a packed batch.

    qkv (B * max_seqlen, 3, H, D); cu_seqlens (B + 1,) int, of which only the count is read: every sequence
    must have length max_seqlen. Returns (B * max_seqlen, H, D).
    """
    batch = len(cu_seqlens) - 1
    if qkv.shape[0] != batch * max_seqlen:
        raise ValueError(f"{batch} sequences of equal length {max_seqlen} expected, {qkv.shape[0]} rows came")
    q, k, v = rearrange(qkv, "(b s) three h d -> three b h s d", b=batch)
    out = scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=causal)
    return rearrange(out, "b h s d -> (b s) h d")
