"""Shapes and dtypes of the compiled ops' results, for ``torch.compile`` and export. Imported once they are loaded."""

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


@register_fake("prism::sample_rows")
def _(
    logits: Tensor, rows: Tensor, request: Tensor, position: Tensor, step: Tensor, seed: int, temperature: float,
    top_p: float, top_k: int, suppress: Tensor | None, untempered: bool, inclusive: bool, given: Tensor | None,
    margin: bool, entropy: bool, stream: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    asked = (True, margin, entropy, given is not None)
    prob, *figures = (logits.new_empty(rows.numel() if wanted else 0, dtype=torch.float32) for wanted in asked)
    return rows.new_empty(rows.numel()), prob, *figures
