"""dLLM's samplers beside MDLMSampler: ours in their place, on the library itself.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest -m real_host tests/integrations/test_dllm_samplers.py

It needs what test_dllm.py needs.
"""

import importlib
import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin.cli import main

from .laws import few_symbols, same_law
from .real_models import build
from .test_dllm import Letters, real_model

MASK, EOS, PAD = 59, 2, 0
WHERE = {
    "Dream": ("dllm.pipelines.dream", "dream"), "BD3LM": ("dllm.core.samplers", "a2d"),
    "LLaDA2": ("dllm.pipelines.llada2", "llada2"), "LLaDA21": ("dllm.pipelines.llada21", "llada21"),
    "FastdLLMLLaDA": ("dllm.pipelines.fastdllm.llada", "llada-fast-dllm"),
    "FastdLLMDream": ("dllm.pipelines.fastdllm.dream", "dream-fast-dllm"),
}  # fmt: skip


class Tokenizer(Letters):
    """Padding is told from the end of a text; of masks in a row every third is a letter, or all would be equal."""

    pad_token_id = PAD

    def apply_chat_template(self, messages: list[list[dict[str, str]]], **how: bool) -> list[list[int]]:
        texts = super().apply_chat_template(messages, **how)
        return [[3 + n if i == MASK and n % 3 == 0 else i for n, i in enumerate(text)] for text in texts]


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    """``dllm`` of the checkout, and ours on it."""
    if "PRISM_HOST_DLLM" not in os.environ:
        pytest.skip("PRISM_HOST_DLLM names no checkout")
    folder = os.environ["PRISM_HOST_DLLM"]
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("dllm")
    finally:
        sys.path.remove(folder)
        ours = [f"prism_plugin.integrations.dllm.{name}" for name in ("sampler", "eval")]
        for name in [name for name in sys.modules if name.split(".")[0] == "dllm" or name in ours]:
            del sys.modules[name]


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
      for size, steps, more in ((4, 12, {}), (4, 7, {}), (8, 6, {"cfg_scale": 0.5}), (5, 12, {"steps_per_block": 3}))),
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
    call = {"max_new_tokens": 12, **call}
    for seed in range(3):
        given = prompts(*lengths, seed=seed)
        own = host.theirs.sample([row.clone() for row in given], host.config(**call), return_dict=True)
        found = host.ours.sample(given, host.config(**call), return_dict=True)
        settled = not any(bool(result.cut.any()) for result in found.results)
        assert torch.equal(found.sequences, own.sequences) or not settled
        if "FastdLLM" not in type(host.theirs).__name__ and settled:
            assert all(map(torch.equal, found.histories[:1], own.histories[:1]))


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


EXAMPLES = [
    ("Dream", "dream", "--steps 6 --temperature 0 --top_p 1"), ("BD3LM", "a2d/bd3lm", "--steps 6 --block_size 6"),
    ("LLaDA2", "llada2", "--block_size 4 --steps_per_block 4"),
    ("FastdLLMLLaDA", "fastdllm/llada", "--block_size 6 --steps 12 --use_cache dual"),
    ("FastdLLMDream", "fastdllm/dream", "--block_size 6 --steps 12 --use_cache prefix --temperature 0 --top_p 1"),
]  # fmt: skip


@pytest.mark.real_host
@pytest.mark.parametrize(("host", "folder", "words"), EXAMPLES, indirect=["host"])
def test_prism_run_of_its_examples(
    host: SimpleNamespace,
    folder: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As they stand: what they print alone and with our sampler of the same rule; with a head, something else."""
    monkeypatch.setattr(host.library.utils, "get_model", lambda *given, **named: host.model)
    monkeypatch.setattr(host.library.utils, "get_tokenizer", lambda *given, **named: Tokenizer())
    for name in ("LLaDA", "Dream"):
        fast = importlib.import_module(f"dllm.pipelines.fastdllm.{name.lower()}")
        monkeypatch.setattr(getattr(fast, f"FastdLLM{name}Config"), "from_pretrained", lambda *given: None)
    script = Path(os.environ["PRISM_HOST_DLLM"]) / "examples" / folder / "sample.py"
    given = ["--visualize", "False", "--max_new_tokens", "12", *words.split()]
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    runpy.run_path(str(script), run_name="__main__")
    alone = said(capsys)
    assert main(["run", "sampler=confidence", str(script), *given]) == 0
    assert said(capsys) == alone and "[Case 0]" in alone
    assert main(["run", "sampler=random-remask", "sampler.num_remask=1", str(script), *given]) == 0
    assert said(capsys) != alone or folder.startswith("llada2"), "that one writes the same token everywhere"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, less the times."""
    return "\n".join(
        line for line in capsys.readouterr().out.splitlines() if "seconds" not in line and "/s" not in line
    )


TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "3"
generation_kwargs: {{until: ["!"]}}
metric_list: [{{metric: bypass}}]
"""


@pytest.mark.real_host
@pytest.mark.parametrize(
    ("file", "name", "kind", "more"),
    [
        ("llada", "llada", "llada-dllm", ""),
    ],
)  # fmt: skip
def test_prism_run_of_its_evaluations(
    library: Any, file: str, name: str, kind: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dllm/pipelines/…/eval.py as it stands on a task of three prompts: answers alone, and with our sampler."""
    model = small(kind)
    monkeypatch.setattr(library.utils, "get_model", lambda *given, **named: model)
    monkeypatch.setattr(library.utils, "get_tokenizer", lambda *given, **named: Tokenizer())
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abcde", "fgh", "ij")))
    (tmp_path / "tiny.yaml").write_text(TASK.format(tmp_path / "tiny.jsonl"))
    script = Path(os.environ["PRISM_HOST_DLLM"]) / "dllm/pipelines" / file / "eval.py"
    answers = []
    for number, given in enumerate(([], ["sampler=confidence"], ["sampler=random-remask", "sampler.num_remask=1"])):
        settings = f"pretrained=tiny,max_new_tokens=12,steps=12,block_size=6,device=cpu,{more}".strip(",")
        words = [str(script), "--tasks", "tiny", "--include_path", str(tmp_path), "--model", name, "--batch_size", "1",
                 "--model_args", settings, "--log_samples", "--output_path", str(tmp_path / str(number))]  # fmt: skip
        importlib.import_module("lm_eval.api.registry").MODEL_REGISTRY.pop(name, None)
        if given:
            assert main(["run", *given, *words]) == 0
        else:
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        lines = next((tmp_path / str(number)).rglob("samples_*.jsonl")).read_text().splitlines()
        answers.append([json.loads(line)["resps"] for line in lines])
    assert len(answers[0]) == 3 and answers[0] == answers[1] != answers[2]
