"""Shapes and dtypes of the compiled ops' results, for ``torch.compile`` and export. Imported once they are loaded."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake


@register_fake("prism::philox_uniform")
def _(seed: int, request: Tensor, position: Tensor, step: Tensor, stream: int, draw: int) -> Tensor:
    shape = torch.broadcast_shapes(request.shape, position.shape, step.shape)
    return request.new_empty(shape, dtype=torch.float64)


@register_fake("prism::select_lowest")
@register_fake("prism::select_highest")
def _(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


@register_fake("prism::remask_scatter_")
def _(tokens: Tensor, scores: Tensor, eligible: Tensor, counts: Tensor, mask_id: int) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


@register_fake("prism::fill_scatter_")
def _(tokens: Tensor, x0: Tensor, confidence: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    return confidence.new_empty(confidence.shape, dtype=torch.bool)


@register_fake("prism::fill_rows")
def _(tokens: Tensor, written: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(tokens), torch.empty_like(written), written.new_empty(written.shape, dtype=torch.bool)


@register_fake("prism::list_rows")
def _(where: Tensor, request: Tensor, place: Tensor, step: Tensor, size: int | None) -> tuple[Tensor, ...]:
    count = torch.library.get_ctx().new_dynamic_size() if size is None else size
    return tuple(request.new_empty(count) for _ in range(4))


@register_fake("prism::spread")
def _(index: Tensor, values: Tensor, fill: float, shape: list[int]) -> Tensor:
    return values.new_empty(shape)


@register_fake("prism::live_rows")
def _(index: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(index), torch.empty_like(index)


@register_fake("prism::even_split")
def _(step: Tensor, size: Tensor, steps: Tensor) -> Tensor:
    return torch.empty_like(step)


@register_fake("prism::end_step")
def _(step: Tensor, block: Tensor, block_step: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(step), torch.empty_like(block), torch.empty_like(block_step)


@register_fake("prism::sample_rows")
def _(logits: Tensor, rows: Tensor, request: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _figures(logits, rows, rest)


@register_fake("prism::lm_head_sample")
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, rows: Tensor, request: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _figures(hidden, rows, rest)


def _figures(like: Tensor, rows: Tensor, rest: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *_, given, margin, entropy, _stream = rest
    asked = (True, margin, entropy, given is not None)
    prob, *figures = (like.new_empty(rows.numel() if wanted else 0, dtype=torch.float32) for wanted in asked)
    gap, entropies, given_prob = figures
    return rows.new_empty(rows.numel()), prob, gap, entropies, given_prob
