"""The suite on the hosts' real modeling code, with random weights.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> PRISM_HOST_FAST_DLLM=<NVlabs/Fast-dLLM> PRISM_HOST_SDAR=<JetAstra/SDAR> \
    PRISM_HOST_DLLM_RL=<Gen-Verse/dLLM-RL> PRISM_HOST_FAST_DLLM_V2=<folder of the published Fast_dLLM_v2_7B> \
    PRISM_HOST_PROSECO=<kuleshov-group/proseco> PRISM_HOST_OPEN_DLLM=<pengzhangzhi/Open-dLLM> \
        pytest -m real_host tests/integrations/test_conformance_real.py

A checkout that no variable names is skipped. What the classes need of an older transformers is supplied by
``models.remote.fit``, as for a checkpoint. Open-dLLM imports torchdata.
"""

import copy
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from prism_plugin.integrations.block_causal import BlockCausalDenoiser
from prism_plugin.integrations.diffusers import LLaDA2Denoiser
from prism_plugin.integrations.dream import OpenDLLMDenoiser, diffusion_generate
from prism_plugin.testing import CHECKS, Case

from .laws import few_symbols, same_law
from .mdlm_law import bound, chi_square
from .real_models import HOSTS, build

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


def config_of(model: Any, **call: Any) -> Any:
    """The host's own class of settings."""
    module = sys.modules[type(model).diffusion_generate.__module__]
    made = getattr(module, "DreamGenerationConfig", None) or module.MDMGenerationConfig
    return made(**call, eps=1e-3, bos_token_id=1, eos_token_id=2, pad_token_id=0)


@pytest.mark.parametrize("alg", ["maskgit_plus", "entropy", "topk_margin"])
@pytest.mark.parametrize("steps", [3, 6, 8])
@pytest.mark.parametrize("name", ["dream", "open-dllm", "open-dllm-qwen3"])
def test_diffusion_generate_writes_the_hosts_own_tokens(
    models: dict[str, nn.Module], name: str, alg: str, steps: int
) -> None:
    """With the host's config, and with keywords alone; padded where the host reads the mask it is given."""
    model: Any = models.get(name) or models.setdefault(name, build(name))
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.3)  # entropies that are told apart by more than rounding
    mask = torch.tensor([59])  # a trained model gives the mask no weight, and ours leaves it out
    model.lm_head.register_forward_hook(lambda layer, states, logits: logits.index_fill(-1, mask, -1e4))
    prompt = torch.randint(3, 59, (2, 5), generator=torch.Generator().manual_seed(0))
    padded = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    call = {"max_new_tokens": 8, "steps": steps, "alg": alg, "temperature": 0.0, "mask_token_id": 59}
    config = config_of(model, **call)
    with torch.no_grad():
        for attended in (None, padded) if name == "dream" else (None,):
            own = model.diffusion_generate(prompt, copy.deepcopy(config), attention_mask=attended)
            assert torch.equal(diffusion_generate(model, prompt, config, attention_mask=attended), own)
            if name != "dream":  # whose copy fails in itself without a config
                if alg == "entropy":
                    del call["alg"]  # its default
                own = model.diffusion_generate(prompt, **call)
            assert torch.equal(diffusion_generate(model, prompt, attention_mask=attended, **call), own)


@pytest.mark.parametrize("alg", ["origin", "entropy"])
@pytest.mark.parametrize("name", ["dream", "open-dllm"])
def test_diffusion_generate_has_the_hosts_own_law(models: dict[str, nn.Module], name: str, alg: str) -> None:
    """Of the texts, and of the number of masks that the first step leaves."""
    model: Any = models.get(name) or models.setdefault(name, build(name))
    prompt = torch.randint(3, 59, (1, 4), generator=torch.Generator().manual_seed(0)).repeat(3000, 1)
    call = {"max_new_tokens": 4, "steps": 3, "alg": alg, "temperature": 0.8, "top_p": 0.9, "mask_token_id": 59,
            "output_history": True, "return_dict" if name == "dream" else "return_dict_in_generate": True}  # fmt: skip
    torch.manual_seed(0)
    with few_symbols(model), torch.no_grad():
        theirs = model.diffusion_generate(prompt, config_of(model, **call))
        ours = diffusion_generate(model, prompt, **call)
    same_law(theirs.sequences[:, -4:], ours.sequences[:, -4:])
    left = [(each.history[0] == 59).sum(dim=1) for each in (theirs, ours)]
    if alg == "origin":
        statistic, df = chi_square(*left)
        assert df == 4 and statistic < bound(df)
    else:
        assert torch.equal(*left)


@pytest.mark.parametrize("name", ["open-dllm", "open-dllm-qwen3"])
def test_open_dllm_sees_what_follows_where_its_own_code_does_not(models: dict[str, nn.Module], name: str) -> None:
    """Its own calls are causal with eager attention, and with a mask of two dimensions that hides a token."""
    model: Any = copy.deepcopy(models.get(name) or models.setdefault(name, build(name)))
    tokens = torch.randint(3, 59, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.index_fill(1, torch.tensor([7]), 58)
    real = torch.ones_like(tokens)
    real[0, :2] = 0
    denoiser = OpenDLLMDenoiser(model, 59)
    for attention, mask, causal in (("sdpa", None, False), ("sdpa", real, True), ("eager", None, True)):
        model.config._attn_implementation = attention
        with torch.no_grad():
            seen = None if mask is None else mask.bool()
            theirs = [model(each, attention_mask=mask, is_causal=False).logits for each in (tokens, changed)]
            ours = [denoiser(each, seen).hidden for each in (tokens, changed)]
        before = real.bool() & (torch.arange(8) < 7)
        assert torch.equal(*(logits[before] for logits in theirs)) == causal
        assert bool((ours[0] != ours[1]).any(dim=-1)[before].all())
