"""The hosts' real modeling code, with random weights; a checkout is named by PRISM_HOST_<NAME>."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypedDict
from unittest import mock

import pytest
import torch
import transformers
from torch import nn

from prism_plugin.integrations.block_causal import BlockCausalDenoiser
from prism_plugin.integrations.dllm.adapter import A2DDenoiser
from prism_plugin.integrations.dream import DreamDenoiser, OpenDLLMDenoiser
from prism_plugin.integrations.fast_dllm import FastDLLMDenoiser, FastDreamDenoiser
from prism_plugin.integrations.llada.adapter import LLaDAMoEDenoiser
from prism_plugin.integrations.mdlm.adapter import MDLMDenoiser
from prism_plugin.models.remote import fit

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "sdpa"}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
       "first_k_dense_replace": 1, "num_shared_experts": 1, "head_dim": 16}  # fmt: skip
LLADA = {
    "d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 60, "embedding_size": 60,
    "max_sequence_length": 64, "mask_token_id": 59, "eos_token_id": 2, "pad_token_id": 2, "activation_type": "silu",
    "block_type": "llama", "layer_norm_type": "rms", "attention_dropout": 0.0, "residual_dropout": 0.0, "rope": True,
    "embedding_dropout": 0.0, "include_bias": False, "weight_tying": False, "init_device": "cpu",
    "block_group_size": 1, "use_cache": False,
}  # fmt: skip

LLADA_MOE = {
    "vocab_size": 60, "hidden_size": 32, "dense_intermediate_size": 48, "expert_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_experts": 4,
    "num_experts_per_tok": 2, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 2,
    "rope_theta": 10000.0, "partial_rotary_factor": 1.0, "norm_topk_prob": True, "qk_layernorm": True,
    "moe_layer_freq": [0, 1], "moe_router_score_function": "softmax", "attn_implementation": "sdpa",
}  # fmt: skip

PROSECO = {"vocab_size": 60, "model_length": 64, "hidden_dim": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 2,
           "dropout": 0.1, "time_conditioning": False, "cfg": False, "cfg_num_classes": -1}  # fmt: skip

VEOMNI = "veomni.models.transformers"  # a package whose files import one another, so it is taken whole

Host = tuple[str, str, str, str, str, dict[str, Any], Callable[..., Any]]
HOSTS: dict[str, Host] = {
    "dream": ("DLLM", "dllm/pipelines/dream/models", "configuration_dream.DreamConfig", "modeling_dream",
              "DreamModel", SMALL, DreamDenoiser),
    "open-dllm": ("OPEN_DLLM", "", f"{VEOMNI}.qwen2.modeling_qwen2.Qwen2Config", f"{VEOMNI}.qwen2.modeling_qwen2",
                  "Qwen2ForCausalLM", {**SMALL, "pad_token_id": None}, OpenDLLMDenoiser),
    "open-dllm-qwen3": ("OPEN_DLLM", "", f"{VEOMNI}.qwen3.modeling_qwen3.Qwen3Config",
                        f"{VEOMNI}.qwen3.modeling_qwen3", "Qwen3ForCausalLM",
                        {**SMALL, "head_dim": 16, "pad_token_id": None}, OpenDLLMDenoiser),
    "dream-fast": ("FAST_DLLM", "dream/model", "configuration_dream.DreamConfig", "modeling_dream", "DreamModel",
                   SMALL, FastDreamDenoiser),
    "dream-fast-dllm": ("DLLM", "dllm/pipelines/fastdllm/dream/models", "configuration_dream.FastdLLMDreamConfig",
                        "modeling_dream", "FastdLLMDreamModel", SMALL, FastDreamDenoiser),
    "llada-fast-dllm": ("DLLM", "dllm/pipelines/fastdllm/llada/models", "configuration_llada.FastdLLMLLaDAConfig",
                        "modeling_llada", "FastdLLMLLaDAModelLM", LLADA, FastDLLMDenoiser),
    "llada-fast": ("FAST_DLLM", "llada/model", "configuration_llada.LLaDAConfig", "modeling_llada", "LLaDAModelLM",
                   LLADA, FastDLLMDenoiser),
    "llada2": ("DLLM", "dllm/pipelines/llada2/models", "configuration_llada2_moe.LLaDA2MoeConfig",
               "modeling_llada2_moe", "LLaDA2MoeModelLM", {**SMALL, **MOE}, BlockCausalDenoiser),
    "llada21": ("DLLM", "dllm/pipelines/llada21/models", "configuration_llada21_moe.LLaDA2MoeConfig",
                "modeling_llada21_moe", "LLaDA2MoeModelLM", {**SMALL, **MOE}, BlockCausalDenoiser),
    "a2d": ("DLLM", "dllm/pipelines/a2d/models/qwen3", "modeling_qwen3.A2DQwen3Config", "modeling_qwen3",
            "A2DQwen3LMHeadModel", {**SMALL, "head_dim": 16}, A2DDenoiser),
    "sdar": ("SDAR", "training/model/SDAR-4B-Chat", "configuration_sdar.SDARConfig", "modeling_sdar",
             "SDARForCausalLM", {**SMALL, "head_dim": 16, "fuse_cross_entropy": False}, BlockCausalDenoiser),
    "trado": ("DLLM_RL", "models/sdar", "configuration_sdar.SDARConfig", "modeling_sdar", "SDARForCausalLM",
              {**SMALL, "head_dim": 16, "fuse_cross_entropy": False}, BlockCausalDenoiser),
    "fast-dllm-v2": ("FAST_DLLM_V2", "", "configuration.Fast_dLLM_QwenConfig", "modeling", "Fast_dLLM_QwenForCausalLM",
                     {**SMALL, "bd_size": 4}, BlockCausalDenoiser),
    "proseco": ("PROSECO", "models/hf", "configuration_proseco.ProsecoConfig", "modeling_proseco", "Proseco", PROSECO,
                MDLMDenoiser),
    "llada-moe": ("DLLM", "dllm/pipelines/llada/models", "configuration_lladamoe.LLaDAMoEConfig", "modeling_lladamoe",
                  "LLaDAMoEModelLM", LLADA_MOE, LLaDAMoEDenoiser),
}  # fmt: skip


def module(folder: Path, name: str) -> Any:
    """A file of the checkout as a module of a package of its own, so that its relative imports work."""
    package = "real_" + "_".join(folder.parts[-4:]).replace("-", "_").replace(".", "_")
    if package not in sys.modules:
        spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
        sys.modules[package] = importlib.util.module_from_spec(spec)
        sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f"{package}.{name}")


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """While modules of a folder are imported by their own names."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def dllm_library() -> Iterator[Any]:
    """``dllm`` of the checkout, and ours on it; both are forgotten afterwards."""
    if "PRISM_HOST_DLLM" not in os.environ:
        pytest.skip("PRISM_HOST_DLLM names no checkout")
    with on_path(Path(os.environ["PRISM_HOST_DLLM"])):
        try:
            yield importlib.import_module("dllm")
        finally:
            ours = [f"prism_plugin.integrations.dllm.{name}" for name in ("sampler", "eval")]
            for name in [name for name in sys.modules if name.split(".")[0] == "dllm" or name in ours]:
                del sys.modules[name]


@contextmanager
def stand_ins(needed: bool) -> Iterator[None]:
    """While SDAR's files are imported, what they import and a CPU does not have: flash-attn's norm and attention, and
    Triton, unused.
    """
    if not needed:
        with on_path(Path(__file__).parents[1] / "hosts" / "stand_ins"):  # flash-attn, for MDLM's family
            yield
        return
    torch.compile(lambda x: x)  # its own modules, which look for Triton, are imported without the one below

    def norm(x: torch.Tensor, weight: torch.Tensor, bias: None, eps: float) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, softmax_scale: float) -> torch.Tensor:
        q, k, v = (table.transpose(1, 2) for table in (q, k, v))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale, enable_gqa=True)
        return mixed.transpose(1, 2)

    made = {"flash_attn": {"flash_attn_func": attend}, "flash_attn.ops.triton.layer_norm": {"rms_norm_fn": norm}}
    for name in ("flash_attn.ops", "flash_attn.ops.triton", "flash_attn.bert_padding", "triton", "triton.language"):
        made[name] = {}
    for name, holds in made.items():
        made_up = mock.MagicMock(__path__=[], **holds)
        made_up.__spec__ = ModuleSpec(name, None)  # transformers asks whether it is there
        sys.modules[name] = made_up
    transformers.utils.LossKwargs = getattr(transformers.utils, "LossKwargs", TypedDict("LossKwargs", {}))
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def build(name: str) -> nn.Module:
    """The real class with random weights, large enough that every position differs."""
    variable, where, config, code, kind, sizes, _ = HOSTS[name]
    if f"PRISM_HOST_{variable}" not in os.environ:
        pytest.skip(f"PRISM_HOST_{variable} names no checkout")
    checkout = Path(os.environ[f"PRISM_HOST_{variable}"])
    folder = checkout / where
    file, config_class = config.rsplit(".", 1)
    try:
        with on_path(checkout), stand_ins("SDAR" in kind):  # code of dLLM imports dllm
            model_class = fit(getattr(module(folder, code), kind))
    except ImportError as missing:
        if not str(missing.name).startswith("transformers."):
            raise
        pytest.skip(f"its code does not load with transformers {transformers.__version__}: {missing}")
    made = getattr(module(folder, file), config_class)(**sizes)
    for key, value in sizes.items():
        if not hasattr(made, key):
            setattr(made, key, value)
    if not kind.endswith(("LLaDAModelLM", "Proseco")):  # they call sdpa, or flash-attn, themselves
        made._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model: nn.Module = model_class(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1) + (parameter.ndim == 1))
    return model
