"""Stands for Fast-dLLM's LLaDA and Dream: their forwards with past_key_values and replace_position, and their cached
loops written down again, at temperature 0.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hosts.llada_like.modeling import config

MASK = 59
Kept = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.RMSNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None, where: Tensor | None) -> tuple[Tensor, Any]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None and where is None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        elif past is not None:
            past[0][:, :, where], past[1][:, :, where] = k, v  # in place, as there
            k, v = past
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).flatten(2)), (k, v)


class LLaDAModelLM(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config, size = config, config.d_model
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, size),
                "wpe": nn.Embedding(config.max_sequence_length, size),
                "blocks": nn.ModuleList(Block(size, config.n_heads) for _ in range(config.n_layers)),
                "ln_f": nn.RMSNorm(size),
                "ff_out": nn.Linear(size, config.embedding_size, bias=False),
            }
        )
        self.columns: list[int] = []  # of each pass

    def get_output_embeddings(self) -> Any:
        return self.model.transformer["ff_out"]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Kept | None = None,
        use_cache: bool = False,
        replace_position: Tensor | None = None,
    ) -> SimpleNamespace:
        parts, length = self.model.transformer, input_ids.shape[1]
        self.columns.append(length)
        where = None if replace_position is None else replace_position.nonzero(as_tuple=True)[1]
        known = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        place = torch.arange(known, known + length) if where is None else where
        x, kept = parts["wte"](input_ids) + parts["wpe"](place), []
        for number, block in enumerate(parts["blocks"]):
            x, each = block(x, None if past_key_values is None else past_key_values[number], where)
            kept.append(each)
        logits = parts["ff_out"](parts["ln_f"](x))
        return SimpleNamespace(logits=logits, past_key_values=kept if use_cache else None)


class DreamModel(nn.Module):
    """Tables of keys have their columns in the second place here; logits are for the position behind."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        config.max_position_embeddings = config.max_sequence_length
        self.config, self.model = config, LLaDAModelLM(config)
        self.lm_head = self.model.model.transformer["ff_out"]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self, input_ids: Tensor, attention_mask: Any = "full", past_key_values: Kept | None = None,
        use_cache: bool = False, dual_cache: bool = False, replace_position: Tensor | None = None,
    ) -> SimpleNamespace:  # fmt: skip
        past = past_key_values and [tuple(table.transpose(1, 2) for table in layer) for layer in past_key_values]
        assert dual_cache == (replace_position is not None)
        made = self.model(input_ids, None, past, use_cache, replace_position)
        made.past_key_values = use_cache and [tuple(t.transpose(1, 2) for t in layer) for layer in made.past_key_values]
        return made


def build(seed: int = 0, kind: Any = LLaDAModelLM) -> Any:
    """Random weights, large enough that confidences differ clearly."""
    torch.manual_seed(seed)
    small = {"vocab_size": 60, "embedding_size": 60, "mask_token_id": MASK, "eos_token_id": 2}
    model = kind(config(**small)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return model


@torch.no_grad()
def cached(
    model: Any, prompt: Tensor, steps: int, new: int, block: int, dual: bool, threshold: float | None,
    factor: float | None = None,
) -> Tensor:  # fmt: skip
    """``generate_with_dual_cache`` and ``generate_with_prefix_cache``; factor: the paper's rule."""
    x = F.pad(prompt, (0, new), value=MASK)
    steps //= new // block
    for start in range(prompt.shape[1], x.shape[1], block):
        stop, kept = start + block, None
        shares = [block // steps + (n < block % steps) for n in range(steps)] + [0]
        step = 0
        while step == 0 or bool((x[:, start:stop] == MASK).any()):
            first, last = (0, x.shape[1]) if step == 0 else (start, stop if dual else x.shape[1])
            where = torch.zeros_like(x, dtype=torch.bool)
            where[:, start:stop] = True
            more = {} if step == 0 else {"past_key_values": kept, **({"replace_position": where} if dual else {})}
            made = model(x[:, first:last], use_cache=True, **more)
            if step == 0:
                kept = [tuple(t if dual else t[:, :, :start] for t in layer) for layer in made.past_key_values]
            sure, best = made.logits.double().softmax(-1).max(-1)
            open_ = where[:, first:last] & (x[:, first:last] == MASK)
            ranked = sure.masked_fill(~open_, -torch.inf)[0].argsort(descending=True)
            chosen = ranked[: shares[step]]
            if threshold is not None:
                chosen = ranked[: max(1, int((sure[open_] >= threshold).sum()))]
            if factor is not None:
                wanted = [float(sure[0, at]) >= 1 - factor / (rank + 2) for rank, at in enumerate(ranked.tolist())]
                chosen = ranked[: min(max(1, (*wanted, False).index(False)), int(open_.sum()))]
            x[0, first + chosen] = best[0, chosen]
            step += 1
    return x


@torch.no_grad()
def dream_cached(
    model: Any, prompt: Tensor, steps: int, new: int, block: int, dual: bool, threshold: float | None
) -> Tensor:
    """``diffusion_generate`` of Dream with a cache: by threshold, or as many as Dream's times say, by entropy."""
    x = F.pad(prompt, (0, new), value=MASK)
    steps //= new // block
    times = torch.linspace(1, 1e-3, steps + 1)
    for start in range(prompt.shape[1], x.shape[1], block):
        stop = start + block
        made = model(x, use_cache=True)
        x[0, start] = made.logits[0, start - 1].argmax()
        kept = [tuple(t if dual else t[:, :start] for t in layer) for layer in made.past_key_values]
        where = torch.zeros_like(x, dtype=torch.bool)
        where[:, start:stop] = True
        for step in range(1, 1000):
            open_ = x[0, start:stop] == MASK
            if not open_.any():
                break
            more = {"replace_position": where, "dual_cache": True} if dual else {}
            logits = model(x[:, start : stop if dual else None], past_key_values=kept, use_cache=True, **more).logits
            probs = F.pad(logits[0, : block - 1], (0, 0, 1, 0)).double().softmax(-1)
            sure = probs.max(-1).values if threshold is not None else -torch.special.entr(probs).sum(-1)
            ranked = sure.masked_fill(~open_, -torch.inf).argsort(descending=True)
            count = max(1, int((sure[open_] >= (threshold or 0)).sum()))
            if threshold is None:
                left = int(open_.sum())
                count = int(left * (1 - times[step + 1] / times[step])) if step < steps - 1 else left
            x[0, start + ranked[:count]] = probs.argmax(-1)[ranked[:count]]
    return x
