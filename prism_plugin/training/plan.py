"""``prism train … --dry-run``: what a run needs, from the config alone. No weights are made, loaded or written.

Modules are built on the ``meta`` device and get their head and LoRA from the code that a run uses, so that parameters
and the bytes of weights, gradients and optimizer are exact. Activations, FLOPs and days are estimates.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from ..config import Config, DataConfig
from ..errors import CheckpointError, ConfigError, DataError
from ..models.backbone import BackboneConfig
from ..models.checkpoint import ASSETS, PrismModel, embedded
from ..models.denoiser import Denoiser
from ..models.hosts import is_ours, read_config
from ..models.lora import network
from .objectives import FILLS, KEPT, PER_RUN, run_steps
from .train import free, prepare, shape, tuned, unread

LLADA_8B = {
    "model_type": "llada", "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288,
    "embedding_size": 126464, "vocab_size": 126464, "max_sequence_length": 4096,
}  # fmt: skip
KNOWN: dict[str, dict[str, Any]] = dict.fromkeys(
    ("llada-8b", "GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct"), LLADA_8B
)
"""Models whose config.json needs no download."""

MEMORY = 80e9
GPUS = {"A100": (312e12, 19.5e12), "H100 SXM": (989e12, 67e12)}
"""Peak FLOP/s by NVIDIA's data sheets, dense: bf16 on tensor cores, and f32."""
UTILISATION = 0.4
"""Share of the peak that training is assumed to reach."""

ONCE = re.compile(r"\b(time|modulation|gates)\b")
"""Layers of ours that run once a text, on the time vector, not once a token."""


@dataclass
class Plan:
    """What a run needs; bytes are of one device, ``flops`` of a step, all devices together."""

    name: str
    tune: str
    half: bool
    length: int
    texts: int
    steps: int
    batch_size: int
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    logits: int
    flops: float

    @property
    def memory(self) -> int:
        """Bytes in all."""
        parts = (self.weights, self.gradients, self.optimizer, self.average, self.activations, self.logits)
        return sum(parts)

    def days(self, gpu: str) -> float:
        """Of the whole run on one GPU, at the assumed utilisation of its peak."""
        return self.steps * self.flops / (GPUS[gpu][0 if self.half else 1] * UTILISATION) / 86400


class Skeleton(Denoiser):
    """A host's modules without weights, and what heads ask of a Denoiser."""

    hidden_at = "post_norm"

    def __init__(self, host: nn.Module, vocab_size: int, hidden_size: int, max_length: int) -> None:
        super().__init__()
        self.host, self.vocab_size, self.hidden_size, self.max_length = host, vocab_size, hidden_size, max_length
        self.mask_id = 0

    def embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        """See ``Denoiser.embedded``: of no weight here."""
        return torch.zeros(*tokens.shape, self.hidden_size)


def llada(config: dict[str, Any]) -> Any:
    """The layers of LLaDA's model (modeling_llada.py, block type ``llama``, no biases, RMSNorm), without weights."""
    size, wide = config["d_model"], config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * config["d_model"]
    inner = size * (config.get("n_kv_heads") or config["n_heads"]) // config["n_heads"]
    symbols = config.get("embedding_size") or config["vocab_size"]

    def linear(one: int, other: int) -> nn.Linear:
        return nn.Linear(one, other, bias=bool(config.get("include_bias")))

    def block() -> nn.Module:
        layers = {"q_proj": (size, size), "k_proj": (size, inner), "v_proj": (size, inner), "attn_out": (size, size)}
        layers |= {"ff_proj": (size, wide), "up_proj": (size, wide), "ff_out": (wide, size)}
        made: dict[str, nn.Module] = {name: linear(*shape) for name, shape in layers.items()}
        return nn.ModuleDict(made | {"attn_norm": nn.RMSNorm(size), "ff_norm": nn.RMSNorm(size)})

    model: dict[str, nn.Module] = {"wte": nn.Embedding(symbols, size), "ln_f": nn.RMSNorm(size)}
    if not config.get("weight_tying"):
        model["ff_out"] = linear(size, symbols)
    return nn.ModuleDict(model | {"blocks": nn.ModuleList(block() for _ in range(config["n_layers"]))})


def build(kind: str, config: Config) -> tuple[Denoiser, int, int]:
    """The model of a run on the ``meta`` device, its number of layers, and how many numbers a token an MLP keeps for
    the way back: its width, three times that where it is gated.
    """
    with torch.device("meta"):
        scratch = kind == "mdm" and not config.model
        if scratch or (config.model not in KNOWN and is_ours(config.model)):
            described = {} if scratch else read(config.model)["backbone"]
            try:
                size = shape(config) if scratch else BackboneConfig(**described)
            except TypeError as error:
                raise CheckpointError(f"{config.model}/config.json: not a PRISM model's config ({error}).") from error
            return PrismModel(size, config.task), size.num_layers, 4 * size.hidden_size
        described = KNOWN.get(config.model) or read_config(config.model)
        if described.get("model_type") == "llada":
            host = llada(described)
            symbols, width = host["wte"].weight.shape
            made = Skeleton(host, symbols, width, described["max_sequence_length"])
            return made, len(host["blocks"]), 3 * host["blocks"][0]["ff_proj"].out_features
        from transformers import AutoConfig, AutoModel

        try:
            found = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
            host = AutoModel.from_config(found, trust_remote_code=config.trust_remote_code)
            made = Skeleton(host, found.vocab_size, found.hidden_size, found.max_position_embeddings)
            return made, found.num_hidden_layers, 3 * getattr(found, "intermediate_size", 4 * found.hidden_size)
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{config.model!r}: its config does not say how large it is ({error}).") from error


def read(name: str) -> dict[str, Any]:
    """config.json of a model of ours."""
    return read_config(str(ASSETS / name) if name in embedded() else name)


def _there(data: str) -> None:
    """DataError where a name is no file or folder and cannot be that of a data set of the hub either."""
    hub = re.fullmatch(r"[\w-]+(/[\w.-]+)?", data) and not Path(data).suffix
    if data and not hub and not Path(data).exists():
        raise DataError(f"data {data!r} is not there: name a file, a folder, or a data set of the hub (user/name).")


def plan(kind: str, config: Config) -> Plan:
    """Count what a run needs. Raises ConfigError and CheckpointError as the run itself would."""
    if kind == "quality" and not config.model:
        raise ConfigError(f"model is not set: name a folder, a hub id, or one of {', '.join(KNOWN)}.")
    _there(config.data.name)
    train, quality = config.train, config.quality
    model, layers, mlp = build(kind, config)
    ours = isinstance(model, PrismModel)
    unread(kind, replace(config, data=DataConfig()), ours)  # of texts it needs the length alone, and none need be there
    tune = tuned(config, ours) if config.model else "full"
    if config.model:
        with torch.device("meta"):
            (prepare if kind == "quality" else free)(model, tune, config)
    half = bool(train.bf16) and tune != "full" and not ours  # frozen weights of a host, see train
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    length = min(config.data.length or model.max_length, model.max_length)
    texts = train.batch_size // train.accumulate
    size = 2 if train.bf16 else 4

    cavity = kind == "quality" and quality.objective == "cavity"
    n, k = quality.fills_per_text, min(quality.k, length)
    passes = 1 + n if kind == "quality" else 1 + bool(config.corrector.weight)
    learns = tune != "head"
    layers_of = {name: m for name, m in network(model).named_modules() if isinstance(m, nn.Linear)}
    wide = [name for name, m in layers_of.items() if m.out_features == model.vocab_size]
    last = min(wide, key=lambda name: name.count("."), default="")  # the output layer is in no block
    linear = [m for name, m in layers_of.items() if name != last and not ONCE.search(name)]
    held = sum(m.weight.numel() for m in linear if not m.weight.requires_grad)
    moved = sum(m.weight.numel() for m in linear if m.weight.requires_grad)
    attention = 4 * length * model.hidden_size * layers
    head = 0 if model.head is None else sum(p.numel() for p in model.head.parameters())
    rows = 0.5 * length if learns else n * k  # masked positions of a text: t is uniform
    symbol = 2 * model.hidden_size * model.vocab_size
    forward = 2 * (held + moved) + attention
    flops = length * passes * forward + rows * symbol + n * length * 2 * head * (kind == "quality")
    if learns:  # to the inputs of every layer, to the weights of those that are trained
        flops += length * passes * (forward + attention + 2 * moved) + rows * symbol * (2 if tune == "full" else 1)
    flops += n * length * 4 * head * (kind == "quality")

    # Kept for the way back: of a layer its two norms' inputs, queries, keys, values, what they mix to, and what its MLP
    # keeps; the inputs of layers that are trained; the last state.
    per_layer = 6 * model.hidden_size + mlp
    inputs = sum(m.in_features for m in linear if m.weight.requires_grad)
    states = layers * per_layer + inputs + model.hidden_size if learns else model.hidden_size
    logits = texts * rows * model.vocab_size * (2 * size + 8 if learns else size)
    kept = texts * length * passes * states * size
    if cavity:  # states are made by passes without gradients, held, and judged by a head that the output layer reads
        texts, rows = PER_RUN * -(-texts // PER_RUN), 0.5 * length
        steps = sum(run_steps(length, fills) for fills in FILLS) / len(FILLS)
        made = (steps / PER_RUN + quality.groups + 1) / quality.reuse
        layers, heads = max(1, model.head.config.num_layers), max(1, model.head.config.num_heads)
        flops = made * length * forward + rows * symbol * (1 / quality.reuse + 2)
        flops += 6 * length * (head + layers * 2 * length * model.hidden_size)
        flops *= texts * train.accumulate / train.batch_size
        logits = texts * rows * model.vocab_size * (size + 8)
        kept = texts * length * (layers * (10 * model.hidden_size + 4 * model.hidden_size) * size)
        kept += texts * length * length * layers * heads * (size + 8)
        kept += min(KEPT, train.steps // quality.reuse + 1) * texts * length * model.hidden_size * size
    return Plan(
        config.model or config.task or "sudoku", tune, bool(train.bf16), length, texts, train.steps, train.batch_size,
        frozen + trained, trained, frozen * (2 if half else 4) + 4 * trained, 4 * trained, 8 * trained, 4 * trained,
        int(kept), int(logits), train.batch_size * flops,
    )  # fmt: skip


def table(plan: Plan) -> Table:
    """A plan for people."""
    made = Table(title=f"{plan.name}, {plan.tune} tuning: what the run needs", title_justify="left", title_style="bold")
    for name in ("what", "amount", "how"):
        made.add_column(name, justify="right" if name == "amount" else "left", no_wrap=name != "how")
    kind = "bf16" if plan.half else "f32"
    made.add_row("parameters", f"{plan.parameters:,}", "the head included")
    made.add_row("trained", f"{plan.trained:,}", f"{100 * plan.trained / plan.parameters:.2f}%")
    made.add_section()
    made.add_row("weights", _bytes(plan.weights), f"{plan.weights / plan.parameters:.1f} bytes each on average")
    made.add_row("gradients", _bytes(plan.gradients), "f32, of what is trained")
    made.add_row("optimizer", _bytes(plan.optimizer), "AdamW: two f32 numbers each")
    made.add_row("averaged weights", _bytes(plan.average), "EMA, f32")
    at_once = f"{plan.texts} x {plan.length} tokens at once, {kind}"
    made.add_row("activations", _bytes(plan.activations), f"estimate: {at_once}, all kept, fused attention")
    made.add_row("logits", _bytes(plan.logits), "estimate: masked positions only, half of all")
    fits = "fits" if plan.memory <= MEMORY else "does not fit: raise train.accumulate, or set train.bf16=true"
    made.add_row("memory", _bytes(plan.memory), f"one GPU of {MEMORY / 1e9:.0f} GB: {fits}", style="bold")
    made.add_section()
    made.add_row("FLOPs a step", f"{plan.flops:.3g}", f"{plan.batch_size} texts of {plan.length} tokens")
    made.add_row("FLOPs in all", f"{plan.steps * plan.flops:.3g}", f"{plan.steps:,} steps")
    for name, peaks in GPUS.items():
        peak = peaks[0 if plan.half else 1] / 1e12
        how = f"estimate: one GPU at {100 * UTILISATION:.0f}% of {peak:g} TFLOP/s ({kind} peak)"
        made.add_row(f"days on {name}", f"{plan.days(name):.2g}", how)
    return made


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e7 else f"{count / 1e6:,.3f} MB"
