"""Chosen positions of a table as a list, figures of a list as a table (-1 stands for nobody), and where rows stand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prism_plugin.ops._load import by_one_op

Rows = tuple[Tensor, Tensor, Tensor, Tensor]


def list_rows(where: Tensor, request: Tensor, place: Tensor, step: Tensor, size: int | None = None) -> Rows:
    """Chosen positions as (index, request, position, step), (N,) int64 each; see ``sample_rows``.

    where (B, L) bool; request, step (B,) and place (B, L) int64. index is b * L + i, rising. N is ``size``, which must
    be enough and is filled up by -1, or, without a size, the number of those chosen, for which a device has to wait.
    """
    op = torch.ops.prism.list_rows if by_one_op(where) else list_rows_ref
    return op(where, request, place, step, size)


def list_rows_ref(where: Tensor, request: Tensor, place: Tensor, step: Tensor, size: int | None = None) -> Rows:
    flat = where.flatten()
    if size is None:
        index = flat.nonzero().squeeze(1)
    else:
        number = torch.where(flat, flat.cumsum(0) - 1, size)
        index = request.new_full((size + 1,), -1)
        index = index.scatter(0, number, torch.arange(len(flat), device=flat.device))[:-1]
    row = index // where.shape[1]
    return index, request[row], place.flatten()[index], step[row]


def spread(index: Tensor, values: Tensor, fill: float, shape: Sequence[int]) -> Tensor:
    """Values (N,) at flat places (N,) int64 of a table of that shape, ``fill`` elsewhere; -1 is no place."""
    op = torch.ops.prism.spread if by_one_op(values) else spread_ref
    return op(index, values, fill, shape)


def spread_ref(index: Tensor, values: Tensor, fill: float, shape: Sequence[int]) -> Tensor:
    table = values.new_full((torch.Size(shape).numel() + 1,), fill)
    table[index] = values  # what has no place goes to the last one
    return table[:-1].view(shape)


def live_rows(index: Tensor) -> tuple[Tensor, Tensor]:
    """Of flat indices (N,) int64: places that can be looked up, and which of them belongs to each, or -1."""
    op = torch.ops.prism.live_rows if by_one_op(index) else live_rows_ref
    return op(index)


def live_rows_ref(index: Tensor) -> tuple[Tensor, Tensor]:
    return index.clamp(min=0), torch.arange(index.numel(), device=index.device).masked_fill(index < 0, -1)


def even_split(step: Tensor, size: Tensor, steps: Tensor) -> Tensor:
    """How many of ``size`` are done after step number ``step`` (from 0) of ``steps`` >= 1, int64 of one shape each.

    Evenly, the first size % steps steps one more; all of them after the last.
    """
    op = torch.ops.prism.even_split if by_one_op(step) else even_split_ref
    return op(step, size, steps)


def even_split_ref(step: Tensor, size: Tensor, steps: Tensor) -> Tensor:
    done = torch.minimum(step + 1, steps)
    return size // steps * done + torch.minimum(done, size % steps)


def end_step(
    step: Tensor, block: Tensor, block_step: Tensor, blocks: Tensor, budget: Tensor, done: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """step, block and block_step after a step of every row that is not finished, (B,) int64 each.

    Of its ``blocks`` (B,) a row has come to ``block`` (B,), has taken ``block_step`` (B,) steps in it and ``step`` (B,)
    in all. One that has used the block's ``budget`` (B,), or is ``done`` (B,) bool, goes on to its next block.
    """
    op = torch.ops.prism.end_step if by_one_op(step) else end_step_ref
    return op(step, block, block_step, blocks, budget, done)


def end_step_ref(
    step: Tensor, block: Tensor, block_step: Tensor, blocks: Tensor, budget: Tensor, done: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    active = block < blocks
    step, block_step = step + active, block_step + active
    over = block_step >= budget
    over = active & (over if done is None else over | done)
    return step, block + over, block_step.masked_fill(over, 0)
