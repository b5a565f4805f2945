"""vLLM's plugin: the policy on a stand-in of its contract, or on a checkout that PRISM_HOST_VLLM_DLLM names."""

import importlib
import os
from pathlib import Path

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.integrations import blocks
from prism_plugin.integrations.vllm_dllm import PrismRemaskingPolicy
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate

from .engines import imported

HERE = ["mdlm", "confidence", "threshold", "random-remask", "self-likelihood", "remdm-cap", "p2-self", "saber", "prism"]
REMEMBERS = ["remdm-conf", "rcr", "t2m", "t2t", "self-likelihood-mean", "tolerator", "wino", "gibbs"]


class Neighbours(Denoiser):
    """Logits of a position from the tokens beside it."""

    vocab_size, mask_id, hidden_size, max_length = 9, 8, 1, 64

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.left, self.right, self.at = (torch.randn(n, 9, generator=draw) * 2 for n in (9, 9, 32))

    def forward(self, tokens, padding=None):
        logits = self.left[tokens.roll(1, 1)] + self.right[tokens.roll(-1, 1)] + self.at
        return Output(logits[..., :0], None, logits)


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def host(request):
    """Runs one step as the plugin does after a forward."""
    folder = Path(__file__).parents[1] / "hosts/vllm_like"
    if request.param == "real":
        if not os.environ.get("PRISM_HOST_VLLM_DLLM"):
            pytest.skip("PRISM_HOST_VLLM_DLLM names no checkout")
        folder = Path(os.environ["PRISM_HOST_VLLM_DLLM"])
    real = ["vllm_dllm_plugin.config", "vllm_dllm_plugin.remasking"]
    with imported(folder / "vllm_dllm_plugin", real):
        if request.param == "stand-in":
            yield lambda policy, **given: policy.apply(**given)
        else:
            handoff = importlib.import_module("vllm_dllm_plugin.remasking.handoff")
            base = importlib.import_module("vllm_dllm_plugin.remasking.base")
            assert isinstance(PrismRemaskingPolicy(), base.RemaskingPolicy)
            yield lambda policy, **given: handoff.remask_after_block_forward(policy=policy, **given)


@pytest.mark.parametrize("name", HERE)
def test_a_block_comes_out_as_by_our_own_loop(host, name):
    model, masks = Neighbours(), torch.full((1, 32), 8)
    policy = PrismRemaskingPolicy(name, steps=12, seed=2)
    config = SamplerConfig(name, steps=12, seed=2, score=policy.config.score)
    ours = generate(model, masks, config, request=torch.tensor([blocks.key("a/0")])).tokens[0].tolist()
    draft, calls = [8] * 32, 0
    while True:
        logits = model(torch.tensor([draft])).logits[0]
        given = {"mask_token_id": 8, "denoise_step_index": calls, "request": "a/0"}
        done = host(policy, input_draft=draft, logits=logits, remasking_config=given)
        calls += 1
        if done.committed_token_ids:
            break
        draft = list(done.next_input_block)
    assert calls <= 12
    assert list(done.committed_token_ids) == ours
    assert done.next_input_block == (8,) * 32


@pytest.mark.parametrize("name", REMEMBERS)
def test_a_sampler_with_a_memory_is_refused_by_name(host, name):
    with pytest.raises(ConfigError, match=f"sampler = {name} cannot run here"):
        PrismRemaskingPolicy(name)


@pytest.mark.parametrize("missing", ["mask_token_id", "denoise_step_index", "request"])
def test_what_apply_cannot_know_must_be_said(host, missing):
    given = {"mask_token_id": 8, "denoise_step_index": 0, "request": "a"}
    del given[missing]
    with pytest.raises(ConfigError, match=missing):
        host(PrismRemaskingPolicy(), input_draft=[8] * 32, logits=torch.zeros(32, 9), remasking_config=given)
