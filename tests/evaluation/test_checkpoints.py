"""The options of loading, each by a small run on a checkpoint on disk: a BERT by its folder, and LLaDA's remote code.

PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest tests/evaluation/test_checkpoints.py
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
from lm_eval import evaluator

from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.evaluation.lm_eval import PrismLM
from prism_plugin.models.hosts import load_host
from tests.evaluation.test_lm_eval import requests
from tests.evaluation.test_runs import RESUME

evaluator.add_env_info = lambda results: None  # asks the machine about itself for seconds
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "to", "it"]
BASE = {"sampler": "random", "sampler.steps": 4, "device": "cpu", "trust_remote_code": True}
PROMPTS = requests("the cat", "a dog sat on the mat ran it", max_gen_toks=6, temperature=1.0)


def words() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="[CLS]", eos_token="[SEP]", **names)


def bert(folder: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, pad_token_id=0, **shape)
    ).save_pretrained(folder)


def llada(folder: Path) -> None:
    from prism_plugin.integrations.llada import train_tiny

    size = {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 64}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SIZE", size), ("MASK", 4), ("EOS", 3)):
            patch.setattr(train_tiny, name, value)
        train_tiny.remote_code(Path(os.environ["PRISM_HOST_DLLM"]), folder, len(WORDS))
        host, _ = load_empty(folder)
        host.save_pretrained(folder)
        train_tiny.remote_code(Path(os.environ["PRISM_HOST_DLLM"]), folder, len(WORDS))


def load_empty(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    return AutoModel.from_config(config, trust_remote_code=True), config


REAL = pytest.mark.skipif("PRISM_HOST_DLLM" not in os.environ, reason="PRISM_HOST_DLLM names no checkout")
HOSTS = [bert, pytest.param(llada, marks=[pytest.mark.real_host, REAL])]


@pytest.fixture(scope="module", params=HOSTS, ids=["bert", "llada"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with weights of a seed, and its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    request.param(folder)
    words().save_pretrained(folder)
    return str(folder)


def made(checkpoint: str, **given: Any) -> PrismLM:
    return PrismLM(pretrained=checkpoint, **{**BASE, **given})


def scores(lm: PrismLM) -> list[float]:
    from tests.evaluation.test_lm_eval import choices

    return [value for value, _ in lm.loglikelihood(choices({"q": 1}, "the cat", " sat on a mat", " ran to it"))]


@pytest.fixture(scope="module")
def plain(checkpoint: str) -> tuple[list[str], list[float]]:
    lm = made(checkpoint)
    return lm.generate_until(PROMPTS), scores(lm)


@pytest.mark.parametrize("given", [{"device_map": "auto"}, {"device_map": {"": "cpu"}}, {"parallelize": True}, {}])
def test_where_a_model_is_laid_changes_nothing(checkpoint: str, plain: tuple, given: dict) -> None:
    lm = made(checkpoint, **given, revision="main")
    assert (lm.generate_until(PROMPTS), scores(lm)) == plain
    assert lm.get_model_info()["model_revision"] == "main"


def test_updates_of_peft_are_those_that_were_trained(checkpoint: str, plain: tuple, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    denoiser, _ = load_host(checkpoint, trust_remote_code=True)
    names = [name for name, one in denoiser.host.named_modules() if isinstance(one, torch.nn.Linear)]
    lora = peft.LoraConfig(
        r=2, target_modules=[name for name in names if "decoder" not in name and "ff_out" not in name]
    )
    model = peft.get_peft_model(denoiser.host, lora)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path)
    lm = made(checkpoint, peft=str(tmp_path))
    assert scores(lm) != pytest.approx(plain[1])
    merged = PrismLM(model.merge_and_unload(), tokenizer=words(), mask_id=4, **BASE)
    assert scores(lm) == pytest.approx(scores(merged), abs=1e-4)
    assert lm.identity["peft"] == str(tmp_path) and lm.get_model_info()["prism_peft"] == str(tmp_path)


def test_a_tokenizer_may_be_named(checkpoint: str, plain: tuple, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    for file in bare.glob("*token*"):
        file.unlink()
    words().save_pretrained(tmp_path / "words")
    lm = made(str(bare), tokenizer=str(tmp_path / "words"), mask_id=4)
    assert (lm.generate_until(PROMPTS), scores(lm)) == plain
    for name in ("tokenizer", "peft"):
        with pytest.raises(CheckpointError, match=f"{name} = .*nowhere"):
            made(checkpoint, **{name: str(tmp_path / "nowhere")})


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_weights_are_of_the_dtype_that_was_asked_for(checkpoint: str, plain: tuple, name: str) -> None:
    lm = made(checkpoint, dtype=name)
    assert str(lm.dtype) == f"torch.{name}" == lm.get_model_info()["model_dtype"]
    assert scores(lm) == pytest.approx(plain[1], abs=1e-6 if name == "float32" else 0.3)


def test_texts_are_as_long_as_max_length_lets_them_be(checkpoint: str) -> None:
    answers = made(checkpoint, max_length=12).generate_until(PROMPTS)
    assert [answer.figures.get("truncated", False) for answer in answers] == [False, True]
    refused = made(checkpoint, max_length=12, truncation=False).generate_until(PROMPTS)
    assert refused == [answers[0], ""] and "room for 6" in refused[1].figures["failed"]


def test_the_beginning_of_text_is_put_first_on_request(checkpoint: str, plain: tuple) -> None:
    lm = made(checkpoint, add_bos_token=True)
    assert lm.tok_encode("the cat") == [2, 5, 6] and made(checkpoint).tok_encode("the cat") == [5, 6]
    assert scores(lm) != pytest.approx(plain[1])


def test_the_mask_may_be_another(checkpoint: str, plain: tuple) -> None:
    assert (made(checkpoint, mask_id=4).generate_until(PROMPTS), scores(made(checkpoint, mask_id=4))) == plain
    assert scores(made(checkpoint, mask_id=1)) != pytest.approx(plain[1])


def test_a_loaded_model_and_its_tokenizer_are_taken_from_python(checkpoint: str, plain: tuple) -> None:
    denoiser, tokenizer = load_host(checkpoint, trust_remote_code=True)
    lm = PrismLM(denoiser.host, tokenizer=tokenizer, mask_id=4, **BASE)
    assert (lm.generate_until(PROMPTS), scores(lm)) == plain


def test_a_cache_is_refused_where_the_model_has_none(checkpoint: str) -> None:
    with pytest.raises(ConfigError, match="cache"):
        made(checkpoint, cache="dual")


def test_a_cache_and_its_options_are_used_and_told() -> None:
    asked = requests("def f(x):\n", max_gen_toks=32, steps=8)
    given = {"sampler": "random", "sampler.block_length": 16, "device": "cpu"}
    lm = PrismLM("code", **given, **{"cache": "dual", "cache.block_length": 16, "cache.refresh": 4})
    (answer,) = lm.generate_until(asked)
    (whole,) = PrismLM("code", **given).generate_until(asked)
    assert answer.figures["cost"] < whole.figures["cost"] == whole.figures["forwards"]
    assert lm.get_model_info()["prism_cache"] == {
        "name": "dual", "block_length": 16, "refresh": 4, "after_remask": True,
    }  # fmt: skip


def test_a_config_of_lm_eval_nests_its_settings(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``lm_eval run --config``, where the sampler and the cache are mappings and gen_kwargs has a sampler too."""
    pytest.importorskip("lm_eval.config.evaluate_config", reason="lm-eval has configs from 0.4.10 on")
    from lm_eval.__main__ import cli_evaluate

    RESUME["make"](tmp_path / "tasks", 2)
    config = {
        "model": "prism",
        "model_args": {"model": f"{tmp_path}/model", "device": "cpu", "sampler": {"name": "confidence", "steps": 5},
                       "cache": {"name": "prefix", "block_length": 8}},
        "tasks": ["written"], "include_path": f"{tmp_path}/tasks", "output_path": f"{tmp_path}/out",
        "gen_kwargs": {"steps": 3, "sampler": "random", "max_gen_toks": 6, "temperature": 0.7},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--config", f"{tmp_path}/run.yaml"])
    cli_evaluate()
    results, _ = RESUME["told"](tmp_path / "out")
    (used,) = results["prism"]["tasks"]["written"]["settings"]
    assert used["max_gen_toks"] == 6 and used["until"] == ["\ndef"]
    assert {"name": "random", "steps": 3, "temperature": 0.7}.items() <= used["sampler"].items()
    assert results["prism"]["model"]["prism_cache"]["name"] == "prefix"
    assert "written" in capsys.readouterr().out
