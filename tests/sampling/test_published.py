"""Whole texts, token for token, against the published code, where a variable of the environment names its checkout.

    PRISM_HOST_WINO=… PRISM_HOST_SABER=… PRISM_HOST_PROSECO=… PRISM_HOST_MDPO=… PRISM_HOST_DINFER=… PRISM_HOST_DLLM=… \\
        pytest -m real_host tests/sampling/test_published.py

Feng-Hong/WINO-DLLM, zhaoyMa/Saber, kuleshov-group/proseco, autonomousvision/mdpo (RCR), inclusionAI/dInfer,
ZHZisZZ/dllm (LLaDA 2.1). All run our own backbone, with random weights, at temperature 0.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Layout, View
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.methods import Parts
from prism_plugin.sampling.state import State

pytestmark = pytest.mark.real_host
SYMBOLS, PROMPT = 24, 4


def load(variable: str, file: str, package: str = "") -> Any:
    """A module of a checkout; ``package`` stands for the one that its relative imports name."""
    if variable not in os.environ:
        pytest.skip(f"no checkout of the published code on this machine: {variable} is not set")
    path = Path(os.environ[variable]) / file
    name = f"{package}.{path.stem}" if package else path.stem
    if package and package not in sys.modules:
        parent = types.ModuleType(package)
        parent.__path__ = [str(path.parent)]
        sys.modules[package] = parent
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Host:
    """Our backbone, called as these codes call LLaDA."""

    device = torch.device("cpu")

    def __init__(self, model: PrismModel) -> None:
        self.model = model

    def __call__(self, x: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> Any:
        layout = None
        if position_ids is not None:
            assert attention_mask is not None
            seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
            layout = Layout(position_ids.view(1, -1), seen[0])
        with torch.no_grad():
            return types.SimpleNamespace(logits=self.model.backbone.logits(*self.model.backbone(x, layout=layout)))


@pytest.fixture(scope="module")
def model() -> PrismModel:
    torch.manual_seed(3)
    config = BackboneConfig(
        vocab_size=SYMBOLS + 1, mask_id=SYMBOLS, length=64, hidden_size=64, num_layers=2, num_heads=4
    )
    built = PrismModel(config, "none").eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    return built


def prompts(rows: int) -> Tensor:
    return torch.randint(SYMBOLS, (rows, PROMPT), generator=torch.Generator().manual_seed(1))


def ours(model: PrismModel, rows: int, length: int, name: str, **changes: Any) -> tuple[Tensor, list[int], int]:
    """All rows in one batch: texts, forwards of each, remasks in all."""
    tokens = torch.cat([prompts(rows), torch.full((rows, length), model.mask_id)], dim=1)
    result = generate(model, tokens, SamplerConfig(name, temperature=0.0, **changes))
    return result.tokens, result.forwards.tolist(), int(result.remasked.sum())


@pytest.mark.parametrize("block", [32, 16])
def test_wino(model: PrismModel, block: int) -> None:
    host = load("PRISM_HOST_WINO", "LLaDA/decoding.py")
    bounds = {"threshold": 0.5, "threshold_back": 0.4}
    theirs = [
        host.decoding_wino(Host(model), row[None], gen_length=32, block_length=block, mask_id=model.mask_id, **bounds)
        for row in prompts(6)
    ]
    texts, forwards, remasked = ours(
        model, 6, 32, "wino", block_length=block, steps=400, fill="least", fill_bound=0.5, tau=0.4
    )
    assert torch.equal(texts, torch.cat([text for text, _ in theirs]))
    assert forwards == [steps for _, steps in theirs]
    assert remasked > 0


def test_saber(model: PrismModel) -> None:
    host = load("PRISM_HOST_SABER", "decoding.py")
    theirs = [
        host.generate_with_saber(Host(model), row[None], gen_length=32, block_length=32, mask_id=model.mask_id)
        for row in prompts(6)
    ]
    texts, forwards, remasked = ours(model, 6, 32, "saber", steps=200, fill="least", score="confidence_drop")
    assert torch.equal(texts, torch.cat([text for text, _ in theirs]))
    assert forwards == [steps for _, steps in theirs]
    assert remasked > 0


@pytest.mark.parametrize("block", [16, 8])
def test_proseco(model: PrismModel, block: int) -> None:
    host = load("PRISM_HOST_PROSECO", "llada/generate.py")
    told = {"steps": 8, "gen_length": 16, "block_length": block, "mask_id": model.mask_id}
    theirs = [host.generate(Host(model), row[None], **told) for row in prompts(6)]
    texts, forwards, remasked = ours(model, 6, 16, "proseco", block_length=block, steps=8)
    assert torch.equal(texts, torch.cat([text for text, *_ in theirs]))
    assert forwards == [metrics["total_nfe"] for _, metrics, _ in theirs]
    assert remasked > 0


def test_rcr(model: PrismModel, monkeypatch: pytest.MonkeyPatch) -> None:
    if "PRISM_HOST_MDPO" in os.environ:
        monkeypatch.syspath_prepend(os.environ["PRISM_HOST_MDPO"])
    host = load("PRISM_HOST_MDPO", "src/mdlm_generation_utils.py")
    told = {"steps": 8, "gen_length": 32, "block_length": 32, "conf_alg": "low_confidence", "rcr": True}
    theirs = [host.diffusion_generate(Host(model), row[None], model.mask_id, **told)[0] for row in prompts(6)]
    texts, _, remasked = ours(model, 6, 32, "rcr", steps=8)
    assert torch.equal(texts[:, PROMPT:], torch.cat(theirs))
    assert remasked > 0


def test_t2t(model: PrismModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dllm", "dllm.core", "dllm.core.samplers", "dllm.core.samplers.base"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    base = sys.modules["dllm.core.samplers.base"]
    base.BaseSampler = types.SimpleNamespace  # type: ignore[attr-defined]  # it holds a model and a tokenizer
    base.BaseSamplerOutput = object  # type: ignore[attr-defined]
    base.BaseSamplerConfig = type("Config", (), {"return_dict": False})  # type: ignore[attr-defined]
    host = load("PRISM_HOST_DLLM", "dllm/pipelines/llada21/sampler.py")
    tokenizer = types.SimpleNamespace(mask_token_id=model.mask_id, eos_token_id=None)
    told = {"block_size": 32, "max_new_tokens": 32 - PROMPT, "threshold": 0.45, "editing_threshold": 0.5}
    theirs = []
    for row in prompts(6):
        sampler = host.LLaDA21Sampler.__new__(host.LLaDA21Sampler)
        sampler.model, sampler.tokenizer = Host(model), tokenizer
        theirs.append(sampler.sample([row], host.LLaDA21SamplerConfig(), return_dict=False, **told))
    texts, forwards, remasked = ours(
        model, 6, 32 - PROMPT, "t2t", guard="none", steps=200, fill="least", fill_bound=0.45, tau=0.5
    )
    settled = [row for row, count in enumerate(forwards) if count < 200]  # theirs cuts what cycles after 16 rounds
    assert torch.equal(texts[settled], torch.cat(theirs)[settled]), forwards
    assert remasked > 0 and len(settled) > 3


def test_hierarchy(model: PrismModel) -> None:
    """One step of a block at a time, from texts that are partly written."""
    host = load("PRISM_HOST_DINFER", "python/dinfer/decoding/parallel_strategy.py", "dinfer_decoding")
    generator, revised = torch.Generator().manual_seed(0), 0
    for _ in range(12):
        text = torch.randint(SYMBOLS, (1, 24), generator=generator)
        text[torch.rand(1, 24, generator=generator) < 0.5] = model.mask_id
        logits = Host(model)(text).logits
        x0, moved = host.get_transfer_index_hierarchy_remask(
            logits,
            0.0,
            text == model.mask_id,
            text,
            None,
            model.mask_id,
            threshold=0.95,
            low_threshold=0.8,
            remask_threshold=0.8,
        )
        both: dict = {"select.tau": 0.8, "order.tau": 0.8}
        config = resolve(SamplerConfig("hierarchy-remask", steps=24, fill_bound=0.95, **both))
        everywhere = torch.ones_like(text, dtype=torch.bool)
        never = torch.tensor([model.mask_id])
        state = State(text.clone(), everywhere, model.mask_id, config, torch.zeros(1).long(), suppress=never)
        with torch.no_grad():
            use, view = Parts(state), View(model, model(text))
            use.revise(view, refilled=True)
            revised += int(state.doubted.sum())
            use.fill(view, state.masked)
        assert torch.equal(state.tokens, torch.where(moved, x0, text))
    assert revised > 0
