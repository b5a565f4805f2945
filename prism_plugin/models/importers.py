"""Checkpoints of PRISM's release and of MDLM as folders of ours (SeunggeunKimkr/PRISM at 266d51e, kuleshov-group/mdlm).

DiT       Lightning files: ``state_dict`` with backbone.* and, where a head was trained, adapter.*; the average of the
          backbone's weights in ``ema``, in the order of its parameters (a head has none). They become a ``PrismModel``:
          our backbone has the same shape, so that nothing of the release is needed to run it.
LLaDA     ``pytorch_model.bin`` of RemaskingLLaDA: remasking_head.*, and LoRA in the backbone. They become a head and an
          adapter of peft for the LLaDA that one has.

Such files are pickles with the objects of a configuration in them. Nothing of them is run or imported: tensors are
kept, and every other object becomes a ``Stub``.
"""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..files import output_folder, replace_model, save_json, save_weights
from ..quality.head import HeadConfig, MLPHead, attach_head, fingerprint_of
from .backbone import BackboneConfig
from .checkpoint import PrismModel

Weights = dict[str, Tensor]

TENSORS = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
}
"""All that a pickle may name, storages apart, which torch makes itself."""

KNOWN = {11: (0, 89), 50258: (50257, 1024)}
"""Mask and length of the release's runs by size of the vocabulary: Sudoku, and text in GPT-2's symbols."""

LLADA_MASK = 126336


class Stub:
    """What stands for an object of a class that is not loaded; it takes whatever a pickle does to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Stub":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    __setstate__ = append = extend = add = __call__


class Unpickler(pickle.Unpickler):
    """Finds what tensors are made of and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in TENSORS else Stub


def read(path: str | Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, its tensors on the CPU and read when they are used, all else that is no plain value a
    ``Stub``. Raises CheckpointError where it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise CheckpointError(f"{path} is a TorchScript archive, which is code: it is not loaded.")
        found = torch.load(
            path, "cpu", SimpleNamespace(__name__="tensors", Unpickler=Unpickler), weights_only=False, mmap=True
        )
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there.") from None
    except (
        OSError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        EOFError,
        AttributeError,
    ) as error:
        raise CheckpointError(f"{path} is damaged, or no file of torch.save: {error}.") from error
    weights = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path} holds no state_dict but a {type(weights).__name__}.")
    return found


def convert(
    path: str | Path, out: str | Path, mask_id: int = -1, length: int = 0, ema: bool = True, lora_alpha: int = 0
) -> str:
    """Write a checkpoint of the release as a folder of ours; returns what was found.

    DiT: mask_id and length are known for the release's runs and to be given for others; ema=False takes the weights
    themselves in place of their average. LLaDA: lora_alpha is not in the file, the release has it equal to the rank.
    Raises CheckpointError where the file is none of the release's, ConfigError where something must be given.
    """
    content = read(path)
    weights = content.get("state_dict", content)
    if "remasking_head.norm.weight" in weights:
        return _convert_llada(weights, output_folder(out), lora_alpha)
    if not any(str(name).startswith("backbone.blocks.") for name in weights):
        raise CheckpointError(
            f"{path} is neither a checkpoint of MDLM's or PRISM's DiT (backbone.blocks.*) nor of PRISM's LLaDA "
            "(remasking_head.*)."
        )
    try:
        model = _dit(content, mask_id, length, ema)
    except KeyError as missing:
        raise CheckpointError(f"{path}: {missing} is missing, which every DiT of the release has.") from missing
    with replace_model(out) as folder:
        model.save_pretrained(folder)
    head = f"head dit of {model.head.config.num_layers} blocks" if model.head is not None else "no head"
    size = sum(p.numel() for p in model.backbone.parameters()) / 1e6
    return f"DiT of {size:.1f} million parameters, {head}; time conditioning is off, as in the release"


# ---- DiT


def _dit(content: Mapping[str, Any], mask_id: int, length: int, ema: bool) -> PrismModel:
    """A Lightning checkpoint as a model in eval mode."""
    backbone, adapter = _part(content["state_dict"], "backbone."), _part(content["state_dict"], "adapter.")
    if ema and isinstance(content.get("ema"), dict):
        _average(backbone, adapter, content["ema"]["shadow_params"])
    vocab_size, size = _shape(backbone, "vocab_embed.embedding")
    known = KNOWN.get(vocab_size, (-1, 0))
    mask_id, length = (mask_id if mask_id >= 0 else known[0]), length or known[1]
    if mask_id < 0 or not length:
        raise ConfigError(
            f"a vocabulary of {vocab_size}: give length=… and mask_id=… (MDLM: the tokenizer's, or the last symbol)."
        )
    shape = BackboneConfig(
        vocab_size=vocab_size, mask_id=mask_id, length=length, hidden_size=size, num_layers=_layers(backbone),
        num_heads=size // (2 * len(backbone.pop("rotary_emb.inv_freq"))),
        cond_size=_shape(backbone, "sigma_map.mlp.0.weight")[0],
    )  # fmt: skip
    model = PrismModel(shape, "")
    ours = {"embed.weight": backbone.pop("vocab_embed.embedding")}
    # The release never conditions on time: sigma is 0, its waves are cosines of 1 and sines of 0.
    first = backbone.pop("sigma_map.mlp.0.weight")
    ours["time.0.weight"] = torch.zeros(len(first), 64)
    ours["time.0.bias"] = first[:, : first.shape[1] // 2].sum(1) + backbone.pop("sigma_map.mlp.0.bias")
    for name in ("weight", "bias"):
        ours[f"time.2.{name}"] = backbone.pop(f"sigma_map.mlp.2.{name}")
    ours |= _blocks(backbone) | _final(backbone, "unembed")
    _fill(model.backbone, ours, backbone, "backbone")
    if adapter:
        if "vocab_embed.embedding" in adapter:
            raise CheckpointError("the adapter reads tokens (a critic), not hidden states: it is no head of PRISM.")
        adapter.pop("rotary_emb.inv_freq")
        head = attach_head(model, HeadConfig("dit", num_layers=_layers(adapter), num_heads=shape.num_heads))
        _fill(head, _blocks(adapter) | _final(adapter, "proj"), adapter, "adapter")
        model.trained = {"from": "PRISM release, DiT"}
    return model.eval()


def _part(weights: Mapping[str, Any], prefix: str) -> Weights:
    """The tensors under a prefix, in f32 and in their order."""
    found = {name.removeprefix(prefix): value for name, value in weights.items() if str(name).startswith(prefix)}
    wrong = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{prefix}{wrong[0]} is no tensor but a {type(found[wrong[0]]).__name__}.")
    return {name: value.float() for name, value in found.items()}


def _average(backbone: Weights, adapter: Weights, shadow: list[Tensor]) -> None:
    """Put the averaged weights in place: they are in the order of the parameters of the backbone (where it was tuned)
    or of the adapter.
    """
    for part in (backbone, adapter):
        names = [name for name in part if name != "rotary_emb.inv_freq"]
        if [part[name].shape for name in names] == [value.shape for value in shadow]:
            part.update(zip(names, (value.float() for value in shadow), strict=True))
            return
    raise CheckpointError(
        f"ema holds {len(shadow)} tensors, which are not the {len(backbone) - 1} of the backbone in their order: "
        "ema=false takes the weights themselves."
    )


def _shape(weights: Weights, name: str) -> tuple[int, int]:
    if name not in weights or weights[name].dim() != 2:
        raise CheckpointError(f"backbone.{name} is missing or no matrix: this is no DiT of MDLM's shape.")
    return weights[name].shape[0], weights[name].shape[1]


def _layers(weights: Weights) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def _modulated(norm: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm with a scale of its own, then adaLN, as adaLN alone: (norm x)(1 + scale) + shift of the bare norm.

    shift, scale: rows of a weight or entries of a bias; for the bias the 1 belongs to the scale.
    """
    if scale.dim() == 1:
        return torch.cat([shift, norm * (1 + scale) - 1])
    return torch.cat([shift, norm[:, None] * scale])


def _blocks(weights: Weights) -> Weights:
    """blocks.* of the release in our names; what is used is taken out of ``weights``."""
    ours: Weights = {}
    for number in range(_layers(weights)):
        at = f"blocks.{number}."
        for name, own in (("attn_qkv", "qkv"), ("attn_out", "out")):
            ours[f"{at}{own}.weight"] = weights.pop(f"{at}{name}.weight")
        norm1, norm2 = weights.pop(f"{at}norm1.weight"), weights.pop(f"{at}norm2.weight")
        for kind in ("weight", "bias"):
            for layer in (0, 2):
                ours[f"{at}mlp.{layer}.{kind}"] = weights.pop(f"{at}mlp.{layer}.{kind}")
            shift1, scale1, gate1, shift2, scale2, gate2 = weights.pop(f"{at}adaLN_modulation.{kind}").chunk(6)
            ours[f"{at}norm1.modulation.{kind}"] = _modulated(norm1, shift1, scale1)
            ours[f"{at}norm2.modulation.{kind}"] = _modulated(norm2, shift2, scale2)
            ours[f"{at}gates.{kind}"] = torch.cat([gate1, gate2])
    return ours


def _final(weights: Weights, own: str) -> Weights:
    """output_layer.* of the release in our names."""
    ours: Weights = {}
    norm = weights.pop("output_layer.norm_final.weight")
    for kind in ("weight", "bias"):
        shift, scale = weights.pop(f"output_layer.adaLN_modulation.{kind}").chunk(2)
        ours[f"norm.modulation.{kind}"] = _modulated(norm, shift, scale)
        ours[f"{own}.{kind}"] = weights.pop(f"output_layer.linear.{kind}")
    return ours


def _fill(module: torch.nn.Module, ours: Weights, left: Weights, name: str) -> None:
    """Load converted weights; CheckpointError where the file holds more, or other shapes."""
    if left:
        raise CheckpointError(f"{name}.{next(iter(left))} is not of the release's DiT.")
    try:
        module.load_state_dict(ours)
    except RuntimeError as error:
        raise CheckpointError(f"{name} does not have the shape of the release's DiT: {error}") from error


# ---- LLaDA


def _convert_llada(weights: Mapping[str, Tensor], out: Path, lora_alpha: int) -> str:
    head_weights, backbone = _part(weights, "remasking_head."), "backbone.base_model.model."
    size = len(head_weights["norm.weight"])
    head = MLPHead(HeadConfig("mlp", hidden_size=size))
    _fill(head, head_weights, {}, "remasking_head")
    base = {
        name.removeprefix(backbone).replace(".base_layer.", "."): value
        for name, value in weights.items()
        if name.startswith(backbone) and "lora_" not in name
    }
    lora = {
        name.removeprefix("backbone.").replace(".default.", "."): value
        for name, value in weights.items()
        if "lora_" in name
    }
    table = base["model.transformer.wte.weight"].shape
    print_of = fingerprint_of(base.values(), {table, table[:1]})
    fits = {"vocab_size": table[0], "mask_id": LLADA_MASK, "hidden_at": "post_norm", "fingerprint": print_of}
    with replace_model(out) as folder:
        if lora:
            rank = min(next(iter(lora.values())).shape)
            described = {
                "peft_type": "LORA", "base_model_name_or_path": "GSAI-ML/LLaDA-8B-Instruct", "inference_mode": True,
                "r": rank, "lora_alpha": lora_alpha or rank, "bias": "none",
                "target_modules": sorted({name.split(".lora_")[0].rpartition(".")[2] for name in lora}),
            }  # fmt: skip
            save_json(folder / "adapter_config.json", described)
            save_weights(folder / "adapter_model.safetensors", lora)
        save_weights(folder / "head.safetensors", head)
        trained = {"from": "PRISM release, LLaDA"}
        save_json(folder / "prism_config.json", {"head": asdict(head.config), "model": fits, "trained": trained})
    return f"head mlp for a LLaDA of hidden size {size}, " + (f"LoRA of rank {rank}" if lora else "no LoRA")
