"""A cache saves work: exactly where blocks look back only, and by a stated approximation elsewhere."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.errors import ConfigError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.cache import BackboneCache, CacheConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.config import SamplerConfig, fitting
from prism_plugin.sampling.drive import generate

MASK, LENGTH = 11, 24


def model(block_causal: int = 0, **shape: object) -> PrismModel:
    torch.manual_seed(0)
    made = PrismModel(
        BackboneConfig(
            vocab_size=12, mask_id=MASK, length=LENGTH, hidden_size=32, num_layers=2, num_heads=2, cond_size=8,
            block_causal=block_causal, **shape,
        ),
        "none",
    ).eval()  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    attach_head(made, "dit")
    torch.nn.init.normal_(made.head.proj.weight)
    return made


def prompts(seed: int, rows: int = 3) -> torch.Tensor:
    tokens = torch.randint(MASK, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:, 5:] = MASK
    return tokens


@given(
    sampler=st.sampled_from(["prism", "random", "confidence", "self-likelihood", "p2-self", "prism-2pass"]),
    block_length=st.sampled_from([0, 8, 6]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_block_causal_tokens_equal_those_without_a_cache(sampler: str, block_length: int, seed: int) -> None:
    plain = model(block_causal=8)
    told = {"steps": 12, "block_length": block_length, "num_remask": 2, "seed": seed}
    config = SamplerConfig(**fitting(told, sampler))
    expected = generate(plain, prompts(seed), config)
    plain.cache = BackboneCache(plain.backbone, CacheConfig("prefix", block_length=8))
    found = generate(plain, prompts(seed), config)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.forwards, expected.forwards)
    if block_length:
        assert (found.cost < found.forwards).all()


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_after_any_change_a_block_causal_pass_is_the_uncached_one(data: st.DataObject) -> None:
    plain = model(block_causal=8)
    cache = BackboneCache(plain.backbone, CacheConfig("prefix", block_length=8))
    tokens = prompts(0)
    padding = None
    if data.draw(st.booleans()):
        padding = torch.arange(LENGTH) >= torch.tensor([[2], [0], [4]])
    for _ in range(4):
        for _ in range(data.draw(st.integers(0, 3))):
            row, column = data.draw(st.integers(0, 2)), data.draw(st.integers(0, LENGTH - 1))
            tokens = tokens.clone()
            tokens[row, column] = data.draw(st.integers(0, MASK))
        t = torch.zeros(3)
        with torch.no_grad():
            hidden, _, share = cache.run(tokens, padding, MASK)
            expected, _ = plain.backbone(tokens, t, padding)
        assert 0 < share <= 1
        real = torch.ones_like(tokens, dtype=torch.bool) if padding is None else padding
        assert torch.allclose(hidden[real], expected[real], atol=1e-4)


def test_a_block_sees_itself_and_those_before() -> None:
    plain = model(block_causal=8)
    tokens = prompts(0)
    with torch.no_grad():
        before = plain(tokens).hidden
        tokens[:, 12] = 0
        changed = ((plain(tokens).hidden - before).abs().amax(dim=(0, 2)) > 1e-6).tolist()
    assert changed == [False] * 8 + [True] * 16


@pytest.mark.parametrize("name", ["prefix", "dual"])
def test_a_cache_refreshed_at_every_pass_changes_nothing(name: str) -> None:
    plain = model()
    config = SamplerConfig("prism", steps=12, num_remask=2)
    expected = generate(plain, prompts(1), config)
    plain.cache = BackboneCache(plain.backbone, CacheConfig(name, block_length=4, refresh=1))
    found = generate(plain, prompts(1), config)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.cost, found.forwards.double())
    assert found.settings["cache"]["name"] == name and expected.settings["cache"] is None


def test_what_is_computed_anew() -> None:
    """Windows of a dual cache: the blocks that changed up to the one being written; all after a remask, or in turn."""
    plain = model()
    cache = BackboneCache(plain.backbone, CacheConfig("dual", block_length=8, refresh=4))
    tokens, windows = prompts(0, rows=1), []

    def look() -> None:
        windows.append(copy.copy(cache).window(tokens, None, MASK))
        cache.run(tokens, None, MASK)

    with torch.no_grad():
        look()
        tokens[0, 5] = 1
        look()
        tokens[0, 6:8] = 1
        look()  # the first block is full: the second is to be written
        tokens[0, 9] = 1
        look()
        tokens[0, 10] = 1
        look()  # the fifth pass
        tokens[0, 9] = MASK
        look()
    all_of_it = slice(0, LENGTH)
    assert windows == [all_of_it, slice(0, 8), slice(0, 16), slice(8, 16), all_of_it, all_of_it]
    cache.config.after_remask = False
    with torch.no_grad():
        tokens[0, 10] = MASK
        look()
        assert windows[-1] == slice(8, 16)
        cache.forget()
        look()
        assert windows[-1] == all_of_it


def test_a_cache_that_cannot_be_is_refused_naming_both() -> None:
    with pytest.raises(ConfigError, match=r"cache = dual .*block_causal = 8"):
        BackboneCache(model(block_causal=8).backbone, CacheConfig("dual", block_length=8))
    with pytest.raises(ConfigError, match=r"cache.block_length = 4 .*block_causal = 8"):
        BackboneCache(model(block_causal=8).backbone, CacheConfig("prefix", block_length=4))
    with pytest.raises(ConfigError, match=r"cache = prefix .*time_conditioning"):
        BackboneCache(model(time_conditioning=True).backbone, CacheConfig("prefix"))
    with pytest.raises(ConfigError, match=r"dual.*duel|duel.*dual"):
        CacheConfig("duel")
    with pytest.raises(ConfigError, match="refresh = -1"):
        CacheConfig("dual", refresh=-1)
