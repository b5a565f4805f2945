"""Selection and scatter: the compiled ops (where built) against the references, and both against the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.errors import PrismError
from prism_plugin.ops import (
    fill_scatter_,
    fill_scatter_ref_,
    remask_scatter_,
    remask_scatter_ref_,
    select_highest,
    select_highest_ref,
    select_lowest,
    select_lowest_ref,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.25, 0.25, 3e4, -3e4, math.inf, -math.inf, math.nan, 1e-6])


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores full of ties, NaN and infinities, in any dtype and stride; counts below 0 and above the eligible."""
    batch, length = draw(st.integers(0, 4)), draw(st.integers(0, 12))
    flat = draw(st.lists(VALUES, min_size=batch * length, max_size=batch * length))
    scores = torch.tensor(flat, dtype=draw(st.sampled_from(DTYPES))).view(batch, length)
    eligible = torch.tensor(
        draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length)), dtype=torch.bool
    )
    counts = torch.tensor(
        draw(st.lists(st.integers(-2, length + 2), min_size=batch, max_size=batch)), dtype=torch.int64
    )
    if draw(st.booleans()):
        scores = scores.repeat_interleave(3, dim=1)[:, ::3] if draw(st.booleans()) else scores.t().contiguous().t()
    return scores, eligible.view(batch, length), counts


def by_definition(scores: torch.Tensor, eligible: torch.Tensor, counts: torch.Tensor, highest: bool) -> torch.Tensor:
    chosen = torch.zeros_like(eligible)
    for b in range(len(scores)):
        keys = [-math.inf if math.isnan(value) else value for value in scores[b].tolist()]
        order = sorted(range(len(keys)), key=lambda i: (-keys[i] if highest else keys[i], i))
        for i in [i for i in order if eligible[b, i]][: max(0, int(counts[b]))]:
            chosen[b, i] = True
    return chosen


@settings(max_examples=120, deadline=None)
@given(problems())
def test_selection_is_the_definition(problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    lowest, highest = by_definition(*problem, highest=False), by_definition(*problem, highest=True)
    for select in (select_lowest, select_lowest_ref):
        assert torch.equal(select(*problem), lowest)
    for select in (select_highest, select_highest_ref):
        assert torch.equal(select(*problem), highest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_agree_with_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        scores = (torch.randn(6, 4099, generator=generator) * scale).to(dtype)
        scores[1] = scores[1].sigmoid()
        scores[2] = 0.5
        eligible = torch.rand(6, 4099, generator=generator) < 0.6
        counts = torch.tensor([0, 1, 17, 2000, 4099, -3])
        assert torch.equal(select_lowest(scores, eligible, counts), select_lowest_ref(scores, eligible, counts))
        assert torch.equal(select_highest(scores, eligible, counts), select_highest_ref(scores, eligible, counts))


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([torch.int64, torch.int32]), st.integers(-1, 50))
def test_scatters_write_what_they_select(problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor], dtype: torch.dtype,
                                         mask_id: int) -> None:  # fmt: skip
    scores, eligible, counts = problem
    tokens = torch.arange(scores.numel(), dtype=dtype).view(scores.shape)
    x0 = (tokens % 5 - 1).t().contiguous().t()  # -1: nothing to write
    for remask in (remask_scatter_, remask_scatter_ref_):
        changed = tokens.clone()
        chosen = remask(changed, scores, eligible, counts, mask_id)
        assert torch.equal(chosen, by_definition(*problem, highest=False))
        assert torch.equal(changed, torch.where(chosen, mask_id, tokens))
    for fill in (fill_scatter_, fill_scatter_ref_):
        changed = tokens.clone()
        chosen = fill(changed, x0, scores, eligible, counts)
        assert torch.equal(chosen, by_definition(scores, eligible & (x0 >= 0), counts, highest=True))
        assert torch.equal(changed, torch.where(chosen, x0, tokens))


def test_scatters_reach_strided_tokens() -> None:
    wide = torch.arange(24).view(2, 12)
    scores = torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
    chosen = remask_scatter_(wide[:, ::2], scores, torch.ones(2, 6, dtype=torch.bool), torch.tensor([2, 6]), 99)
    assert torch.equal(wide[:, ::2] == 99, chosen) and chosen.sum().item() == 8
    assert torch.equal(wide[:, 1::2], torch.arange(24).view(2, 12)[:, 1::2])


def test_wrong_inputs_are_named() -> None:
    scores, eligible, counts = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="eligible must be bool"):
        select_lowest(scores, eligible.float(), counts)
    with pytest.raises(ValueError, match=r"counts must be int64 \(2,\)"):
        select_highest(scores, eligible, counts[:1])
    with pytest.raises(ValueError, match="floating point"):
        select_lowest(scores.long(), eligible, counts)
    with pytest.raises(ValueError, match="int64 or int32"):
        remask_scatter_(scores, scores, eligible, counts, 0)
    with pytest.raises(PrismError, match="no gradient"):
        select_lowest(scores.requires_grad_(), eligible, counts)


def test_small_halves_are_told_apart_where_denormals_are_flushed() -> None:
    scores = torch.tensor([[0.0, 1e-6, 2e-6, -1e-6]], dtype=torch.float16)
    every = torch.ones_like(scores, dtype=torch.bool)
    torch.set_flush_denormal(True)
    try:
        lowest = select_lowest(scores, every, torch.tensor([1]))
        highest = select_highest(scores, every, torch.tensor([2]))
    finally:
        torch.set_flush_denormal(False)
    assert lowest.tolist() == [[False, False, False, True]] and highest.tolist() == [[False, True, True, False]]
