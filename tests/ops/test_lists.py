"""Lists of chosen positions, tables of what was found there, where rows stand: compiled ops (where built) are the
references.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_plugin.ops import (
    end_step,
    end_step_ref,
    even_split,
    even_split_ref,
    fill_rows,
    fill_rows_ref,
    list_rows,
    list_rows_ref,
    live_rows,
    live_rows_ref,
    spread,
    spread_ref,
)


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


@given(st.integers(0, 4), st.integers(1, 70), st.integers(0, 3), st.integers(0, 999))
def test_what_is_filled_is_the_reference(rows: int, length: int, spare: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    tokens, written = whole(0, 9, length, rows).t(), torch.rand(rows, length, generator=generator)
    listed = (torch.rand(rows, length, generator=generator) < 0.7).flatten().nonzero()[:, 0]
    index = torch.cat([listed, listed.new_full((spare,), -1)])
    token, prob = whole(-1, 9, len(index)), torch.rand(len(index), generator=generator)
    rank = whole(-2, 3, len(index)) / 2.0  # with ties
    rank[torch.rand(len(index), generator=generator) < 0.2] = torch.nan
    for ranked in ((None, None), (rank, whole(-1, length + 2, rows))):
        before = tokens.clone(), written.clone()
        found, wanted = (op(tokens, written, index, token, prob, *ranked) for op in (fill_rows, fill_rows_ref))
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
        assert torch.equal(tokens, before[0]) and torch.equal(written, before[1]), "the text itself stays"
        filled = found[2]
        assert not ((found[0] != tokens) & ~filled).any()
        drawn = torch.zeros(rows * length, dtype=torch.bool)
        drawn[index[(index >= 0) & (token >= 0)]] = True
        most = drawn.view(rows, length).sum(1)
        counts = most if ranked[1] is None else ranked[1].clamp(min=0).minimum(most)
        assert torch.equal(filled.sum(1), counts) and not (filled & ~drawn.view(rows, length)).any()


@given(st.integers(0, 6), st.integers(0, 999))
def test_where_rows_stand_after_a_step_is_the_reference(rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    step, block, blocks = (torch.randint(0, 4, (rows,), generator=generator) for _ in range(3))
    budget = torch.randint(1, 4, (2, rows), generator=generator).t()[:, 0]
    block_step = (torch.rand(rows, generator=generator) * budget).long()
    for done in (None, torch.rand(rows, generator=generator) < 0.3):
        given = step, block, block_step, blocks, budget, done
        found, wanted = end_step(*given), end_step_ref(*given)
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
        ended = block >= blocks
        assert torch.equal(found[1][ended], block[ended]) and torch.equal(found[0], step + ~ended)
    size = torch.randint(0, 9, (2, rows), generator=generator)[1]
    assert torch.equal(even_split(block_step, size, budget), even_split_ref(block_step, size, budget))
    assert torch.equal(even_split(budget + step, size, budget), size), "all of them after the last step"


def test_what_is_of_another_shape_or_outside_is_refused() -> None:
    where, zero = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        list_rows(where, zero[:1], torch.zeros(2, 3, dtype=torch.long), zero)
    with pytest.raises(IndexError):
        spread(torch.tensor([6]), torch.ones(1), 0.0, (2, 2))
    text, known, one = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3), torch.ones(1, dtype=torch.long)
    with pytest.raises(IndexError):
        fill_rows(text, known, 7 * one, one, torch.ones(1))
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        fill_rows(text, known, one, torch.cat([one, one]), torch.ones(1))
    with pytest.raises((ValueError, RuntimeError)):
        even_split(zero, torch.ones_like(zero), zero)  # of no step
    with pytest.raises((ValueError, RuntimeError)):
        end_step(zero, zero, zero, zero, torch.zeros(3, dtype=torch.long))
