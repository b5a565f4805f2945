"""LLaDA's generation rule written down again from its description (ALGORITHMS.md A.4), row by row and plainly.

Temperature 0 only: what our ``confidence`` preset must reproduce token for token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EOS, EOT, MASK = 126081, 126348, 126336


def even_split(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole numbers, the larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    *,
    steps: int,
    gen_length: int,
    block_length: int,
    cfg_scale: float = 0.0,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
) -> Tensor:
    rows = []
    for b in range(len(prompt)):
        start = prompt.shape[1]
        x = torch.cat([prompt[b], torch.full((gen_length,), MASK)])
        attended = (
            None
            if attention_mask is None
            else torch.cat([attention_mask[b], torch.ones(gen_length, dtype=torch.long)])[None]
        )
        blocks = gen_length // block_length
        for block in range(blocks):
            end = start + (block + 1) * block_length
            for fills in even_split(block_length, steps // blocks):
                logits = model(x[None], attention_mask=attended).logits[0]
                if cfg_scale:
                    blind = torch.cat([torch.full((start,), MASK), x[start:]])
                    unguided = model(blind[None], attention_mask=attended).logits[0]
                    logits = unguided + (cfg_scale + 1) * (logits - unguided)
                if logits_eos_inf:
                    logits[:, EOS] = -torch.inf
                best = logits.argmax(-1)
                if confidence_eos_eot_inf:
                    logits[:, [EOS, EOT]] = -torch.inf
                sure = logits.softmax(-1).gather(-1, best[:, None])[:, 0]
                place = torch.arange(len(x))
                sure = sure.masked_fill((x != MASK) | (place < start) | (place >= end), -torch.inf)
                chosen = sure.topk(fills).indices  # of equals, the one that topk takes
                x[chosen] = best[chosen]
        rows.append(x)
    return torch.stack(rows)
