"""Which positions of a row to touch: the k lowest or highest scores among the eligible, k its own in every row."""

import torch
from torch import Tensor

from prism_plugin.ops._load import by_one_op, compiled, refuse_gradient
from prism_plugin.ops.lists import spread


def select_lowest(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """Mark the ``counts[b]`` lowest-scored eligible positions of every row.

    scores (B, L) f32, f64, bf16 or f16, where NaN counts as -inf (lowest) and ties go to the lower index;
    eligible (B, L) bool; counts (B,) int64, clamped to [0, number eligible]. Returns (B, L) bool.
    """
    _check("select_lowest", scores, eligible, counts)
    if compiled(scores.device.type):
        return torch.ops.prism.select_lowest(scores, eligible, counts)
    return select_lowest_ref(scores, eligible, counts)


def select_lowest_ref(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    return _first(_keys(scores), eligible, counts)


def select_highest(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """Mark the ``counts[b]`` highest-scored eligible positions: as ``select_lowest``, with NaN (-inf) marked last."""
    _check("select_highest", scores, eligible, counts)
    if compiled(scores.device.type):
        return torch.ops.prism.select_highest(scores, eligible, counts)
    return select_highest_ref(scores, eligible, counts)


def select_highest_ref(scores: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    return _first(-_keys(scores), eligible, counts)


def remask_scatter_(tokens: Tensor, scores: Tensor, eligible: Tensor, counts: Tensor, mask_id: int) -> Tensor:
    """Overwrite the ``select_lowest`` positions of tokens (B, L), int64 or int32, by ``mask_id``, in place.

    Returns the positions remasked, (B, L) bool.
    """
    _check("remask_scatter_", scores, eligible, counts, tokens)
    if compiled(scores.device.type):
        return torch.ops.prism.remask_scatter_(tokens, scores, eligible, counts, mask_id)
    return remask_scatter_ref_(tokens, scores, eligible, counts, mask_id)


def remask_scatter_ref_(tokens: Tensor, scores: Tensor, eligible: Tensor, counts: Tensor, mask_id: int) -> Tensor:
    chosen = select_lowest_ref(scores, eligible, counts)
    tokens.masked_fill_(chosen, mask_id)
    return chosen


def fill_scatter_(tokens: Tensor, x0: Tensor, confidence: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """Write x0 into the ``select_highest`` positions of tokens (both (B, L), of one integer dtype), in place.

    A position whose x0 is negative (``sample_rows`` had nothing to draw from) is not eligible.
    Returns the positions filled, (B, L) bool.
    """
    _check("fill_scatter_", confidence, eligible, counts, tokens, x0)
    if compiled(confidence.device.type):
        return torch.ops.prism.fill_scatter_(tokens, x0, confidence, eligible, counts)
    return fill_scatter_ref_(tokens, x0, confidence, eligible, counts)


def fill_scatter_ref_(tokens: Tensor, x0: Tensor, confidence: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    chosen = select_highest_ref(confidence, eligible & (x0 >= 0), counts)
    tokens.copy_(torch.where(chosen, x0, tokens))
    return chosen


def fill_rows(
    tokens: Tensor,
    written: Tensor,
    index: Tensor,
    token: Tensor,
    prob: Tensor,
    rank: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write what was drawn for a list of places (``list_rows``) into a copy of a text: all, or each row's best.

    tokens (B, L) int64 and written (B, L) f32, what their probabilities were; index (N,) int64, flat places, each once
    or -1 for none, with token (N,) int64, -1 where nothing was drawn, and prob (N,) f32. Of a row the ``counts[b]``
    highest rank (N,) f32 are written, as ``select_highest`` has it; without both, all. Returns tokens and written as
    they are then, and where that was, (B, L) bool.
    """
    op = torch.ops.prism.fill_rows if by_one_op(tokens) else fill_rows_ref
    return op(tokens, written, index, token, prob, rank, counts)


def fill_rows_ref(
    tokens: Tensor, written: Tensor, index: Tensor, token: Tensor, prob: Tensor, rank: Tensor | None,
    counts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of ops that a device has."""
    x0, after = spread(index, token, -1, tokens.shape), tokens.clone()
    if rank is None or counts is None:
        filled = x0 >= 0
        after = torch.where(filled, x0, after)
    else:
        table = spread(index, rank, -torch.inf, tokens.shape)
        filled = fill_scatter_(after, x0, table, torch.ones_like(table, dtype=torch.bool), counts)
    return after, torch.where(filled, spread(index, prob, 0.0, tokens.shape), written), filled


def _keys(scores: Tensor) -> Tensor:
    scores = scores.double()
    return scores.masked_fill(scores.isnan(), -torch.inf)


def _first(keys: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    order = keys.argsort(dim=-1, stable=True)
    allowed = eligible.gather(-1, order)
    chosen = allowed & (allowed.cumsum(-1) <= counts[:, None])
    return torch.zeros_like(eligible).scatter(-1, order, chosen)


def _check(op: str, scores: Tensor, eligible: Tensor, counts: Tensor, *tokens: Tensor) -> None:
    refuse_gradient(op, scores)
    if scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(f"{op}: scores must be floating point (B, L), not {scores.dtype} {tuple(scores.shape)}.")
    if eligible.shape != scores.shape or eligible.dtype != torch.bool:
        raise ValueError(
            f"{op}: eligible must be bool {tuple(scores.shape)}, not {eligible.dtype} {tuple(eligible.shape)}."
        )
    if counts.shape != scores.shape[:1] or counts.dtype != torch.int64:
        raise ValueError(
            f"{op}: counts must be int64 {tuple(scores.shape[:1])}, not {counts.dtype} {tuple(counts.shape)}."
        )
    for ids in tokens:
        if ids.shape != scores.shape or ids.dtype not in (torch.int64, torch.int32) or ids.dtype != tokens[0].dtype:
            raise ValueError(
                f"{op}: token ids must be int64 or int32 (one dtype) {tuple(scores.shape)}, "
                f"not {ids.dtype} {tuple(ids.shape)}."
            )
