"""A masked language model of transformers by its folder, offline: written with, scored, corrected, a head trained."""

import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

import prism_plugin
from prism_plugin.config import load
from prism_plugin.errors import ConfigError
from prism_plugin.integrations.masked_lm import MaskedLMDenoiser
from prism_plugin.training.train import train

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "to", "it"]
MASK = WORDS.index("[MASK]")
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``save_pretrained`` writes it: a tiny BERT with a tokenizer of words."""
    folder = tmp_path_factory.mktemp("bert")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, pad_token_id=0, **SIZE))
    with torch.no_grad():
        model.cls.predictions.bias[:5] = -20  # a trained model does not write what is no word
    model.save_pretrained(folder)
    return folder


def test_by_its_folder_it_writes_scores_and_corrects(checkpoint: Path) -> None:
    prism = prism_plugin.enable(checkpoint, steps=4)
    assert isinstance(prism.denoiser, MaskedLMDenoiser) and prism.denoiser.mask_id == MASK
    result = prism.infill("the cat [MASK] on [MASK*2]")
    words = result.texts[0].split()
    assert len(words) == 6 and words[:2] == ["the", "cat"] and set(words) <= set(WORDS[5:])
    assert (result.tokens != MASK).all()
    written = prism.generate(["the cat", "it"], max_new_tokens=4)
    assert [len(text.split()) for text in written.texts] == [4, 4]
    alone = prism.generate("it", max_new_tokens=4, request=torch.tensor([1]))
    assert alone.texts[0] == written.texts[1], "padding changes nothing"
    ids = torch.tensor([[2, 5, 6, MASK, 3]])
    assert prism.score(ids).isnan().tolist() == [[False, False, False, True, False]]
    assert prism.correct("the cat sat on a mat").texts[0].split()


def test_a_head_is_trained_on_it_by_name_and_found_again(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "the cat", "response": "sat on a mat"}, {"prompt": "the dog", "response": "ran to it"}] * 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ["train.steps=3", "train.batch_size=4", "train.warmup=1", "train.eval_texts=8", "train.threads=1",
                "quality.k=2", "train.tune=head", f"model={checkpoint}", f"data={tmp_path / 'rows.jsonl'}"]  # fmt: skip
    made = train("quality", load([*settings, f"out={tmp_path / 'head'}"]))
    prism = prism_plugin.enable(checkpoint, head=made, steps=4)
    assert prism.config().name == "prism"
    about = json.loads((made / "prism_config.json").read_text())
    assert about["head"]["name"] == "mlp" and about["model"]["hidden_at"] == "post_norm"
    assert (prism.generate("the cat", max_new_tokens=4).tokens != MASK).all()


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_model_itself_is_trained_on_and_is_a_checkpoint_again(tune: str, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the cat", "response": "sat on a mat"}\n' * 16)
    settings = ["train.steps=3", "train.batch_size=4", "train.warmup=1", "train.eval_texts=8", "train.threads=1",
                *(["lora.r=2"] if tune == "lora" else []), "train.lr=0.05", "train.bf16=false",
                "corrector.weight=1", "corrector.over=filled", f"train.tune={tune}",
                f"model={checkpoint}", f"data={tmp_path / 'rows.jsonl'}"]  # fmt: skip
    made = train("mdm", load([*settings, f"out={tmp_path / 'further'}"]))
    before, after = (BertForMaskedLM.from_pretrained(folder).state_dict() for folder in (checkpoint, made))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved
    assert tune == "full" or all(re.search("query|key|value", name) for name in moved)
    assert prism_plugin.enable(made, steps=2).infill("the cat [MASK]").texts[0].startswith("the cat")


def test_a_model_in_memory_needs_its_mask_or_its_tokenizer(checkpoint: Path) -> None:
    model = BertForMaskedLM.from_pretrained(checkpoint)
    with pytest.raises(ConfigError, match="its config names no mask_token_id: give mask_id=…, or a tokenizer"):
        prism_plugin.enable(model)
    assert prism_plugin.enable(model, mask_id=MASK).denoiser.mask_id == MASK
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    assert prism_plugin.enable(model, tokenizer=tokenizer).denoiser.mask_id == MASK
    with pytest.raises(ConfigError, match="mask_id = 15 is outside the vocabulary: allowed 0 to 14"):
        prism_plugin.enable(model, mask_id=15)


def test_precision_and_device_are_for_what_is_named(checkpoint: Path) -> None:
    prism = prism_plugin.enable(checkpoint, dtype=torch.bfloat16, device="cpu", padding=False)
    assert {p.dtype for p in prism.denoiser.host.parameters()} == {torch.bfloat16}
    assert "padding" not in prism.denoiser.gives
    with pytest.raises(ConfigError, match=r"dtype = .*bfloat16 is for a model that is named"):
        prism_plugin.enable(prism.denoiser.host, mask_id=MASK, dtype=torch.bfloat16)


def test_a_checkpoint_without_a_decoder_cannot_fill_masks(checkpoint: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(checkpoint).save_pretrained(tmp_path)
    for file in checkpoint.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"holds no weights for cls\.predictions.*: it cannot fill masks"):
        prism_plugin.enable(tmp_path)
