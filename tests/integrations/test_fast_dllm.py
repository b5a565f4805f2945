"""Fast-dLLM: its two caches behind our samplers; on a stand-in of its forward and loops, or on its own.

PRISM_HOST_FAST_DLLM=<checkout of NVlabs/Fast-dLLM> pytest -m real_host tests/integrations/test_fast_dllm.py
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin import enable
from prism_plugin.cli import main
from prism_plugin.errors import ConfigError
from prism_plugin.integrations.dream import diffusion_generate
from prism_plugin.integrations.fast_dllm import FastDLLMDenoiser, FastDreamDenoiser
from prism_plugin.integrations.llada import generate
from prism_plugin.models.cache import CacheConfig
from prism_plugin.models.remote import fit
from prism_plugin.quality.head import attach_head
from tests.hosts.fast_dllm_like import modeling

from .laws import few_symbols, same_law
from .real_models import build, module

MASK = modeling.MASK
REAL = {
    "d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 60, "embedding_size": 60,
    "max_sequence_length": 64, "mask_token_id": MASK, "eos_token_id": 2, "pad_token_id": 2, "activation_type": "silu",
    "block_type": "llama", "layer_norm_type": "rms", "attention_dropout": 0.0, "residual_dropout": 0.0, "rope": True,
    "embedding_dropout": 0.0, "include_bias": False, "weight_tying": False, "init_device": "cpu",
    "block_group_size": 1, "use_cache": False,
}  # fmt: skip


def without_mask(model: Any) -> Any:
    """A trained model gives the mask no weight, and ours leaves it out."""
    model.get_output_embeddings().register_forward_hook(
        lambda layer, states, logits: logits.index_fill(-1, torch.tensor([MASK]), -1e4)
    )
    return model


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def host(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """A small model, and the host's cached loops as ``loop(model, prompt, steps, new, block, dual, threshold)``."""
    if request.param == "stand-in":
        model = without_mask(modeling.build(seed=1))
        yield SimpleNamespace(model=model, loop=modeling.cached, forward=model.forward, folder=None)
        return
    if "PRISM_HOST_FAST_DLLM" not in os.environ:
        pytest.skip("PRISM_HOST_FAST_DLLM names no checkout")
    folder = Path(os.environ["PRISM_HOST_FAST_DLLM"]) / "llada"
    sys.path.insert(0, str(folder))
    try:
        code = importlib.import_module("model.modeling_llada")
        configs = importlib.import_module("model.configuration_llada")
        own = importlib.import_module("generate")
        code.scaled_dot_product_attention = torch.nn.functional.scaled_dot_product_attention  # there compiled at import
        torch.manual_seed(0)
        made = configs.LLaDAConfig(**REAL)
        model = fit(code.LLaDAModelLM)(made).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.1) + (weight.ndim == 1))
        without_mask(model)

        def loop(model: Any, prompt: Tensor, steps: int, new: int, block: int, dual: bool, threshold: Any) -> Tensor:
            run = own.generate_with_dual_cache if dual else own.generate_with_prefix_cache
            return run(model, prompt, steps, new, block, mask_id=MASK, threshold=threshold)[0]

        yield SimpleNamespace(model=model, loop=loop, forward=model.forward, folder=folder, own=own)
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] in ("model", "generate")]:
            del sys.modules[name]


@pytest.fixture
def columns(host: SimpleNamespace) -> Iterator[list[int]]:
    """How many columns each pass over the model went over."""
    seen: list[int] = []
    inner = host.model.model.transformer["wte"]
    handle = inner.register_forward_hook(lambda module, given, made: seen.append(given[0].shape[1]))
    yield seen
    handle.remove()


def prompt(seed: int, length: int = 5) -> Tensor:
    return torch.randint(3, 59, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize(("steps", "block", "threshold"), [(12, 6, None), (6, 4, None), (12, 12, None), (12, 6, 0.2)])
def test_the_hosts_own_tokens(
    host: SimpleNamespace, columns: list[int], dual: bool, steps: int, block: int, threshold: float | None
) -> None:
    cache = CacheConfig("dual" if dual else "prefix", block_length=block)
    rule: dict[str, Any] = {"sampler": "confidence"}
    if threshold is not None:
        rule = {"sampler": "threshold", "fill_bound": threshold}
    differs = 0
    FastDLLMDenoiser(host.model, MASK)  # its probe
    for seed in range(4):
        columns.clear()
        own = host.loop(host.model, prompt(seed), steps, 12, block, dual, threshold)
        theirs = columns[:]
        columns.clear()
        call = {"steps": steps, "gen_length": 12, "block_length": block, "mask_id": MASK}
        found = generate(host.model, prompt(seed), **call, **rule, cache=cache)
        assert torch.equal(found, own)
        if threshold is None:
            assert columns == theirs, "it goes over the same columns in every pass"
        differs += int(not torch.equal(generate(host.model, prompt(seed), **call, **rule), own))
    assert differs or block == 12, "the approximation is seen in no text: nothing was tried"


@pytest.mark.parametrize("name", ["prefix", "dual"])
@pytest.mark.parametrize("sampler", ["prism-llada", "remdm-conf", "saber", "threshold-remask"])
def test_presets_that_revise_refresh_where_a_remask_fell(
    host: SimpleNamespace, head: str, columns: list[int], name: str, sampler: str
) -> None:
    call: dict[str, Any] = {"steps": 16, "gen_length": 16, "block_length": 8, "mask_id": MASK, "sampler": sampler}
    if sampler == "prism-llada":
        call |= {"head": head, "num_remask": 1, "step_on": 2, "step_off": 3}
    FastDLLMDenoiser(host.model, MASK)
    columns.clear()
    kept = generate(host.model, prompt(0), **call, cache=CacheConfig(name, block_length=8), return_result=True)
    assert not (kept.tokens == MASK).any() and torch.equal(kept.tokens[:, :5], prompt(0))
    assert int(kept.remasked) > 0 and kept.settings["cache"]["name"] == name
    assert len(columns) == int(kept.forwards) and float(kept.cost) == pytest.approx(sum(columns) / 21)
    if sampler == "prism-llada":  # one remask a block, in its third step: computed anew in the fourth
        part = {"prefix": (16, 8), "dual": (8, 8)}[name]
        assert [n for n, seen in enumerate(columns) if seen == 21] == [0, 3, 8, 11]
        assert {*columns[:8]} == {21, part[0]} and {*columns[8:]} == {21, part[1]}


def test_enable_finds_it_and_writes_batches(host: SimpleNamespace) -> None:
    denoiser = FastDLLMDenoiser(host.model, MASK)
    texts = torch.nn.functional.pad(torch.cat([prompt(0), prompt(1)]), (0, 12), value=MASK)
    settings = {"steps": 12, "block_length": 6, "temperature": 0.0, "confidence_of": "untempered"}
    for name in ("prefix", "dual"):
        prism = enable(denoiser, cache=name, sampler="confidence")
        own = torch.cat([host.loop(host.model, prompt(row), 12, 12, 6, name == "dual", None) for row in (0, 1)])
        assert torch.equal(prism.generate(texts, **settings).tokens, own)
        assert torch.equal(prism.generate([*texts, texts[0, 1:]], slots=1, **settings).tokens[:2], own)
        assert prism.generate(texts[:1], **settings).cost < 12


def test_texts_at_different_blocks_share_a_window(host: SimpleNamespace, columns: list[int]) -> None:
    """By threshold one text is ahead of the other: all is computed anew where one of them begins a block."""
    prism = enable(FastDLLMDenoiser(host.model, MASK), cache="dual", sampler="threshold", fill_bound=0.3)
    texts = torch.nn.functional.pad(torch.cat([prompt(row) for row in range(4)]), (0, 18), value=MASK)
    columns.clear()
    found = prism.generate(texts, steps=18, block_length=6, temperature=0.0)
    assert not (found.tokens == MASK).any() and len({*found.forwards.tolist()}) > 1
    assert columns.count(23) >= 3 and {*columns} - {23, 6}, "a window over two blocks"


LOOPS = {"plain": "generate", "prefix": "generate_with_prefix_cache", "dual": "generate_with_dual_cache"}


@pytest.mark.parametrize("host", [pytest.param("real", marks=pytest.mark.real_host)], indirect=True, scope="module")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "call", [{"temperature": 1.0}, {"temperature": 0.6, "remasking": "random"}, {"temperature": 0.8, "threshold": 0.4}],
    ids=str,
)  # fmt: skip
def test_the_hosts_own_law(host: SimpleNamespace, loop: str, call: dict[str, Any]) -> None:
    """Above temperature 0, of whole texts; its loops write one at a time, and so do ours by threshold."""
    rows, same = 600 if "threshold" in call else 1200, {"steps": 4, "gen_length": 4, "block_length": 2, "mask_id": MASK}
    torch.manual_seed(0)
    own = getattr(host.own, LOOPS[loop])
    with few_symbols(host.model):
        theirs = torch.cat([own(host.model, prompt(0), **same, **call)[0] for _ in range(rows)])
        given = dict(call)
        if "threshold" in given:
            given |= {"sampler": "threshold", "fill_bound": given.pop("threshold")}
        if loop != "plain":
            given["cache"] = CacheConfig(loop, block_length=2)
        at_once = 1 if "fill_bound" in given and loop != "plain" else rows
        ours = [
            generate(host.model, prompt(0).repeat(at_once, 1), request=request, **same, **given)
            for request in torch.arange(rows).split(at_once)
        ]
    same_law(theirs[:, -4:], torch.cat(ours)[:, -4:])


def test_guidance_with_a_cache(host: SimpleNamespace) -> None:
    call: dict[str, Any] = {"steps": 12, "gen_length": 12, "block_length": 6, "mask_id": MASK, "cfg_scale": 0.5}
    anew, kept = (generate(host.model, prompt(0), **call, cache=CacheConfig("dual", refresh=n), return_result=True)
                  for n in (1, 0))  # fmt: skip
    assert torch.equal(anew.tokens, generate(host.model, prompt(0), **call)) and float(kept.cost) < float(anew.cost)


SCRIPT = """
import sys
from generate import generate_with_dual_cache, generate_with_prefix_cache
from tests.integrations import test_fast_dllm as here

for rule in (generate_with_prefix_cache, generate_with_dual_cache):
    for threshold in (None, 0.2):
        out = rule(here.MODELS[-1], here.prompt(0), 12, 12, 6, mask_id=here.MASK, threshold=threshold)
        print(sys.argv[1:], out[0].tolist(), out[1])
"""
ITS = """
def generate(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0., remasking='low_confidence',
             mask_id=126336, threshold=None, factor=None):
    raise SystemError('host')

def generate_with_prefix_cache(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0.,
                               remasking='low_confidence', mask_id=126336, threshold=None, factor=None):
    raise SystemError('host')

def generate_with_dual_cache(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0.,
                             remasking='low_confidence', mask_id=126336, threshold=None, factor=None):
    raise SystemError('host')
"""
MODELS: list[Any] = []


def test_prism_run_uses_the_caches(
    host: SimpleNamespace,
    head: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tests.integrations.test_fast_dllm", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "MODELS", [host.model])
    monkeypatch.delitem(sys.modules, "generate", raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "generate.py").write_text(ITS if host.folder is None else (host.folder / "generate.py").read_text())
    (tmp_path / "call.py").write_text(SCRIPT)
    assert main(["run", "sampler=confidence", str(tmp_path / "call.py"), "--use_cache"]) == 0
    shown = capsys.readouterr().out.splitlines()
    expected = [host.loop(host.model, prompt(0), 12, 12, 6, *which).tolist()
                for which in ((False, None), (False, 0.2), (True, None), (True, 0.2))]  # fmt: skip
    assert [line.rpartition(" ")[0] for line in shown] == [f"['--use_cache'] {tokens}" for tokens in expected]
    assert [line.rpartition(" ")[2] for line in shown[::2]] == ["12", "12"]
    assert main(["run", f"head={head}", "sampler.num_remask=1", str(tmp_path / "call.py")]) == 0
    assert capsys.readouterr().out.splitlines() != shown
    if host.folder is None:  # releases later than the checkout have the argument
        (tmp_path / "call.py").write_text(SCRIPT.replace("threshold=threshold", "threshold=threshold, factor=1.5"))
        assert main(["run", "sampler=confidence", str(tmp_path / "call.py")]) == 0
        expected = [modeling.cached(host.model, prompt(0), 12, 12, 6, dual, None, 1.5) for dual in (False, True)]
        found = [line.rpartition(" ")[0] for line in capsys.readouterr().out.splitlines()]
        assert found[::2] == found[1::2] == [f"[] {tokens.tolist()}" for tokens in expected]


# ---- Dream


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def dream(request: pytest.FixtureRequest) -> SimpleNamespace:
    """A small model, and its cached loop as ``host`` has it."""
    if request.param == "stand-in":
        return SimpleNamespace(
            model=without_mask(modeling.build(seed=1, kind=modeling.DreamModel)), loop=modeling.dream_cached
        )
    model: Any = build("dream-fast")
    with torch.no_grad():
        model.lm_head.weight.mul_(0.3)  # entropies that are told apart by more than rounding
    mask = torch.tensor([MASK])
    model.lm_head.register_forward_hook(lambda layer, states, logits: logits.index_fill(-1, mask, -1e4))
    code = module(Path(os.environ["PRISM_HOST_FAST_DLLM"]) / "dream/model", "generation_utils_block")

    def run(
        model: Any, prompt: Tensor, block_length: int, dual: bool, threshold: Any = None, **settings: Any
    ) -> Tensor:
        config = code.DreamGenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings)
        model._sample = MethodType(code.DreamGenerationMixin._sample, model)
        call = {"threshold": threshold, "block_length": block_length, "dual_cache": dual}
        return code.DreamGenerationMixin.diffusion_generate(model, prompt, config, **call)

    def loop(model: Any, prompt: Tensor, steps: int, new: int, block: int, dual: bool, threshold: Any) -> Tensor:
        alg = "entropy" if threshold is None else "confidence_threshold"
        settings = {"max_new_tokens": new, "steps": steps, "alg": alg, "mask_token_id": MASK}
        return run(model, prompt, block, dual, threshold, **settings)

    return SimpleNamespace(model=model, loop=loop, run=run)


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize(("steps", "block", "threshold"), [(12, 6, None), (6, 4, None), (12, 12, None), (12, 6, 0.2)])
def test_dreams_own_tokens(dream: SimpleNamespace, dual: bool, steps: int, block: int, threshold: float | None) -> None:
    call: dict[str, Any] = {"max_new_tokens": 12, "steps": steps, "block_length": block, "mask_token_id": MASK}
    call |= {"alg": "entropy"} if threshold is None else {"alg": "confidence_threshold", "threshold": threshold}
    differs, own, cache = 0, [], "dual" if dual else "prefix"
    for seed in range(4):
        own.append(dream.loop(dream.model, prompt(seed), steps, 12, block, dual, threshold))
        found = diffusion_generate(dream.model, prompt(seed), **call, cache=cache)
        assert torch.equal(found, own[-1])
        whole = {"cache": CacheConfig("dual", refresh=1)} if threshold else {}
        differs += int(not torch.equal(diffusion_generate(dream.model, prompt(seed), **call, **whole), own[-1]))
    assert differs or block == 12, "the approximation is seen in no text: nothing was tried"
    if threshold is None:
        batch = torch.cat([prompt(seed) for seed in range(4)])
        assert torch.equal(
            diffusion_generate(dream.model, batch, **call, cache="dual" if dual else "prefix"), torch.cat(own)
        )


@pytest.mark.parametrize("dream", [pytest.param("real", marks=pytest.mark.real_host)], indirect=True, scope="module")
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "call",
    [
        {"alg": "entropy", "temperature": 1.0, "block_length": 2},
        {"alg": "entropy", "temperature": 0.6, "top_p": 0.8, "block_length": 4},
        {"alg": "confidence_threshold", "temperature": 0.8, "threshold": 0.4, "block_length": 2},
    ],
    ids=str,
)  # fmt: skip
def test_dreams_own_law(dream: SimpleNamespace, cache: str, call: dict[str, Any]) -> None:
    """As above; of its loops that by entropy with a prefix takes a batch, of ours those by entropy."""
    rows, same = 600 if "threshold" in call else 1200, {"steps": 4, "max_new_tokens": 4, "mask_token_id": MASK}
    ours_at_once = 1 if "threshold" in call else rows
    theirs_at_once = 1 if cache == "dual" else ours_at_once
    torch.manual_seed(0)
    with few_symbols(dream.model):
        theirs = [
            dream.run(dream.model, prompt(0).repeat(theirs_at_once, 1), dual=cache == "dual", **same, **call)
            for _ in range(rows // theirs_at_once)
        ]
        ours = [
            diffusion_generate(
                dream.model, prompt(0).repeat(ours_at_once, 1), request=request, cache=cache, **same, **call
            )
            for request in torch.arange(rows).split(ours_at_once)
        ]
    same_law(torch.cat(theirs)[:, -4:], torch.cat(ours)[:, -4:])


@pytest.mark.parametrize("name", ["prefix", "dual"])
def test_dream_with_a_head_and_padding(dream: SimpleNamespace, name: str) -> None:
    denoiser = FastDreamDenoiser(dream.model, MASK)
    torch.manual_seed(0)
    head = attach_head(denoiser, "mlp")
    texts = torch.cat([prompt(0, 6), torch.nn.functional.pad(prompt(1, 4), (2, 0))])
    given: dict[str, Any] = {"attention_mask": (texts > 0).long()} if "padding" in denoiser.gives else {}
    call = {"max_new_tokens": 12, "steps": 12, "block_length": 6, "mask_token_id": MASK, "num_remask": 1}
    found = diffusion_generate(dream.model, texts, **given, **call, head=head, cache=name, return_result=True)
    assert not (found.tokens == MASK).any() and torch.equal(found.tokens[:, :6], texts)
    assert bool((found.remasked > 0).all()) and bool((found.cost < found.forwards).all())


def test_dreams_word_for_a_whole_answer(dream: SimpleNamespace) -> None:
    call = {"max_new_tokens": 12, "steps": 6, "alg": "entropy", "mask_token_id": MASK}
    tokens = diffusion_generate(dream.model, prompt(0), **call)
    found = diffusion_generate(dream.model, prompt(0), **call, return_dict_in_generate=True, output_history=True)
    assert torch.equal(found.sequences, tokens) and torch.equal(found.history[-1], tokens)


def test_what_dream_cannot_do(dream: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="confidence_threshold is for cache"):
        diffusion_generate(dream.model, prompt(0), alg="confidence_threshold", mask_token_id=MASK)
    with pytest.raises(ConfigError, match="Known: entropy, maskgit_plus, origin, topk_margin"):
        diffusion_generate(dream.model, prompt(0), alg="p2", mask_token_id=MASK)
