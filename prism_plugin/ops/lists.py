"""Chosen positions of a table as a list, and figures of a list as a table; -1 stands for nobody."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prism_plugin.ops._load import compiled

Rows = tuple[Tensor, Tensor, Tensor, Tensor]


def list_rows(where: Tensor, request: Tensor, place: Tensor, step: Tensor, size: int | None = None) -> Rows:
    """Chosen positions as (index, request, position, step), (N,) int64 each; see ``sample_rows``.

    where (B, L) bool; request, step (B,) and place (B, L) int64. index is b * L + i, rising. N is ``size``, which must
    be enough and is filled up by -1, or, without a size, the number of those chosen, for which a device has to wait.
    """
    op = torch.ops.prism.list_rows if _compiled(where) else list_rows_ref
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
    op = torch.ops.prism.spread if _compiled(values) else spread_ref
    return op(index, values, fill, shape)


def spread_ref(index: Tensor, values: Tensor, fill: float, shape: Sequence[int]) -> Tensor:
    table = values.new_full((torch.Size(shape).numel() + 1,), fill)
    table[index] = values  # what has no place goes to the last one
    return table[:-1].view(shape)


def live_rows(index: Tensor) -> tuple[Tensor, Tensor]:
    """Of flat indices (N,) int64: places that can be looked up, and which of them belongs to each, or -1."""
    op = torch.ops.prism.live_rows if _compiled(index) else live_rows_ref
    return op(index)


def live_rows_ref(index: Tensor) -> tuple[Tensor, Tensor]:
    return index.clamp(min=0), torch.arange(index.numel(), device=index.device).masked_fill(index < 0, -1)


def _compiled(table: Tensor) -> bool:
    return table.device.type == "cpu" and compiled()  # elsewhere a few launches more do not wait for one another
