"""Block-causal hosts on classes of transformers that take the same mask and cache: the suite, and what is kept."""

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin import enable
from prism_plugin.errors import ConfigError
from prism_plugin.integrations.block_causal import BlockCausalDenoiser
from prism_plugin.integrations.diffusers import LLaDA2Denoiser
from prism_plugin.models.cache import CacheConfig
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.config import fitting
from prism_plugin.testing import CHECKS, Case

MASK, SIZE = 59, 4


class LLaDA2MoeModelLM(transformers.Qwen3ForCausalLM):
    """A stand-in by its name: Qwen3 adds a (B, 1, L, L) mask to its scores, as LLaDA2 does, and keeps as it does."""


class Fast_dLLM_QwenForCausalLM(transformers.Qwen2ForCausalLM):  # noqa: N801  (the host's own name)
    """A stand-in for its face: its mask is made of ``block_size``, and it keeps where ``update_past_key_values`` is."""

    def forward(self, input_ids: Any, past_key_values: Any = None, block_size: int = 32, use_cache: Any = None,
                update_past_key_values: bool = False, **kwargs: Any) -> Any:  # fmt: skip
        """See the class."""
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        given = past_key_values if update_past_key_values else copy.deepcopy(past_key_values)
        block = torch.arange(before + input_ids.shape[1]) // block_size
        mask = (block[None, :] <= block[before:, None])[None, None]
        return super().forward(
            input_ids, attention_mask=mask, past_key_values=given, use_cache=given is not None,
            position_ids=torch.arange(before, len(block))[None],
        )  # fmt: skip


def build(kind: Any = LLaDA2MoeModelLM) -> Any:
    torch.manual_seed(0)
    config = kind.config_class(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1) + (parameter.ndim == 1))
    return model


def adapter(model: Any, mask_id: int = MASK) -> BlockCausalDenoiser:
    return BlockCausalDenoiser(model, mask_id, block_length=SIZE)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", [LLaDA2MoeModelLM, Fast_dLLM_QwenForCausalLM])
def test_the_suite(kind: Any, check: str) -> None:
    print(kind.__name__, check, Case(adapter, build(kind), vocabulary=range(3, MASK)).run(check))


@given(
    sampler=st.sampled_from(["prism", "confidence", "random-remask", "self-likelihood", "p2-self", "prism-2pass"]),
    block_length=st.sampled_from([0, 4, 6, 8]),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_tokens_equal_those_without_a_cache(sampler: str, block_length: int, padded: bool, seed: int) -> None:
    tokens = torch.randint(3, MASK, (3, 24), generator=torch.Generator().manual_seed(seed))
    tokens[:, 5:] = MASK
    padding = torch.arange(24) >= torch.tensor([[2], [0], [3]]) if padded else None
    told = {"steps": 12, "block_length": block_length, "num_remask": 2, "seed": seed}
    told = {name: value for name, value in fitting({**told, "name": sampler}, sampler).items() if name != "name"}
    for kind in (LLaDA2MoeModelLM, Fast_dLLM_QwenForCausalLM)[: 1 if padded else 2]:
        denoiser = adapter(build(kind))
        torch.manual_seed(0)
        attach_head(denoiser, "mlp")
        plain = enable(denoiser).generate(tokens, sampler, padding=padding, **told)
        denoiser.cache = denoiser.new_cache(CacheConfig("prefix"))
        kept = enable(denoiser).generate(tokens, sampler, padding=padding, **told)
        assert torch.equal(kept.tokens, plain.tokens) and torch.equal(kept.forwards, plain.forwards)
        assert (kept.cost <= plain.cost).all() and (not block_length or (kept.cost < plain.cost).all())


def test_finished_blocks_and_those_not_begun_are_not_computed() -> None:
    denoiser = adapter(build())
    prism = enable(denoiser, sampler="confidence", cache="prefix", steps=20, block_length=SIZE)
    widths: list[int] = []
    denoiser.host.register_forward_pre_hook(
        lambda module, args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    tokens = torch.randint(3, MASK, (1, 24), generator=torch.Generator().manual_seed(0))
    tokens[:, SIZE:] = MASK
    result = prism.generate(tokens)
    assert widths[0] == 2 * SIZE and widths[-1] == SIZE, "the prompt with the first block, then a block or two"
    assert max(widths) == 2 * SIZE and float(result.cost) == pytest.approx(sum(widths) / 24)
    # A score after that is of all positions, and is not of what the run left behind.
    denoiser.cache.forget()
    torch.testing.assert_close(prism.score(result.tokens), enable(adapter(build()), sampler="confidence").score(
        result.tokens
    ))  # fmt: skip


@pytest.mark.parametrize("config", [CacheConfig("dual"), CacheConfig("prefix", block_length=8)])
def test_a_cache_that_would_be_wrong_is_refused(config: CacheConfig) -> None:
    with pytest.raises(ConfigError, match=r"would be wrong on a backbone with block_causal = 4"):
        enable(adapter(build()), cache=config, sampler="confidence")


def test_the_mask_and_the_blocks_of_fast_dllm_v2_are_its_own() -> None:
    model = build(Fast_dLLM_QwenForCausalLM)
    with pytest.raises(ConfigError, match="151665 is outside the vocabulary"):
        BlockCausalDenoiser(model)
    model.config.bd_size = 6
    assert BlockCausalDenoiser(model, MASK).block_length == 6 and BlockCausalDenoiser.matches(model)
    assert partial(BlockCausalDenoiser.loads, {"architectures": ["Fast_dLLM_QwenForCausalLM"]})()
    assert "padding" not in BlockCausalDenoiser(model, MASK).gives


def test_a_pipelines_mask_of_two_dimensions_becomes_block_causal() -> None:
    model = build()
    pipe = SimpleNamespace(model=model, tokenizer=None, mask_token_id=MASK)
    tokens = torch.randint(3, MASK, (2, 12), generator=torch.Generator().manual_seed(0))
    attended = torch.ones_like(tokens)
    attended[0, :SIZE] = 0  # a block of padding, so that both count the same blocks
    call = {"attention_mask": attended, "position_ids": torch.arange(12).expand(2, -1)}
    denoiser = adapter(model)
    index = torch.arange(24).view(2, 12)
    with torch.no_grad():
        plain = model(tokens, **call).logits
        logits, which = denoiser.project(denoiser(tokens, attended.bool()), index.flatten())
        expected = logits[which].view(2, 12, -1)
        made = LLaDA2Denoiser(pipe, block_length=SIZE)
        found = model(tokens, **call).logits
        torch.testing.assert_close(found[attended.bool()], expected[attended.bool()], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(plain[attended.bool()], expected[attended.bool()], atol=1e-2)
        assert torch.equal(made.take("attended"), attended)
        made.undo.pop()()
        assert torch.equal(model(tokens, **call).logits, plain)
