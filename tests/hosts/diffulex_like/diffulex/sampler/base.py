"""A stand-in of the base of Diffulex's samplers, and of what one gives back."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class SampleOutputBase:
    """Writes and states of blocks, by request and block."""

    true_local_ids_map: dict[str, Any]
    accepted_ids_map: dict[str, Any]
    sampled_tokens_map: dict[str, Any]
    block_writes_map: dict[str, Any]
    block_state_map: dict[str, Any]


class DllmSamplerNoShiftBase(torch.nn.Module):
    """Logits of a position are those of its own token."""

    output_cls = SampleOutputBase
    fetch_attn_metadata: Any
    tokenizer_vocab_size: int | None = None

    @staticmethod
    def _split_logits_per_req(metadata: Any, reqs: Any, logits: torch.Tensor) -> Any:
        return logits.split(metadata.cu_seqlens_q.diff().tolist())
