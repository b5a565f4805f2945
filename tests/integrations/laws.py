"""Whether two samplers above temperature 0 have one law: a model of a few symbols, chi-square over whole texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .mdlm_law import bound, chi_square

SYMBOLS = 4
FIRST = 3


@contextmanager
def few_symbols(model: Any, scale: float = 0.3) -> Iterator[None]:
    """While it lasts a model writes ``SYMBOLS`` ids from ``FIRST`` on, by its logits times ``scale``."""
    kept = slice(FIRST, FIRST + SYMBOLS)

    def only(layer: Any, states: Any, logits: Tensor) -> Tensor:
        made = torch.full_like(logits, -1e4)
        made[..., kept] = logits[..., kept] * scale
        return made

    handle = model.get_output_embeddings().register_forward_hook(only)
    try:
        yield
    finally:
        handle.remove()


def same_law(theirs: Tensor, ours: Tensor) -> None:
    """Texts (N, L) of one law: chi-square over whole texts, below what chance exceeds once in 100,000."""
    place = SYMBOLS ** torch.arange(theirs.shape[1])
    first, second = (((texts - FIRST) * place).sum(-1) for texts in (theirs, ours))
    statistic, df = chi_square(first, second)
    print(f"chi-square {statistic:.1f}, df {df}, bound {bound(df):.1f}")
    assert df > SYMBOLS and statistic < bound(df)
