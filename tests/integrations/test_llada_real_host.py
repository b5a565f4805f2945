"""Our ``generate`` and adapter on the host's own code.

    PRISM_HOST_LLADA=<checkout of ML-GSAI/LLaDA> PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest -m real_host

LLaDA gives generate.py; its modeling code lives with the weights, dllm carries a copy that honours the attention mask.
"""

import copy
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from prism_plugin.integrations.llada import LLaDADenoiser, generate, load
from prism_plugin.integrations.llada.toy import EOS, MASK, VOCAB_SIZE, examples
from prism_plugin.integrations.llada.train_tiny import remote_code
from tests.hosts.llada_like import modeling, restated

pytestmark = pytest.mark.real_host


def checkout(name: str) -> Path:
    if name not in os.environ:
        pytest.skip(f"{name} names no checkout")
    return Path(os.environ[name])


@pytest.fixture(scope="module")
def host_generate() -> Any:
    spec = importlib.util.spec_from_file_location("llada_generate", checkout("PRISM_HOST_LLADA") / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate


@pytest.fixture(scope="module", params=["untied", "tied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """The real model class with random weights, saved and loaded as a checkpoint; confidences differ clearly."""
    folder = tmp_path_factory.mktemp("llada") / request.param
    remote_code(checkout("PRISM_HOST_DLLM"), folder, VOCAB_SIZE, weight_tying=request.param == "tied")
    torch.manual_seed(0)
    built = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    built.save_pretrained(folder)
    remote_code(checkout("PRISM_HOST_DLLM"), folder, VOCAB_SIZE, weight_tying=request.param == "tied")
    return load(folder, trust_remote_code=True, dtype=torch.float32)


CALLS: list[dict[str, Any]] = [
    {"steps": 8, "gen_length": 8, "block_length": 8},
    {"steps": 3, "gen_length": 8, "block_length": 8},
    {"steps": 6, "gen_length": 12, "block_length": 4},
    {"steps": 4, "gen_length": 8, "block_length": 4, "cfg_scale": 1.0},
    {"steps": 5, "gen_length": 8, "block_length": 8, "logits_eos_inf": True},
    {"steps": 5, "gen_length": 8, "block_length": 8, "confidence_eos_eot_inf": True},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_tokens_are_those_of_the_hosts_generate(host_generate: Any, model: torch.nn.Module, call: dict) -> None:
    prompt, attended, _ = examples(4, torch.Generator().manual_seed(1))
    expected = host_generate(model, prompt, attended, **call)
    assert torch.equal(generate(model, prompt, attended, **call), expected)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_confidences_equal_but_for_rounding_are_broken_as_the_host_does(
    host_generate: Any, model: torch.nn.Module, call: dict
) -> None:
    """A model sure of nearly everything, as trained ones are: confidences of 1 to within an ulp, many equal."""
    sure = copy.deepcopy(model)
    with torch.no_grad():
        sure.model.transformer.ln_f.weight.mul_(20)
    prompt, attended, _ = examples(6, torch.Generator().manual_seed(4))
    states: list[torch.Tensor] = []
    expected = host_generate(sure, prompt, attended, **call)
    result = generate(sure, prompt, attended, **call, numerics="host", callback=lambda s, v: states.append(s.written))
    assert torch.equal(result, expected)
    assert (states[-1][:, prompt.shape[1] :] == 1).float().mean() > 0.3


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_our_restatement_of_the_rule_is_the_hosts(host_generate: Any, call: dict) -> None:
    """What CI tests against is tested here."""
    host = modeling.build()
    prompt, attended, _ = examples(2, torch.Generator().manual_seed(2))
    assert torch.equal(restated.generate(host, prompt, attended, **call), host_generate(host, prompt, attended, **call))


def test_states_and_logits_are_the_models(model: torch.nn.Module) -> None:
    prompt, attended, answer = examples(3, torch.Generator().manual_seed(3))
    tokens = torch.cat([prompt, answer], dim=1).masked_fill(torch.cat([prompt, answer], dim=1) == EOS, MASK)
    padding = torch.nn.functional.pad(attended, (0, answer.shape[1]), value=1).bool()
    denoiser = LLaDADenoiser(model)
    index = torch.tensor([12, 40, -1])
    with torch.no_grad():
        expected = model(tokens, attention_mask=padding.long(), output_hidden_states=True)
        output = denoiser(tokens, padding)
        logits, rows = denoiser.project(output, index)
    torch.testing.assert_close(output.hidden, expected.hidden_states[-1], rtol=0, atol=0)
    assert rows.tolist() == [0, 1, -1]
    torch.testing.assert_close(logits[:2], expected.logits.flatten(0, 1)[index[:2]])
