"""dLLM's examples and evaluations as they stand, under ``prism run``, on checkpoints that its own code reads.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest -m real_host tests/integrations/test_dllm_scripts.py

It needs what test_dllm.py needs.
"""

import importlib
import json
import os
import runpy
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_plugin.cli import main
from prism_plugin.integrations.block_causal import BlockCausalDenoiser
from prism_plugin.integrations.dllm.adapter import A2DDenoiser
from prism_plugin.integrations.dream import DreamDenoiser
from prism_plugin.integrations.llada import LLaDADenoiser
from prism_plugin.integrations.masked_lm import MaskedLMDenoiser

from .dllm_checkpoints import checkpoint, on_cpu
from .real_models import dllm_library

pytestmark = pytest.mark.real_host
ADAPTERS: dict[str, Any] = {
    "llada": LLaDADenoiser, "bert": MaskedLMDenoiser, "a2d": A2DDenoiser, "dream": DreamDenoiser,
    "llada2": BlockCausalDenoiser, "llada21": BlockCausalDenoiser,
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> Iterator[Path]:
    """The checkout, its ``dllm`` importable and its LLaDA built on the CPU."""
    with dllm_library(), on_cpu():
        yield Path(os.environ["PRISM_HOST_DLLM"])


@pytest.fixture(scope="module")
def checkpoints(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders by kind."""
    return {kind: checkpoint(kind, tmp_path_factory.mktemp(kind), adapter) for kind, adapter in ADAPTERS.items()}


def run(script: Path, words: list[str], ours: list[str] | None = None) -> None:
    """As ``python script words``, or under ``prism run``."""
    if ours is not None:
        assert main(["run", *ours, str(script), *words]) == 0
        return
    before = sys.argv
    sys.argv = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, less the times."""
    return "\n".join(
        line for line in capsys.readouterr().out.splitlines() if "seconds" not in line and "/s" not in line
    )


EXAMPLES = [
    ("llada", "llada", "--steps 12 --block_size 6"), ("bert", "bert", "--steps 12 --block_size 6"),
    ("a2d/mdlm", "a2d", "--steps 12 --block_size 6"), ("a2d/bd3lm", "a2d", "--steps 12 --block_size 6"),
    ("dream", "dream", "--steps 12 --temperature 0 --top_p 1"),
    ("llada2", "llada2", "--block_size 4 --steps_per_block 4"), ("llada21", "llada21", "--block_size 4"),
    ("fastdllm/llada", "llada", "--block_size 6 --steps 12 --use_cache dual"),
    ("fastdllm/dream", "dream", "--block_size 6 --steps 12 --use_cache prefix --temperature 0 --top_p 1"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "kind", "words"), EXAMPLES)
def test_its_examples(
    library: Path,
    checkpoints: dict[str, str],
    folder: str,
    kind: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What they print in f32, alone and with our sampler of the same rule; with a head, in bf16 as they stand."""
    script = library / "examples" / folder / "sample.py"
    given = ["--model_name_or_path", checkpoints[kind], "--visualize", "False", "--max_new_tokens", "12"]
    given += words.split()
    utils = importlib.import_module("dllm").utils
    read = utils.get_model

    def exact(*args: Any, **named: Any) -> Any:
        model = read(*args, **named, dtype="float32")
        if kind.startswith("llada2"):  # its samplers pass a mask in bf16, which sdpa takes for a model in bf16 alone
            model.config._attn_implementation = "eager"
        return model

    with monkeypatch.context() as patched:
        patched.setattr(utils, "get_model", exact)
        run(script, given)
        alone = said(capsys)
        run(script, given, ["sampler=confidence"])
        assert said(capsys) == alone and "[Case 0]" in alone
    run(script, given, [f"head={checkpoints[kind]}/head", "sampler.num_remask=1"])
    revised = said(capsys)
    assert revised != alone and revised.count("[Case") == alone.count("[Case")


TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "3"
generation_kwargs: {{until: ["@@@"]}}
metric_list: [{{metric: bypass}}]
"""
EVALUATIONS = [
    ("llada", "llada", "llada", "block_size=6"),
    ("bert", "bert", "bert", "block_size=6"),
    ("a2d", "a2d_mdlm", "a2d", "block_size=6"),
    ("a2d", "a2d_bd3lm", "a2d", "block_size=6"),
    ("dream", "dream", "dream", "alg=entropy"),
    ("fastdllm/llada", "fastdllm_llada", "llada", "block_size=6,use_cache=prefix"),
    ("fastdllm/dream", "fastdllm_dream", "dream", "block_size=6,use_cache=dual"),
]


@pytest.mark.parametrize(("file", "name", "kind", "more"), EVALUATIONS)
def test_its_evaluations(
    library: Path,
    checkpoints: dict[str, str],
    file: str,
    name: str,
    kind: str,
    more: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """dllm/pipelines/…/eval.py on a task of three prompts: the same answers with our sampler of its rule."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tasks = importlib.import_module("lm_eval.tasks")
    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))  # 10 s to list them
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abcde", "fgh", "ij")))
    (tmp_path / "tiny.yaml").write_text(TASK.format(tmp_path / "tiny.jsonl"))
    settings = f"pretrained={checkpoints[kind]},dtype=float32,max_new_tokens=12,steps=12,device=cpu,{more}"
    words = ["--tasks", "tiny", "--include_path", str(tmp_path), "--model", name, "--batch_size", "1",
             "--model_args", settings, "--log_samples"]  # fmt: skip
    registered = importlib.import_module("lm_eval.api.registry").MODEL_REGISTRY
    before, answers = dict(registered), []
    for number, ours in enumerate((None, ["sampler=confidence"], [f"head={checkpoints[kind]}/head"])):
        torch.manual_seed(0)
        run(library / "dllm/pipelines" / file / "eval.py", [*words, "--output_path", str(tmp_path / str(number))], ours)
        lines = next((tmp_path / str(number)).rglob("samples_*.jsonl")).read_text().splitlines()
        registered.clear()
        registered.update(before)
        answers.append([json.loads(line)["resps"] for line in lines])
    assert len(answers[0]) == 3 and all(answers[0]) and answers[1] == answers[0] and answers[2] != answers[0]
