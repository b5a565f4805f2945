"""Tiny checkpoints in dLLM's formats, by its own classes, for its ``get_model`` and ``get_tokenizer``."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import nn

from prism_plugin.quality.head import attach_head, save_head

from .real_models import LLADA, MOE, SMALL

PROMPTS = "Sorry, I do not have answer to this question. Please write an educational"  # of the library's examples
WORDS = [*"abcdefghijklmnopqrstuvwxyz", *PROMPTS.split()]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<|im_end|>", "<|role_end|>", "<|eot_id|>", "[/Answer]", "<mask>"]
SIZE = len(SPECIAL) + len(WORDS)
MASK = SPECIAL.index("<mask>")
LONG = {"vocab_size": SIZE, "max_position_embeddings": 256, "eos_token_id": 2, "pad_token_id": 0}

BERT = {**LONG, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
KINDS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llada": ("dllm.pipelines.llada.models", "LLaDAConfig", "LLaDAModelLM",
              {**LLADA, "vocab_size": SIZE, "embedding_size": SIZE, "max_sequence_length": 256, "mask_token_id": MASK}),
    "bert": ("transformers", "BertConfig", "BertForMaskedLM", {**BERT, "tie_word_embeddings": False}),
    "a2d": ("dllm.pipelines.a2d", "A2DQwen3Config", "A2DQwen3LMHeadModel", {**SMALL, **LONG, "head_dim": 16}),
    "dream": ("dllm.pipelines.dream.models", "DreamConfig", "DreamModel", {**SMALL, **LONG, "mask_token_id": MASK}),
    "llada2": ("dllm.pipelines.llada2.models", "LLaDA2MoeConfig", "LLaDA2MoeModelLM", {**SMALL, **MOE, **LONG}),
    "llada21": ("dllm.pipelines.llada21.models", "LLaDA2MoeConfig", "LLaDA2MoeModelLM", {**SMALL, **MOE, **LONG}),
}  # fmt: skip
"""Where the library has a kind's classes, and sizes."""

TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} <|im_end|> {% endfor %}"
NAMES = {"llada": "<|mdm_mask|>", "bert": "[MASK]", "dream": "<|mask|>"}


def tokenizer_of(kind: str) -> Any:
    """A word is a token, so that the texts in which the library's examples fill masks have one length, as its
    ``infill_trim`` needs; the mask has the name that the library gives it.
    """
    mask = NAMES.get(kind, "<|mask|>")
    words = {mask if name == "<mask>" else name: number for number, name in enumerate([*SPECIAL, *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, mask_token=mask, **special)
    made.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|role_end|>", "<|eot_id|>", "[/Answer]"]})
    made.chat_template = TEMPLATE
    return made


@contextmanager
def on_cpu() -> Iterator[None]:
    """While it lasts the library's LLaDA, which asks for a GPU by name when it is built, gets the CPU."""
    code = importlib.import_module("dllm.pipelines.llada.models.modeling_llada")
    read = code.create_model_config_from_pretrained_config

    def placed(given: Any) -> Any:
        made = read(given)
        place = property(lambda self: "cpu", lambda self, value: None)
        made.__class__ = type("OnCPU", (type(made),), {"init_device": place})
        return made

    code.create_model_config_from_pretrained_config = placed
    try:
        yield
    finally:
        code.create_model_config_from_pretrained_config = read


def checkpoint(kind: str, folder: Path, adapter: Any) -> str:
    """Write a checkpoint of random weights that never writes a special token, and under ``head`` a head for it."""
    where, config, name, sizes = KINDS[kind]
    package = importlib.import_module(where)
    torch.manual_seed(0)
    with on_cpu():
        made: Any = getattr(package, name)(getattr(package, config)(**sizes)).eval()
    scramble(made)
    made.save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    denoiser = adapter(made, MASK)
    attach_head(denoiser, "mlp")
    save_head(denoiser, folder / "head")
    return str(folder)


def scramble(model: Any) -> None:
    """Weights that make every position differ, by sharp attention, and special tokens unlikely: by the bias, or where
    there is none by one direction of the states that no layer writes to.
    """
    special = slice(len(SPECIAL))
    layer: nn.Linear = model.get_output_embeddings()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            sharp = any(word in name for word in ("q_proj", "k_proj", "query", "key"))
            size = 0.1 if parameter.ndim == 1 else 1.5 if sharp else 0.4
            parameter.copy_(torch.randn_like(parameter) * size + (parameter.ndim == 1 and "bias" not in name))
            if parameter.ndim > 1 and layer.bias is None:
                parameter[0] = 0.0
        if layer.bias is not None:
            layer.bias[special] = -1e4
            return
        model.get_input_embeddings().weight[:, 0] = 2.0
        layer.weight[:, 0] = 0.0
        layer.weight[special] = 0.0
        layer.weight[special, 0] = -100.0
