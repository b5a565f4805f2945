"""What a token's absence would say: its posterior with it hidden, by the backbone itself, without a head.

Hiding one token a forward is exact and costs as many forwards as there are tokens. Hiding every G-th at once costs G:
the posterior then also misses the others of its group, which lie G visible tokens apart.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..models.denoiser import Denoiser, View


def groups(where: Tensor, count: int) -> Iterator[Tensor]:
    """What is hidden from each pass, (B, L) bool each: of the positions in ``where`` (B, L) those whose rank in the row
    is i modulo ``count``, i = 0, 1, …; every one alone where ``count`` is 0.

    A row's groups do not depend on the other rows: one with fewer positions has none in the last. Groups that no row
    has are left out, which takes the host one look at the device.
    """
    most = int(where.sum(dim=1).max()) if where.numel() else 0
    group = (where.cumsum(dim=1) - 1) % max(count or most, 1)
    for number in range(min(count or most, most)):
        yield where & (group == number)


def passes(
    denoiser: Denoiser, tokens: Tensor, where: Tensor, count: int, padding: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, View]]:
    """The passes of ``posterior``: the rows (R,) int64 that each goes over, what is hidden there (R, L), its view."""
    for hidden in groups(where, count):
        rows = hidden.any(dim=1).nonzero().squeeze(1)
        if len(rows):
            real = None if padding is None else padding[rows]
            text = tokens[rows].masked_fill(hidden[rows], denoiser.mask_id)
            yield rows, hidden[rows], View(denoiser, denoiser(text, real), real)


@torch.no_grad()
def posterior(
    denoiser: Denoiser, tokens: Tensor, where: Tensor, count: int = 8, padding: Tensor | None = None
) -> Tensor:
    """P(x_i = y_i | y with i and its group masked) of the tokens y (B, L) int64 in ``where`` (B, L) bool, 1 elsewhere.

    count: groups, a forward pass each (see ``groups``); 0 is the leave-one-out posterior, a pass for every token.
    padding (B, L) bool, True where a token is real. ``where`` is for visible tokens that may be hidden: leave prompts,
    padding and masks out. Returns (B, L) f32 in [0, 1]. No gradients; the denoiser's mode (dropout) is the caller's.
    """
    found = torch.ones(tokens.shape, device=tokens.device)
    for rows, hidden, view in passes(denoiser, tokens, where, count, padding):
        found[rows] = torch.where(hidden, view.probability(tokens[rows], hidden), found[rows])
    return found
