"""The suite on the hosts' real modeling code, with random weights.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> PRISM_HOST_FAST_DLLM=<NVlabs/Fast-dLLM> PRISM_HOST_SDAR=<JetAstra/SDAR> \
    PRISM_HOST_DLLM_RL=<Gen-Verse/dLLM-RL> PRISM_HOST_FAST_DLLM_V2=<folder of the published Fast_dLLM_v2_7B> \
    PRISM_HOST_PROSECO=<kuleshov-group/proseco> \
        pytest -m real_host tests/integrations/test_conformance_real.py

A checkout that no variable names is skipped. What the classes need of an older transformers is supplied by
``models.remote.fit``, as for a checkpoint.
"""

import copy
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from prism_plugin.integrations.block_causal import BlockCausalDenoiser
from prism_plugin.integrations.diffusers import LLaDA2Denoiser
from prism_plugin.integrations.dream import diffusion_generate
from prism_plugin.testing import CHECKS, Case

from .real_models import HOSTS, build, module

pytestmark = pytest.mark.real_host


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    """Built once each."""
    return {}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", HOSTS)
def test_conformance(models: dict[str, nn.Module], name: str, check: str) -> None:
    adapter = HOSTS[name][-1]
    model = models.get(name) or models.setdefault(name, build(name))
    more = {"block_length": 4} if adapter is BlockCausalDenoiser else {}

    def made(model: nn.Module, mask_id: int = 59) -> Any:
        return adapter(model, mask_id, **more)

    print(name, check, Case(made, model, vocabulary=range(3, 59)).run(check))


@pytest.mark.parametrize("name", ["llada2", "llada21"])
def test_a_pipelines_mask_becomes_block_causal_on_the_real_code(models: dict[str, nn.Module], name: str) -> None:
    """As diffusers' LLaDA2Pipeline calls it: a mask of two dimensions, positions by the column, a padded row."""
    model: Any = models.get(name) or models.setdefault(name, build(name))
    tokens = torch.randint(3, 59, (2, 12), generator=torch.Generator().manual_seed(0))
    denoiser = BlockCausalDenoiser(model, 59, block_length=4)
    pipe = SimpleNamespace(model=model, tokenizer=None, mask_token_id=59)
    for padded in (0, 4):
        attended = torch.ones_like(tokens)
        attended[0, :padded] = 0
        call = {"attention_mask": attended, "position_ids": torch.arange(12).expand(2, -1), "use_cache": False}
        real = attended.bool()
        with torch.no_grad():
            plain = model(tokens, **call).logits[real]
            logits, which = denoiser.project(denoiser(tokens, real), torch.arange(24))
            expected = logits[which].view(2, 12, -1)[real]
            made = LLaDA2Denoiser(pipe, block_length=4)
            torch.testing.assert_close(model(tokens, **call).logits[real], expected, atol=1e-4, rtol=1e-4)
            made.undo.pop()()
        assert not torch.allclose(plain, expected, atol=1e-2), "the model reads the pipeline's mask in another way"


@pytest.mark.parametrize("alg", ["maskgit_plus", "entropy"])
@pytest.mark.parametrize("steps", [3, 6, 8])
def test_dream_writes_the_hosts_own_tokens(models: dict[str, nn.Module], alg: str, steps: int) -> None:
    model: Any = models.get("dream") or models.setdefault("dream", build("dream"))
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.3)  # entropies that are told apart by more than rounding
    mask = torch.tensor([59])  # a trained model gives the mask no weight, and ours leaves it out
    model.lm_head.register_forward_hook(lambda layer, states, logits: logits.index_fill(-1, mask, -1e4))
    prompt = torch.randint(3, 59, (2, 5), generator=torch.Generator().manual_seed(0))
    padded = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    own_config = module(Path(os.environ["PRISM_HOST_DLLM"]) / "dllm/pipelines/dream/models", "generation_utils")
    call = {"max_new_tokens": 8, "steps": steps, "alg": alg, "temperature": 0.0, "mask_token_id": 59}
    config = own_config.DreamGenerationConfig(**call, eps=1e-3, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.no_grad():
        for rows, attended in ((prompt, None), (prompt, padded)):
            own = model.diffusion_generate(rows, copy.deepcopy(config), attention_mask=attended)
            assert torch.equal(diffusion_generate(model, rows, config, attention_mask=attended), own)
            assert torch.equal(diffusion_generate(model, rows, attention_mask=attended, **call), own)
