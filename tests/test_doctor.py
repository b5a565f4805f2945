"""``prism doctor`` on checkpoints that are fine, and on each way in which one is not."""

import json
from pathlib import Path

import pytest
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
