"""Lists of chosen positions and tables of what was found there: the compiled ops (where built) are the references."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_plugin.ops import list_rows, list_rows_ref, live_rows, live_rows_ref, spread, spread_ref


@given(st.integers(0, 4), st.integers(1, 9), st.integers(0, 3), st.integers(0, 99))
def test_lists_and_tables_are_the_references(rows: int, length: int, spare: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(length, rows, generator=generator).t() < 0.5
    place = torch.randint(-5, 99, (rows, length), generator=generator)
    request, step = (torch.randint(-5, 99, (rows,), generator=generator) for _ in range(2))
    for size in (None, int(where.sum()) + spare if rows else 0):
        found, expected = (op(where, request, place, step, size) for op in (list_rows, list_rows_ref))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        index = found[0][torch.randperm(len(found[0]), generator=generator)]
        assert all(torch.equal(*pair) for pair in zip(live_rows(index), live_rows_ref(index), strict=True))
        for dtype, fill in ((torch.int64, -1), (torch.float32, torch.inf), (torch.float64, -torch.inf)):
            values = torch.rand(len(index), generator=generator).mul(9).to(dtype)
            assert torch.equal(
                spread(index, values, fill, (rows, length)), spread_ref(index, values, fill, (rows, length))
            )


def test_what_is_of_another_shape_or_outside_is_refused() -> None:
    where, zero = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        list_rows(where, zero[:1], torch.zeros(2, 3, dtype=torch.long), zero)
    with pytest.raises(IndexError):
        spread(torch.tensor([6]), torch.ones(1), 0.0, (2, 2))
