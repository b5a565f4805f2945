"""dLLM's samplers beside MDLMSampler: ours in their place, on the library itself.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest -m real_host tests/integrations/test_dllm_samplers.py

It needs what test_dllm.py needs.
"""

import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from .laws import few_symbols, same_law
from .real_models import build, dllm_library
from .test_dllm import Letters, real_model

MASK, EOS, PAD = 59, 2, 0
WHERE = {
    "Dream": ("dllm.pipelines.dream", "dream"), "BD3LM": ("dllm.core.samplers", "a2d"),
    "LLaDA2": ("dllm.pipelines.llada2", "llada2"), "LLaDA21": ("dllm.pipelines.llada21", "llada21"),
    "FastdLLMLLaDA": ("dllm.pipelines.fastdllm.llada", "llada-fast-dllm"),
    "FastdLLMDream": ("dllm.pipelines.fastdllm.dream", "dream-fast-dllm"),
}  # fmt: skip


class Tokenizer(Letters):
    """Padding is told from the end of a text."""

    pad_token_id = PAD


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    """``dllm`` of the checkout, and ours on it."""
    with dllm_library() as found:
        yield found


MODELS: dict[str, Any] = {}


def small(kind: str) -> Any:
    """A small model of a kind, built once; the mask, EOS and padding are never likely."""
    if kind not in MODELS:
        MODELS[kind] = model = real_model() if kind == "llada-dllm" else build(kind)
        if kind.startswith("llada2"):  # its samplers pass a mask in bf16, which sdpa takes for a model in bf16 alone
            model.config._attn_implementation = "eager"
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(0.5)  # no two confidences equal but for rounding
        never = torch.tensor([MASK, EOS, PAD])
        model.get_output_embeddings().register_forward_hook(lambda layer, x, made: made.index_fill(-1, never, -1e4))
    return MODELS[kind]


@pytest.fixture
def host(library: Any, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A sampler of the library, ours, its config and a small model of its kind."""
    module, kind = WHERE[request.param]
    model, package = small(kind), importlib.import_module(module)
    theirs, config = (getattr(package, f"{request.param}Sampler{end}") for end in ("", "Config"))
    ours = importlib.import_module("prism_plugin.integrations.dllm").PrismSampler
    made = [sampler(model=model, tokenizer=Tokenizer()) for sampler in (theirs, ours)]
    return SimpleNamespace(theirs=made[0], ours=made[1], config=config, model=model, library=library)


def prompts(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, MASK, (length,), generator=generator) for length in lengths]


RUNS = [
    *(("Dream", (5, 9, 3), {"alg": alg, "steps": steps, "temperature": 0.0, "top_k": None, **more})
      for alg, steps, more in (("maskgit_plus", 7, {}), ("entropy", 12, {}), ("topk_margin", 5, {}),
                               ("entropy", 6, {"cfg_scale": 0.5}), ("maskgit_plus", 12, {"max_length": 30}))),
    *(("BD3LM", (5, 9, 3), {"block_size": size, "steps": steps, **more})
      for size, steps, more in ((4, 12, {}), (4, 7, {}), (8, 6, {"cfg_scale": 0.5}), (5, 12, {"steps_per_block": 3}),
                                (6, 12, {}))),
    *(("LLaDA2", lengths, {"block_size": 4, "steps_per_block": steps, "threshold": bound})
      for lengths, steps, bound in (((5, 5), 4, 0.95), ((8,), 3, 0.95), ((6,), 4, 0.3))),
    ("LLaDA21", (5,), {"block_size": 4, "threshold": 0.3, "editing_threshold": 0.4}),
    ("LLaDA21", (8,), {"block_size": 8, "threshold": 0.9, "editing_threshold": 0.95, "num_to_transfer": 2}),
    *(("FastdLLMLLaDA", (5, 5), {"block_size": 6, "steps": 12, "use_cache": cache, **more})
      for cache in ("none", "prefix", "dual") for more in ({}, {"threshold": 0.3}, {"factor": 1.5})),
    ("FastdLLMLLaDA", (5, 5), {"block_size": 6, "steps": 8, "suppress_tokens": [7, 9], "begin_suppress_tokens": [11]}),
    *(("FastdLLMDream", (5,), {"temperature": 0.0, "top_k": None, "steps": 12, "block_size": 6, "use_cache": cache,
                               "alg": alg, "threshold": 0.3})
      for cache in ("prefix", "dual") for alg in ("entropy", "maskgit_plus", "topk_margin", "confidence_threshold")),
    ("FastdLLMDream", (5, 9), {"temperature": 0.0, "top_k": None, "steps": 7, "alg": "entropy"}),
]  # fmt: skip


@pytest.mark.real_host
@pytest.mark.parametrize(("host", "lengths", "call"), RUNS, indirect=["host"], ids=str)
def test_the_librarys_own_tokens(host: SimpleNamespace, lengths: tuple[int, ...], call: dict[str, Any]) -> None:
    call, quiet = {"max_new_tokens": 12, **call}, 0
    for seed in range(3):
        given = prompts(*lengths, seed=seed)
        own = host.theirs.sample([row.clone() for row in given], host.config(**call), return_dict=True)
        found = host.ours.sample(given, host.config(**call), return_dict=True)
        settled = not any(bool(result.cut.any()) for result in found.results)
        quiet += settled
        assert torch.equal(found.sequences, own.sequences) or not settled
        if "FastdLLM" not in type(host.theirs).__name__ and settled:
            assert all(map(torch.equal, found.histories[:1], own.histories[:1]))
    assert quiet, "no text came to rest, so that none was compared"


LAWS = [
    ("Dream", {"alg": "maskgit_plus", "top_p": 0.8, "top_k": None}), ("Dream", {"alg": "entropy", "top_k": 2}),
    ("BD3LM", {"block_size": 4}), ("BD3LM", {"block_size": 2, "remasking": "random", "temperature": 0.7}),
    ("LLaDA2", {"block_size": 4, "steps_per_block": 2, "top_p": 0.8}), ("LLaDA2", {"block_size": 4, "threshold": 0.5}),
    ("FastdLLMLLaDA", {"block_size": 4, "use_cache": "none"}),
    ("FastdLLMLLaDA", {"block_size": 2, "use_cache": "dual"}),
    ("FastdLLMDream", {"block_size": 2, "alg": "entropy", "use_cache": "prefix", "top_k": None}),
]  # fmt: skip


@pytest.mark.real_host
@pytest.mark.parametrize(("host", "call"), LAWS, indirect=["host"], ids=str)
def test_the_librarys_own_law(host: SimpleNamespace, call: dict[str, Any]) -> None:
    call = {"max_new_tokens": 4, "temperature": 1.0, **call}
    call |= {} if "steps_per_block" in call or "threshold" in call else {"steps": 2 if "block_size" not in call else 4}
    given = prompts(4)[0]
    torch.manual_seed(0)
    with few_symbols(host.model):
        theirs, ours = (each.sample([given] * 3000, host.config(**call)) for each in (host.theirs, host.ours))
    same_law(theirs[:, -4:], ours[:, -4:])
