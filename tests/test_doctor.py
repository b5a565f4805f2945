"""``prism doctor`` on checkpoints that are fine, and on each way in which one is not."""

import json
from pathlib import Path

import pytest
import transformers
from transformers import BertConfig, BertForMaskedLM

from prism_plugin import cli
from prism_plugin.errors import ConfigError
from prism_plugin.models.hosts import load_host


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    model = BertForMaskedLM(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def doctor(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, dict]:
    code = cli.main(["doctor", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_model_of_ours_is_fine(capsys: pytest.CaptureFixture) -> None:
    code, found = doctor(capsys, "sudoku")
    assert code == 0 and found["fix"] == "" and found["head"] == "its own" and found["host"] == "prism (PrismModel)"
    code, bare = doctor(capsys, "sudoku", "head=none")
    assert code == 0 and bare["head"] == "none" and "without a head" in bare["samplers"]
    assert found["hidden_size"] == 128 and found["mask_id"].startswith("0, from ")


def test_a_masked_language_model_needs_its_mask(capsys: pytest.CaptureFixture, bert: Path) -> None:
    code, found = doctor(capsys, str(bert))
    assert code == 1 and found["fix"] == "neither its config nor its tokenizer names a mask: mask_id=N"
    with pytest.raises(ConfigError, match="has no tokenizer, and its config names no mask_token_id: mask_id=… sets it"):
        load_host(str(bert))
    code, found = doctor(capsys, str(bert), "mask_id=3")
    assert code == 0 and found["host"] == "masked_lm (MaskedLMDenoiser)" and found["mask_id"] == "3, from mask_id=…"
    parameters = sum(p.numel() for p in BertForMaskedLM.from_pretrained(bert).parameters())
    assert found["memory"]["f32"] == f"{parameters * 4 / 1e9:.3g} GB"
    assert "wino" in found["refused"] and "prism" not in found["refused"]
    assert doctor(capsys, str(bert), "mask_id=20")[1]["fix"].startswith("mask_id = 20 is outside the vocabulary")


def test_a_head_of_another_model_is_told(capsys: pytest.CaptureFixture, bert: Path, tmp_path: Path) -> None:
    import prism_plugin
    from prism_plugin.quality.head import attach_head, save_head

    denoiser = prism_plugin.enable(BertForMaskedLM.from_pretrained(bert), mask_id=3).denoiser
    attach_head(denoiser, "mlp")
    save_head(denoiser, tmp_path / "head")
    assert doctor(capsys, str(bert), "mask_id=3", f"head={tmp_path / 'head'}")[0] == 0
    code, found = doctor(capsys, str(bert), "mask_id=4", f"head={tmp_path / 'head'}")
    assert code == 1 and "was made for mask_id = 3, the model has 4" in found["fix"]
    assert doctor(capsys, str(bert), "mask_id=3", "head=nowhere")[0] == 1


def test_what_cannot_be_read_is_one_line(capsys: pytest.CaptureFixture, bert: Path) -> None:
    (bert / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 20, "mask_token_id": 3}')
    code, found = doctor(capsys, str(bert))
    assert code == 1 and "no host loads a model of type 'gpt2'" in found["fix"]
    (bert / "model.safetensors").write_bytes(b"short")
    assert cli.main(["doctor", str(bert)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert cli.main(["doctor", "sudoku", "haed=x"]) == 2
    assert "Nearest: head" in capsys.readouterr().err


QWEN = {"vocab_size": 152064, "hidden_size": 32}


@pytest.mark.parametrize(
    ("config", "host", "mask", "below"),
    [
        ({"model_type": "llada", "d_model": 32, "vocab_size": 126464}, "llada", 126336, 0),
        ({"model_type": "lladamoe", "architectures": ["LLaDAMoEModelLM"], "vocab_size": 157184, "hidden_size": 32},
         "llada_moe", 156895, 5),
        ({"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"], **QWEN, "mask_token_id": 9},
         "block_causal", 9, 5),
        ({"model_type": "sdar", "architectures": ["SDARForCausalLM"], **QWEN, "mask_token_id": 151669},
         "block_causal", 151669, 5),
        ({"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"], **QWEN},
         "block_causal", 151665, 0),
        ({"model_type": "Dream", "architectures": ["DreamModel"], **QWEN, "mask_token_id": 151666}, "dream", 151666, 0),
        ({"model_type": "mdlm", "vocab_size": 50258, "hidden_dim": 32}, "mdlm", 50257, 0),
        ({"model_type": "proseco", "vocab_size": 50258, "hidden_dim": 32}, "mdlm", 50257, 0),
        ({"model_type": "a2d-qwen3", **QWEN, "mask_token_id": 9}, "dllm", 9, 5),
        ({"model_type": "modernbert", **QWEN, "mask_token_id": 9}, "masked_lm", 9, 0),
    ],
)  # fmt: skip
def test_every_host_is_told_with_its_mask_and_the_versions_that_fit(
    capsys: pytest.CaptureFixture, tmp_path: Path, config: dict, host: str, mask: int, below: int
) -> None:
    remote = {} if host == "masked_lm" else {"auto_map": {"AutoModel": "modeling.Model"}}
    (tmp_path / "config.json").write_text(json.dumps({**remote, **config}))
    code, found = doctor(capsys, str(tmp_path))
    assert found["host"].startswith(f"{host} (") and found["mask_id"].startswith(f"{mask}, from ")
    assert found["hidden_size"] == 32 and ("trust_remote_code=true" in found["versions"]) == bool(remote)
    assert (f",<{below}" in found["versions"]) == bool(below) and "torch >=2.5 fit" in found["versions"]
    wrong = bool(below) and int(transformers.__version__.split(".")[0]) >= below
    assert code == int(wrong) and ("pip install 'transformers>=" in found["fix"]) == wrong
