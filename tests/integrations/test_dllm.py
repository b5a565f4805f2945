"""dLLM: the sampler in the library's hierarchy, its harness and its scripts; a stand-in, or the checkout itself.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest -m real_host tests/integrations/test_dllm.py

The real one needs what it pins: transformers below 5, datasets below 5, trl, tyro, torchmetrics.
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin.cli import main
from prism_plugin.errors import ConfigError, DataError
from prism_plugin.integrations.dllm.adapter import A2DDenoiser
from prism_plugin.integrations.dllm.kinds import KINDS
from prism_plugin.models.denoiser import hosts
from prism_plugin.models.doctor import examine
from prism_plugin.models.remote import fit
from tests.hosts.fast_dllm_like import modeling as fast_modeling
from tests.hosts.llada_like import modeling

from .dllm_checkpoints import on_cpu
from .test_block_causal import LLaDA2MoeModelLM
from .test_block_causal import build as qwen

MASK, EOS, SYMBOLS = 59, 2, range(3, 59)
REAL = {
    "d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 60, "embedding_size": 60,
    "max_sequence_length": 64, "mask_token_id": MASK, "eos_token_id": EOS, "pad_token_id": EOS, "rope": True,
    "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "attention_dropout": 0.0,
    "residual_dropout": 0.0, "embedding_dropout": 0.0, "include_bias": False, "weight_tying": False,
    "block_group_size": 1, "use_cache": False,
}  # fmt: skip


class Letters:
    """A tokenizer: a letter is a token."""

    mask_token_id, eos_token_id, bos_token_id, pad_token_id, name_or_path = MASK, EOS, 1, EOS, "letters"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % 50 for letter in text]}

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, ids))


def real_model() -> torch.nn.Module:
    """The library's own LLaDA."""
    code = importlib.import_module("dllm.pipelines.llada.models.modeling_llada")
    config = importlib.import_module("dllm.pipelines.llada.models.configuration_llada")
    torch.manual_seed(0)
    with on_cpu():
        model = fit(code.LLaDAModelLM)(config.LLaDAConfig(**REAL)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1) + (parameter.ndim == 1))
    return model


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def host(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The library's package, ours on it, and a small LLaDA."""
    folder = str(Path(__file__).parents[1] / "hosts/dllm_like")
    if request.param == "real":
        if "PRISM_HOST_DLLM" not in os.environ:
            pytest.skip("PRISM_HOST_DLLM names no checkout")
        folder = os.environ["PRISM_HOST_DLLM"]
    sys.path.insert(0, folder)
    try:
        library = importlib.import_module("dllm")
        ours = importlib.import_module("prism_plugin.integrations.dllm")
        small = {"vocab_size": 60, "embedding_size": 60, "mask_token_id": MASK, "eos_token_id": EOS}
        model = (
            real_model() if request.param == "real" else modeling.build(seed=4, **small)
        )  # no two confidences equal but for rounding
        names = {name: getattr(library.core.samplers, name) for name in ("MDLMSampler", "MDLMSamplerConfig")}
        found = {name: getattr(ours, name) for name in ("PrismSampler", "PrismSamplerConfig")}
        yield SimpleNamespace(library=library, model=model, real=request.param == "real", **names, **found)
    finally:
        sys.path.remove(folder)
        for name in [name for name in sys.modules if name.split(".")[0] == "dllm"]:
            del sys.modules[name]
        for name in ("sampler", "eval"):
            sys.modules.pop(f"prism_plugin.integrations.dllm.{name}", None)


def prompts(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(SYMBOLS.start, SYMBOLS.stop, (length,), generator=generator) for length in lengths]


def gaps(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [t.masked_fill(torch.rand(len(t), generator=generator) < 0.6, MASK) for t in prompts(*lengths)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"block_size": 5, "steps": 8},
        {"max_new_tokens": None, "max_length": 20},
        {"begin_suppress_tokens": [7, 9, 11, 20, 30], "block_size": 6},
        {"cfg_scale": 0.7, "cfg_keep_tokens": [5, 6, 7, 8, 10]},
    ],
)
def test_the_librarys_own_tokens_and_histories(host: SimpleNamespace, more: dict[str, Any]) -> None:
    call = {"steps": 7, "max_new_tokens": 12, "block_size": 12, "suppress_tokens": [MASK], "return_dict": True, **more}
    theirs, ours = (kind(model=host.model, tokenizer=Letters()) for kind in (host.MDLMSampler, host.PrismSampler))
    own, found = (sampler.sample(prompts(5, 9, 3), host.MDLMSamplerConfig(), **call) for sampler in (theirs, ours))
    assert isinstance(found, type(own)) and torch.equal(found.sequences, own.sequences)
    assert len(found.histories) == len(own.histories) and all(map(torch.equal, found.histories, own.histories))
    call = {**call, "max_new_tokens": 12, "return_dict": False}
    for size in (5, None):
        call["block_size"] = size
        own, found = (sampler.infill(gaps(14, 19, 10), host.MDLMSamplerConfig(), **call) for sampler in (theirs, ours))
        assert torch.equal(found, own)


def test_another_scheduler_of_the_library(host: SimpleNamespace) -> None:
    cosine = host.library.core.schedulers.CosineAlphaScheduler()
    call = {"steps": 5, "max_new_tokens": 12, "block_size": 12, "suppress_tokens": [MASK]}
    own, found = (
        kind(model=host.model, tokenizer=Letters(), scheduler=cosine).sample(prompts(5, 3), **call)
        for kind in (host.MDLMSampler, host.PrismSampler)
    )
    assert torch.equal(found, own)
    linear = host.PrismSampler(model=host.model, tokenizer=Letters()).sample(prompts(5, 3), **call)
    assert not torch.equal(linear, own)


@pytest.fixture
def loaded(host: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library loads by name is the small model."""
    monkeypatch.setattr(host.library.utils, "get_model", lambda *given, **named: host.model)
    monkeypatch.setattr(host.library.utils, "get_tokenizer", lambda *given, **named: Letters())


@pytest.mark.parametrize("sampler", [None, "prism", "remdm-conf", "saber", "proseco", "tolerator"])
def test_presets_that_revise(host: SimpleNamespace, head: str, sampler: str | None) -> None:
    ours = host.PrismSampler(model=host.model, tokenizer=Letters())
    config = host.PrismSamplerConfig(steps=8, max_new_tokens=8, block_size=8, sampler=sampler, head=head)
    if sampler in (None, "prism"):
        config.num_remask = 1
    given = prompts(5, 9, 3)
    out = ours.sample(given, config, return_dict=True, seed=1)
    assert sum(int(result.remasked.sum()) for result in out.results) > 0
    assert not (out.sequences == MASK).any() and torch.equal(out.histories[-1], out.sequences)
    for row, prompt in enumerate(given):
        assert torch.equal(out.sequences[row, : len(prompt)], prompt)
        assert (out.sequences[row, len(prompt) + 8 :] == EOS).all()
    holes = gaps(14, 10)
    filled = ours.infill(holes, config, seed=1, **({"block_size": None} if sampler == "proseco" else {}))
    for row, text in enumerate(holes):
        written = filled[row, : len(text)]
        assert not (written == MASK).any() and torch.equal(written[text != MASK], text[text != MASK])


def test_random_numbers_follow_torch_and_do_not_depend_on_neighbours(host: SimpleNamespace, head: str) -> None:
    ours = host.PrismSampler(model=host.model, tokenizer=Letters())
    config = host.PrismSamplerConfig(steps=4, max_new_tokens=8, temperature=1.0, head=head, num_remask=1)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(ours.sample(prompts(5, 9), config))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    torch.manual_seed(0)
    assert torch.equal(ours.sample(prompts(5, 9)[:1], config)[0], found[0][0, :13])


def test_every_setting_is_a_field_that_a_command_line_reaches(host: SimpleNamespace) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    @dataclass
    class Script:
        seed: int = 42

    words = [
        "--seed",
        "3",
        "--steps",
        "9",
        "--sampler",
        "prism",
        "--num_remask",
        "2",
        "--eta",
        "0.5",
        "--every",
        "0.25",
    ]
    script, config = transformers.HfArgumentParser((Script, host.PrismSamplerConfig)).parse_args_into_dataclasses(words)
    assert (script.seed, config.steps, config.num_remask, config.eta, config.every) == (3, 9, 2, 0.5, "0.25")
    assert isinstance(config, host.MDLMSamplerConfig) and config.tau is None


@pytest.mark.usefixtures("loaded")
def test_its_evaluation_harness(host: SimpleNamespace, head: str) -> None:
    harness = importlib.import_module("prism_plugin.integrations.dllm.eval").PrismEvalHarness
    words = {"pretrained": "tiny", "device": "cpu", "batch_size": 2, "max_new_tokens": 8, "steps": 8, "block_size": 8}
    lm = harness(mc_num=2, num_remask=1, head=head, seed=1, **words)
    assert lm.sampler_config.num_remask == 1 and isinstance(lm.sampler, host.PrismSampler)
    answers = lm.generate_until(REQUESTS)
    assert len(answers) == 3 and all(answers)
    own = host.library.core.eval.MDLMEvalHarness  # unedited, the sampler put in
    given = {"sampler_cls": host.PrismSampler, "sampler_config": host.PrismSamplerConfig(sampler="confidence")}
    suppress = {"suppress_tokens": [MASK], "mc_num": 2, **words}
    assert own(**suppress).generate_until(REQUESTS) == own(**given, **suppress).generate_until(REQUESTS)


SCRIPT = """
import sys
import dllm
from tests.integrations import test_dllm as here

sampler = dllm.core.samplers.MDLMSampler(model=here.MODELS[-1], tokenizer=here.Letters())
call = dict(steps=8, max_new_tokens=8, block_size=8, suppress_tokens=[here.MASK])
print(sys.argv[1:], sampler.sample(here.prompts(5, 3), **call).tolist())
print(sampler.infill(here.gaps(9, 8), dllm.core.samplers.MDLMSamplerConfig(), **call).tolist())
harness = dllm.core.eval.MDLMEvalHarness(pretrained="tiny", device="cpu", batch_size=2, mc_num=2, **call)
print(harness.generate_until(here.REQUESTS))
"""
REQUESTS = [SimpleNamespace(args=(text, {"until": ["!"]})) for text in ("abcde", "fgh", "ij")]
MODELS: list[Any] = []


@pytest.mark.usefixtures("loaded")
def test_prism_run(
    host: SimpleNamespace,
    head: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tests.integrations.test_dllm", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "MODELS", [host.model])
    script = tmp_path / "sample.py"
    script.write_text(SCRIPT)
    call = {"steps": 8, "max_new_tokens": 8, "block_size": 8, "suppress_tokens": [MASK]}
    theirs = host.MDLMSampler(model=host.model, tokenizer=Letters())
    expected = theirs.sample(prompts(5, 3), **call).tolist()
    assert main(["run", "sampler=confidence", str(script), "--x", "1"]) == 0
    ours = capsys.readouterr().out.splitlines()
    infilled = theirs.infill(gaps(9, 8), host.MDLMSamplerConfig(), **call).tolist()
    answers = host.library.core.eval.MDLMEvalHarness(
        pretrained="tiny", device="cpu", batch_size=2, mc_num=2, **call
    ).generate_until(REQUESTS)
    assert ours == [f"['--x', '1'] {expected}", str(infilled), str(answers)]
    assert main(["run", f"head={head}", "sampler.num_remask=1", "sampler.seed=1", str(script)]) == 0
    assert capsys.readouterr().out.splitlines() != ours
    assert theirs.sample(prompts(5, 3), **call).tolist() == expected, "the library's own sampler is back"
    script.write_text("import dllm\nprint('ran')\n")
    assert main(["run", str(script)]) == 2
    out, err = capsys.readouterr()
    assert "ours takes the place of MDLMSampler, DreamSampler, " in err and "ran" not in out


def test_its_own_models_by_the_config(tmp_path: Path) -> None:
    about = {"model_type": "a2d-qwen3", "vocab_size": 60, "hidden_size": 32, "mask_token_id": MASK}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert A2DDenoiser.loads(about) and not A2DDenoiser.loads({"model_type": "qwen3"})
    assert A2DDenoiser.matches(type("A2DQwen3LMHeadModel", (), {})()) and not A2DDenoiser.matches(modeling.build())
    assert "dllm" in hosts and examine(str(tmp_path))["host"] == "dllm (A2DDenoiser)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "prsim"}, "Nearest: prism"),
        ({"tua": 1}, "sampler.tua"),
        ({"remasking": "low"}, "remasking 'low' is not known"),
        ({"max_new_tokens": 0, "max_length": 4}, "max_new_tokens = -1"),
        ({"steps": 0}, "steps = 0"),
        ({"cfg_scale": -1.0}, "cfg_scale = -1.0"),
        ({"suppress_tokens": [60]}, "suppress_tokens"),
        ({"right_shift_logits": True}, "right_shift_logits = True"),
        ({"sampler": "saber", "begin_suppress_tokens": [3]}, "saber does not"),
    ],
)
def test_what_cannot_be_done_is_said(host: SimpleNamespace, changes: dict[str, Any], message: str) -> None:
    ours = host.PrismSampler(model=host.model, tokenizer=Letters())
    with pytest.raises((ConfigError, DataError), match=message):
        ours.sample(prompts(5, 3), **{"max_new_tokens": 8, "steps": 8, **changes})


def test_what_is_for_infill(host: SimpleNamespace) -> None:
    ours = host.PrismSampler(model=host.model, tokenizer=Letters())
    with pytest.raises(DataError, match="infill into them"):
        ours.sample(gaps(9), max_new_tokens=8)
    with pytest.raises(ConfigError, match="reach = text"):
        ours.infill(gaps(9), sampler="proseco", block_size=4, steps=8)


# ---- its other samplers, whose configs say how texts are laid out; test_dllm_samplers.py has the library's own


@dataclass
class DreamSamplerConfig:
    max_new_tokens: int | None = 20
    max_length: int | None = None
    steps: int = 512
    alg: str = "origin"
    alg_temp: float = 0.0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    return_dict: bool = False
    stochastic_transfer: bool = False
    right_shift_logits: bool = True
    cfg_scale: float = 0.0


@dataclass
class FastdLLMLLaDASamplerConfig:
    max_new_tokens: int = 12
    block_size: int = 6
    steps: int = 12
    temperature: float = 0.0
    return_dict: bool = False
    use_cache: str | None = None
    threshold: float | None = None
    factor: float | None = None


@dataclass
class BD3LMSamplerConfig:
    max_new_tokens: int = 12
    block_size: int = 4
    steps: int = 12
    steps_per_block: int | None = None
    temperature: float = 0.0
    return_dict: bool = False


@dataclass
class LLaDA2SamplerConfig:
    max_new_tokens: int = 6
    block_size: int = 4
    steps_per_block: int = 4
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    threshold: float = 0.95
    minimal_topk: int = 1
    eos_early_stop: bool = False
    return_dict: bool = False


def test_fast_llada_by_its_config(host: SimpleNamespace) -> None:
    if host.real:
        return
    ours = host.PrismSampler(fast_modeling.build(seed=1), Letters())
    ours.model.get_output_embeddings().register_forward_hook(
        lambda layer, states, logits: logits.index_fill(-1, torch.tensor([MASK]), -1e4)
    )
    for more in ({}, {"threshold": 0.2}, {"factor": 1.5}):
        for dual in (False, True):
            config = FastdLLMLLaDASamplerConfig(use_cache="dual" if dual else "prefix", **more)
            rule = (more.get("threshold"), more.get("factor"))
            own = fast_modeling.cached(ours.model, prompts(5)[0][None], 12, 12, 6, dual, *rule)
            assert torch.equal(ours.sample(prompts(5), config), own)
    with pytest.raises(ConfigError, match="use_cache 'both' is not known"):
        ours.sample(prompts(5), FastdLLMLLaDASamplerConfig(use_cache="both"))


def test_dream_by_its_config(host: SimpleNamespace) -> None:
    if host.real:
        return
    ours = host.PrismSampler(fast_modeling.build(seed=1, kind=fast_modeling.DreamModel), Letters())
    texts = prompts(5, 7)
    config = DreamSamplerConfig(steps=6, max_new_tokens=6, alg="entropy", return_dict=True)
    out = ours.sample(texts, config)
    assert out.sequences.shape == (2, 13) and not (out.sequences == MASK).any() and len(out.histories) == 7
    assert torch.equal(out.sequences[0, 2:7], texts[0]) and torch.equal(out.sequences[1, :7], texts[1])
    assert (out.sequences[0, :2] == EOS).all()
    filled = ours.infill(gaps(9, 12), config, return_dict=False)
    for row, text in enumerate(gaps(9, 12)):
        assert torch.equal(filled[row, 12 - len(text) :][text != MASK], text[text != MASK])
    for wrong, said in (({"alg": "origin"}, "Known: entropy"), ({"alg_temp": 0.1}, "alg_temp = 0.1"),
                        ({"right_shift_logits": False}, "this model's logits say True")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            ours.sample(texts, config, **wrong)


@pytest.mark.parametrize("more", [{}, {"sampler": "random-remask", "num_remask": 1, "seed": 1}])
def test_block_causal_samplers_by_their_configs(host: SimpleNamespace, more: dict[str, Any]) -> None:
    if host.real:
        return
    model, tokenizer = qwen(type("A2DQwen3LMHeadModel", (LLaDA2MoeModelLM,), {})), Letters()
    tokenizer.pad_token_id = 0
    ours = host.PrismSampler(model, tokenizer)
    texts = prompts(5, 9)
    out = ours.sample(texts, BD3LMSamplerConfig(return_dict=True), **more)
    assert out.sequences.shape[1] <= 24 and out.histories[0].shape[1] == 12  # ends with a block in which all have EOS
    assert torch.equal(out.sequences[0, 7:12], texts[0]) and not (out.sequences[:, 12:] == MASK).any()
    assert torch.equal(ours.sample(texts[:1], BD3LMSamplerConfig(), **more)[0, 8:], out.sequences[0, 12:][:12]) or more
    ours = host.PrismSampler(qwen(), tokenizer)
    out = ours.sample(prompts(6, 6), LLaDA2SamplerConfig(return_dict=True), **more)
    assert out.sequences.shape == (2, 12) and not (out.sequences == MASK).any()
    for wrong, said in (({"eos_early_stop": True}, "leaves masks"), ({"max_new_tokens": 0}, "max_new_tokens = -6")):
        with pytest.raises(ConfigError, match=said):
            ours.sample(prompts(6), LLaDA2SamplerConfig(), **wrong)
    with pytest.raises(ConfigError, match="those of one length"):
        ours.sample(prompts(6, 5), LLaDA2SamplerConfig())
    with pytest.raises(ConfigError, match="has no infill"):
        ours.infill(gaps(9), LLaDA2SamplerConfig())


def test_an_editing_threshold_is_the_probability_of_what_takes_a_tokens_place() -> None:
    """``t2t`` asks for 1 less it: a score of doubt."""
    asked = SimpleNamespace(
        threshold=0.7, editing_threshold=0.9, num_to_transfer=1, block_size=4, max_post_steps=16, eos_early_stop=False,
        temperature=0.0, top_p=None, top_k=None, max_new_tokens=8,
    )  # fmt: skip
    plan = KINDS["LLaDA21Sampler"](asked, [4], "confidence", None)
    assert plan.own["select.tau"] == pytest.approx(0.1) and plan.own["fill_bound"] == 0.7
