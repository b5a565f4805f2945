"""What holds for every preset, whatever its parts: hypothesis on exact tables."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prism_plugin.models.noise import Noise
from prism_plugin.sampling.config import SamplerConfig, fitting, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.parts import trained_for
from prism_plugin.sampling.presets import presets
from prism_plugin.sampling.simulate import ScheduleConfig, simulate
from tests.table_model import TableModel, chain

MODEL = functools.cache(chain)


def model_for(name: str, length: int) -> TableModel:
    """A table whose head is what the preset reads."""
    model = MODEL(length)
    model.trained = {"objective": trained_for(presets[name].get("score", "none"))}
    model.noise = Noise(float(presets[name].get("method") == "redraw"))
    return model


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Tensor, dict]:
    """Texts with some positions given, and settings."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    symbols = st.lists(st.integers(0, MODEL(length).mask_id), min_size=length, max_size=length)
    tokens = torch.tensor([draw(symbols) for _ in range(rows)])
    block = draw(st.integers(0, length + 1))
    changes = {
        "steps": draw(st.integers(length, 9)), "block_length": block, "seed": draw(st.integers(0, 99)),
        "num_remask": draw(st.integers(0, 3)),
    }  # fmt: skip
    return tokens, changes


@pytest.mark.parametrize("name", list(presets))
@settings(max_examples=8, deadline=None)
@given(task=tasks())
def test_every_preset(name: str, task: tuple[Tensor, dict]) -> None:
    tokens, changes = task
    model = model_for(name, tokens.shape[1])
    config, given_before = SamplerConfig(**fitting(changes, name)), tokens.clone()
    request = torch.arange(len(tokens)) * 7 + 3
    result = generate(model, tokens, config, request=request)
    editable = tokens == model.mask_id
    assert torch.equal(tokens, given_before)  # the caller's own is left alone
    assert torch.equal(result.tokens[~editable], tokens[~editable])
    assert not (result.tokens == model.mask_id).any()
    noise = model.noise.uniform > 0  # what it begins with nobody wrote
    assert torch.equal(result.fills - result.remasked, editable.sum(dim=1) * (not noise))
    assert (result.wasted <= result.remasked).all()
    assert torch.equal(generate(model, tokens, config, request=request).tokens, result.tokens)
    alone = [generate(model, tokens[i : i + 1], config, request=request[i : i + 1]) for i in range(len(tokens))]
    for field in ("tokens", "forwards", "fills", "remasked", "wasted"):
        assert torch.equal(torch.cat([getattr(row, field) for row in alone]), getattr(result, field)), field


@pytest.mark.parametrize("name", list(presets))
def test_the_seed_matters(name: str) -> None:
    model = model_for(name, 5)
    tokens = torch.full((40, 5), model.mask_id)
    config = SamplerConfig(name, steps=4)
    if resolve(config).temperature == 0:
        pytest.skip("nothing is drawn at temperature 0")
    texts = [generate(model, tokens, SamplerConfig(name, steps=4, seed=seed)).tokens for seed in (0, 1)]
    assert not torch.equal(*texts)


@pytest.mark.parametrize("name", list(presets))
def test_nothing_to_write_is_fine(name: str) -> None:
    model = model_for(name, 3)
    tokens = torch.tensor([[0, 1, 2], [model.mask_id, 1, 2]])
    result = generate(model, tokens, SamplerConfig(name, steps=4))
    assert torch.equal(result.tokens[0], tokens[0])
    assert result.forwards[0] == result.fills[0] == 0 and (result.fills[1] >= 1 or model.noise.uniform)
    empty = generate(model, torch.empty(0, 3, dtype=torch.long), SamplerConfig(name, steps=4))
    assert empty.tokens.shape == (0, 3)


@pytest.mark.parametrize("name", list(presets))
def test_every_preset_has_a_schedule_to_draw(name: str) -> None:
    """``prism schedule`` on a stub: what is filled less what is remasked is the text."""
    found = simulate(ScheduleConfig(length=12, texts=3, sampler=SamplerConfig(name, steps=6)))
    assert found["visible"][-1] == 12
    written = 0 if model_for(name, 5).noise.uniform else 12
    assert found["filled"].sum() - found["remasked"].sum() == pytest.approx(written)
